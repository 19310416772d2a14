"""Brows and mouth of the animated style: clean shapes in the person's own colours, drawn from a dense mesh.

Lengths are in 1/256 of the side of the crop; colours are Oklab.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from .filters import blur, guided_filter, mix, smoothstep
from .geometry import BROW_BOTTOM, BROW_TOP, LIPS_INNER, LIPS_OUTER, grid, polygon
from .pen import UNIT


@dataclass(frozen=True)
class Brow:
    """A brow of the photo: a ribbon along its middle line.

    Attributes:
        middle: ``[k, 2]`` positions from the outer end to the inner one.
        half: ``[k]`` half its width.
        colour: Oklab ``[3]``.
        darkness: 0 (nothing darker than the skin) to 1 (a full brow).
        visibility: the same, lowered to 0 where hair or a cap hides the brow.
    """

    middle: np.ndarray
    half: np.ndarray
    colour: np.ndarray
    darkness: float
    visibility: float


def measure_brow(lab: np.ndarray, points: np.ndarray, side: int) -> Brow:
    """Measure a brow across its length: where it is darkest, how wide and how dark.

    Args:
        lab: ``[n, n, 3]``.
        points: ``[478, 2]``.
        side: 0 for the image-left one.
    """
    n = lab.shape[0]
    top = points[list(BROW_TOP[side])].astype(np.float64)
    bottom = points[list(BROW_BOTTOM[side])].astype(np.float64)
    knots, steps = np.linspace(0, 1, 5), np.linspace(0, 1, 25)
    middle = PchipInterpolator(knots, (top + bottom) / 2)(steps)
    half = PchipInterpolator(knots, np.hypot(*(top - bottom).T) / 2)(steps)
    across = _across(middle)
    reach = np.linspace(-9, 9, 37)
    where = middle[:, None] + reach[None, :, None] * across[:, None]  # [25, 37, 2], from above to below
    index = np.clip((where * n / UNIT).astype(int), 0, n - 1)
    low, high = index.min((0, 1)), index.max((0, 1)) + 1
    calm = blur(lab[low[1] : high[1], low[0] : high[0]], 0.45 * n / UNIT)
    profile = calm[index[..., 1] - low[1], index[..., 0] - low[0]]
    light = profile[..., 0]
    beside = np.percentile(light[:, :31], 85, axis=1)  # the skin around it
    dark = np.maximum(0, beside[:, None] - light - 0.03)
    dark *= np.exp(-((reach[None] / 5.5) ** 2))  # weight by distance from the mesh's brow: lids and rims lie below
    total = dark.sum(1)
    shift = (dark * reach).sum(1) / (total + 0.05)
    spread = np.sqrt((dark * (reach[None] - shift[:, None]) ** 2).sum(1) / (total + 1e-6))
    shift = _calm(shift)
    width = _calm(np.clip(1.3 * spread, 1.3, 3.6))
    centre = np.abs(reach[None] - shift[:, None]) < 1.3
    depth = (dark * centre).sum(1) / centre.sum(1)
    strength = float(smoothstep(np.median(depth), 0.012, 0.075))
    # Hair hanging over the brow, or a cap drawn down, leaves no gap of skin above it.
    gap = beside - np.percentile(light[:, :13], 85, axis=1)
    visibility = strength * float(1 - smoothstep(np.median(gap / (depth + 0.02)), 0.5, 0.9))
    body = profile[4:21][centre[4:21]]
    colour = body[body[:, 0] <= np.percentile(body[:, 0], 70)].mean(0)
    visibility *= float(smoothstep(colour[2], -0.015, -0.005))  # no hair is blue, but a hat may be
    half = 0.8 * width + 0.2 * np.clip(half, 1.5, 4)
    return Brow(middle + shift[:, None] * across, half, colour, strength, visibility)


def measure_brows(lab: np.ndarray, points: np.ndarray) -> list[Brow]:
    """The left and the right brow. One that is dark but hardly stands out takes its visibility from the other."""
    one, two = (measure_brow(lab, points, side) for side in range(2))
    brows = []
    for own, other in ((one, two), (two, one)):
        if own.visibility < 0.6 * other.visibility:
            visibility = 0.85 * other.visibility * float(smoothstep(own.darkness, 0.02, 0.3))
            colour = own.colour if own.colour[0] < other.colour[0] else other.colour
            own = replace(
                own, visibility=max(own.visibility, visibility), colour=colour, half=(own.half + other.half) / 2
            )
        brows.append(own)
    return brows


def _across(middle: np.ndarray) -> np.ndarray:
    """Unit normals ``[k, 2]`` of a line, pointing down."""
    tangent = np.gradient(middle, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    across = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    return -across if across[len(across) // 2, 1] < 0 else across


def _calm(x: np.ndarray) -> np.ndarray:
    """The cubic fitted to noisy measurements ``[k]`` by least squares, ``[k]``."""
    t = np.linspace(-1, 1, len(x))
    return np.polynomial.polynomial.polyval(t, np.polynomial.polynomial.polyfit(t, x, 3))


def brow_ribbon(brow: Brow, n: int, grow: float = 0.0) -> np.ndarray:
    """The shape of a brow ``[n, n]``: full at the inner end, tapering to the outer one; ``grow`` widens it."""
    t = np.linspace(0, 1, len(brow.half))
    taper = smoothstep(t, -0.12, 0.42) * (0.6 + 0.4 * (1 - smoothstep(t, 0.85, 1.02)))
    half = brow.half * taper + grow
    across = _across(brow.middle) * half[:, None]
    return polygon(np.concatenate([brow.middle + across, (brow.middle - across)[::-1]])[::2], n, 0.35 + 0.3 * grow)


def draw_brow(picture: np.ndarray, brow: Brow) -> None:
    """Draw a brow as a soft solid, a little lighter on top, in place."""
    if brow.visibility < 0.05:
        return
    n = picture.shape[0]
    low = np.clip(((brow.middle.min(0) - 8) * n / UNIT).astype(int), 0, n - 2)
    high = np.clip(((brow.middle.max(0) + 8) * n / UNIT).astype(int), low + 2, n)
    window = slice(low[1], high[1]), slice(low[0], high[0])
    shape = brow_ribbon(brow, n)[window]
    x, y = grid(n)
    x, y = x[:, window[1]], y[window[0]]
    order = np.argsort(brow.middle[:, 0])
    line = np.interp(x[0], brow.middle[order, 0], brow.middle[order, 1])[None, :]
    half = np.interp(x[0], brow.middle[order, 0], brow.half[order])[None, :]
    lift = np.clip((line - y) / half, -1, 1)
    out = picture[window]
    paint = np.empty_like(out)
    paint[..., 0] = brow.colour[0] - 0.015 + 0.04 * lift
    paint[..., 1:] = brow.colour[1:] * 1.1
    out += (0.94 * brow.visibility * shape)[..., None] * (paint - out)


def draw_mouth(picture: np.ndarray, source: np.ndarray, points: np.ndarray, skin: np.ndarray) -> None:
    """Lips as soft, well-defined volumes; teeth as one clean band, in place.

    Args:
        picture: ``[n, n, 3]``, with smooth skin where the mouth is.
        source: the photo after the same warp, ``[n, n, 3]``.
        points: ``[478, 2]`` in the picture.
        skin: Oklab of the face ``[3]``.
    """
    n = picture.shape[0]
    s = n / UNIT
    outer, inner = points[list(LIPS_OUTER)], points[list(LIPS_INNER)]
    low = np.clip(((outer.min(0) - 10) * s).astype(int), 0, n - 2)
    high = np.clip(((outer.max(0) + 10) * s).astype(int), low + 2, n)
    window = slice(low[1], high[1]), slice(low[0], high[0])
    whole = polygon(outer, n, 0.55)[window]
    gap = polygon(inner, n, 0.45)[window] * whole
    lips = np.clip(whole - gap, 0, 1)
    photo = source[window]
    out = picture[window]
    x, y = grid(n)
    x, y = x[:, window[1]], y[window[0]]

    core = lips * (blur(lips, 1.0 * s) > 0.55)
    weight = core + 1e-4
    tone = blur(photo * weight[..., None], 2.6 * s) / (blur(weight, 2.6 * s)[..., None] + 1e-6)
    mean = (photo * weight[..., None]).sum((0, 1)) / weight.sum()
    paint = tone + 0.35 * (mean - tone)
    # Lips should be redder than the skin by 0.02 on the green-red axis, but are changed by 0.012 at most.
    redder = np.clip(skin[1] + 0.020 - paint[..., 1], 0, 0.012)
    paint[..., 1] += redder
    paint[..., 2] += 0.3 * (skin[2] * 0.75 - paint[..., 2])
    part = (inner[3:8, 1].mean() + inner[13:18, 1].mean()) / 2
    mid_x = outer[:, 0].mean()
    half = max(float(np.ptp(outer[:, 0])) / 2, 4.0)
    bottom = outer[13:18, 1].mean()
    curve = np.interp(x[0], outer[[0, 10], 0], outer[[0, 10], 1])[None, :]
    bow = (part - outer[[0, 10], 1].mean()) * (1 - ((x - mid_x) / half) ** 2).clip(0) + curve
    upper_part = smoothstep(bow - y, -0.8, 0.8)
    paint[..., 0] -= 0.045 * upper_part  # the upper lip faces down, so it is darker
    # The lower lip catches the light.
    shine_y = (inner[13:18, 1].mean() + bottom) / 2 - 0.3
    thick = max((bottom - inner[13:18, 1].mean()) / 2, 0.8)
    shine = np.exp(-(((x - mid_x) / (0.42 * half)) ** 2) - ((y - shine_y) / (0.55 * thick)) ** 2)
    paint[..., 0] += 0.060 * shine * (1 - upper_part)
    out += lips[..., None] * (paint - out)

    # Between the lips: teeth as one clean shape, dark beside them.
    opening = float(np.ptp(inner[:, 1])) / max(float(np.ptp(inner[:, 0])), 1)
    height = float((inner[13:18, 1] - inner[7:2:-1, 1]).mean())
    if height > 1.2:
        grey = blur(photo[..., 0], 0.5 * s)
        inside = guided_filter(grey, photo, 3.0 * s, 2.5e-3)
        teeth = smoothstep(inside[..., 0], skin[0] - 0.10, skin[0] + 0.06) * (
            1 - smoothstep(np.abs(inside[..., 1] - 0.0), 0.03, 0.06)
        )
        w = teeth * gap + 1e-4
        flat = blur(inside[..., 0] * w, 3.5 * s) / (blur(w, 3.5 * s) + 1e-6)
        inside[..., 0] += teeth * (0.8 * (flat - inside[..., 0]) + 0.035)
        inside[..., 1] *= 1 - 0.5 * teeth
        inside[..., 2] += teeth * (0.55 * (0.012 - inside[..., 2]))
        inside[..., 0] -= 0.10 * np.exp(-np.maximum(gap * 4 - 1.6, 0)) * gap
        out += (gap * smoothstep(height, 1.2, 2.2))[..., None] * (inside - out)
    # The line where lips meet, dark and soft, thickest in the middle.
    if opening < 0.14:
        upper = _edge(inner[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], x[0])
        lower = _edge(inner[[0, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10]], x[0])
        seam = ((upper + lower) / 2)[None, :]
        ends = np.clip(1 - ((x - inner[[0, 10], 0].mean()) / (np.ptp(inner[[0, 10], 0]) / 2 + 0.5)) ** 2, 0, 1) ** 0.5
        stroke = np.exp(-(((y - seam) / (0.35 + 0.55 * ends)) ** 2)) * smoothstep(ends, 0, 0.4)
        fade = 1 - smoothstep(height, 1.2, 2.4)
        out += (0.62 * fade * stroke)[..., None] * (mix(out, np.zeros_like(out), np.full_like(stroke, 0.55)) - out)


def _edge(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    order = np.argsort(points[:, 0])
    return np.interp(x, points[order, 0], points[order, 1])

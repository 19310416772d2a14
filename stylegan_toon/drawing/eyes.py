"""Eyes of the animated style: lids, whites, irises and catchlights in the person's own colours.

Lengths are in 1/256 of the side of the crop; colours are Oklab.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from .filters import blur, smoothstep
from .geometry import CREASE, IRIS, LOWER_LID, UPPER_LID, grid
from .pen import UNIT


@dataclass(frozen=True)
class Eye:
    """Measurements of one eye of the photo.

    Attributes:
        side: 0 for the image-left eye, 1 for the other.
        visibility: 1 if the eye is visible, 0 if it is covered by dark glasses, a patch or hair.
        openness: height over width between the lids.
        iris: Oklab ``[3]``.
        white: lightness of the white, 0 to 1.
        crease: strength of the fold above the lid, 0 to 1.
        lash: how dark the rim of the upper lid is, 0 to 1.
    """

    side: int
    visibility: float
    openness: float
    iris: np.ndarray
    white: float
    crease: float
    lash: float


class _Lids:
    """Coordinates of one eye: u runs from the outer corner (0) to the inner one (1), v downwards, in 1/256."""

    def __init__(self, points: np.ndarray, side: int, wider: float = 1.0) -> None:
        upper, lower = points[list(UPPER_LID[side])], points[list(LOWER_LID[side])]
        self.origin = upper[0].astype(np.float64)
        axis = upper[-1] - upper[0]
        self.width = max(float(np.hypot(*axis)), 4.0)
        self.along = axis / self.width
        # v points down the picture on either side.
        self.down = np.array([-self.along[1], self.along[0]])
        if self.down[1] < 0:
            self.down = -self.down
        self.upper, self.lower = self._curve(upper, wider), self._curve(lower, wider)
        middle = np.linspace(0.2, 0.8, 9)
        self.height = max(float((self.lower(middle) - self.upper(middle)).max()), 0.1)

    def coordinates(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = x - self.origin[0], y - self.origin[1]
        return (dx * self.along[0] + dy * self.along[1]) / self.width, dx * self.down[0] + dy * self.down[1]

    def _curve(self, points: np.ndarray, wider: float) -> PchipInterpolator:
        """v of a lid as a smooth function of u; flat beyond the corners."""
        u, v = self.coordinates(points[:, 0], points[:, 1])
        u[0], u[-1], v[0], v[-1] = 0, 1, 0, 0
        u = np.maximum.accumulate(u) + 1e-4 * np.arange(
            len(u)
        )  # u must increase, but in a turned head points at the corner can swap
        coarse = PchipInterpolator(u / u[-1], v)
        # Smoothed once more: at 1024 px the knots of the first curve are visible.
        knots = np.linspace(0, 1, 25)
        value = coarse(knots) * wider
        for _ in range(3):
            value[1:-1] = (value[:-2] + 2 * value[1:-1] + value[2:]) / 4
        return PchipInterpolator(knots, value)


def measure_eye(lab: np.ndarray, points: np.ndarray, side: int, skin: np.ndarray) -> Eye:
    """Measure one eye of the photo: whether it is visible, how far it is open, and its colours.

    Args:
        lab: Oklab ``[n, n, 3]``.
        points: ``[478, 2]``.
        side: 0 for the image-left eye.
        skin: the colour of the face ``[3]``.
    """
    lids = _Lids(points, side)
    n = lab.shape[0]
    x, y = grid(n)
    centre = points[list(UPPER_LID[side] + LOWER_LID[side])].mean(0)
    window = _window(centre, 1.4 * lids.width, n)
    lab, x, y = lab[window], x[:, window[1]], y[window[0]]
    light = lab[..., 0]
    u, v = lids.coordinates(x, y)
    on = np.clip(u, 0, 1)
    up, low = lids.upper(on), lids.lower(on)
    within = (u > 0.04) & (u < 0.96) & (v > up) & (v < low)
    openness = lids.height / lids.width

    spots = points[list(IRIS[side])]
    middle, radius = spots[0], max(float(np.hypot(*(spots[1:] - spots[0]).T).mean()), 3.0)
    rho = np.hypot(x - middle[0], y - middle[1]) / radius
    disc = within & (rho < 0.85) & (v > up + 0.15 * lids.height)
    pale = within & (rho > 1.1)
    # An eye is visible if its iris is darker than its white and the area below it has the lightness of skin.
    contrast = 0.0
    if disc.sum() > 4 and pale.sum() > 4:
        contrast = float(np.percentile(light[pale], 75) - np.percentile(light[disc], 35))
    under = (u > 0.15) & (u < 0.85) & (v > low + 2.5) & (v < low + 7.5)
    # Behind a dark lens the skin under the eye is dark as well.
    below = np.median(lab[under], 0) if under.any() else skin
    like_skin = float(smoothstep(below[0], 0.40 * skin[0], 0.50 * skin[0]))
    visibility = float(smoothstep(contrast, 0.025, 0.07)) * like_skin
    if openness < 0.12:  # nearly closed: no white to compare with; lashes may be drawn all the same
        visibility = like_skin

    iris = np.array([0.36, 0.02, 0.03], np.float32)
    ring = disc & (rho > 0.45)
    if ring.sum() > 4:
        picked = lab[ring]
        level = picked[:, 0]
        low_level, high_level = np.percentile(level, [20, 80])
        picked = picked[(level >= low_level) & (level <= high_level)]
        # Lashes and reflections of skin are warm, so the less yellow pixels show the colour of a light iris.
        iris = picked[picked[:, 2] <= np.percentile(picked[:, 2], 60)].mean(0)
    white = float(np.percentile(light[pale], 80)) if pale.sum() > 4 else 0.8
    fold = points[list(CREASE[side])]
    fu, fv = lids.coordinates(fold[:, 0], fold[:, 1])
    at = np.interp(u, fu, fv) if fu[0] < fu[-1] else up - 0.4 * lids.height
    smooth = blur(light, 0.5 * n / UNIT) - blur(light, 2.2 * n / UNIT)
    line = (u > 0.2) & (u < 0.8) & (v > at - 3) & (v < np.minimum(at + 2.0, up - 1.6))
    crease = float(smoothstep(-np.percentile(smooth[line], 15), 0.004, 0.03)) if line.sum() > 4 else 0.0
    rim = (u > 0.15) & (u < 0.85) & (np.abs(v - up) < 1.5)
    dark = float(skin[0] - np.median(light[rim])) if rim.any() else 0.2
    return Eye(side, visibility, openness, iris, white, crease, float(smoothstep(dark, 0.05, 0.35)))


def _window(centre: np.ndarray, half: float, n: int) -> tuple[slice, slice]:
    low = np.clip(np.floor((centre - half) * n / UNIT), 0, n - 2).astype(int)
    high = np.clip(np.ceil((centre + half) * n / UNIT), low + 2, n).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def draw_eye(picture: np.ndarray, points: np.ndarray, eye: Eye, light_x: float) -> None:
    """Draw one eye over smooth skin, in place.

    Args:
        picture: ``[n, n, 3]``.
        points: ``[478, 2]`` in the picture (after the warp).
        eye: what the photo shows.
        light_x: where the light comes from, -1 (left) to 1 (right).
    """
    if eye.visibility < 0.05:
        return
    n = picture.shape[0]
    side = eye.side
    # Narrow eyes open a little, closed ones stay closed.
    wider = 1 + 0.28 * float(smoothstep(eye.openness, 0.09, 0.15) * (1 - smoothstep(eye.openness, 0.16, 0.30)))
    lids = _Lids(points, side, wider)
    centre = points[list(UPPER_LID[side] + LOWER_LID[side])].mean(0)
    window = _window(centre, 1.3 * lids.width, n)
    px = UNIT / n
    soft = max(px, 0.5)
    x, y = grid(n)
    x, y = x[:, window[1]], y[window[0]]
    u, v = lids.coordinates(x, y)
    on = np.clip(u, 0, 1)
    height = lids.height
    up, low = lids.upper(on), lids.lower(on)
    out = picture[window].copy()
    under = out.copy()

    def over(colour: tuple | np.ndarray, alpha: np.ndarray) -> None:
        out[...] += alpha[..., None] * (np.asarray(colour, np.float32) - out)

    skin = out.reshape(-1, 3).mean(0)
    ends = smoothstep(u, -0.01, 0.04) * (1 - smoothstep(u, 0.96, 1.01))
    opening = smoothstep(v - up, -soft, soft) * smoothstep(low - v, -soft, soft) * ends
    below_lid = np.maximum(v - up, 0)

    # The iris is enlarged by a fifth, within limits relative to the width of the eye.
    spots = points[list(IRIS[side])]
    middle = spots[0].astype(np.float64)
    radius = float(np.hypot(*(spots[1:] - spots[0]).T).mean()) * 1.2
    radius = float(np.clip(radius, 0.19 * lids.width, 0.295 * lids.width))
    mu, mv = (float(c) for c in lids.coordinates(middle[0], middle[1]))

    if eye.openness > 0.10:
        # The white is a sphere, so it darkens towards the corners; the upper lid casts a soft shadow on it.
        level = float(np.clip(0.45 * eye.white + 0.55 * (0.80 + 0.22 * (skin[0] - 0.5)), 0.66, 0.93))
        white = np.empty_like(out)
        round_off = ((u - 0.5) / 0.5) ** 2
        white[..., 0] = level - 0.13 * round_off - 0.17 * np.exp(-below_lid / (0.22 * height + 0.6))
        white[..., 0] -= 0.05 * np.exp(-np.maximum(low - v, 0) / 1.0)
        white[..., 1] = 0.004 + 0.010 * round_off
        white[..., 2] = 0.004 + 0.008 * round_off
        inner = np.exp(-(((u - 0.985) / 0.05) ** 2) - ((v - lids.lower(0.95)) / (0.16 * height + 0.8)) ** 2)
        white += (0.75 * inner)[..., None] * (skin + np.array([0.0, 0.035, 0.005], np.float32) - white)
        out += opening[..., None] * (white - out)

        dx, dy = x - middle[0], y - middle[1]
        rho = np.hypot(dx, dy) / radius
        disc = (1 - smoothstep(rho, 1 - 1.0 * soft / radius, 1 + 0.6 * soft / radius)) * opening
        iris = np.empty_like(out)
        base_light, base_a, base_b = _iris_colour(eye.iris)
        below = smoothstep((dy + 0.25 * dx * light_x) / radius, -0.6, 0.95)
        rays = 0.5 + 0.5 * np.sin(np.arctan2(dy, dx) * 23 + 3 * np.sin(np.arctan2(dy, dx) * 5))
        glow = below * smoothstep(rho, 0.25, 0.75)
        iris[..., 0] = base_light - 0.07 + 0.20 * glow + 0.018 * (rays - 0.5) * smoothstep(rho, 0.4, 0.7)
        iris[..., 1] = base_a * (0.85 + 0.55 * glow)
        iris[..., 2] = base_b * (0.85 + 0.75 * glow)
        ring = smoothstep(rho, 0.72, 1.0)
        iris *= (1 - 0.62 * ring)[..., None]
        pupil = 1 - smoothstep(rho, 0.42 - 0.8 * soft / radius, 0.42 + 0.8 * soft / radius)
        iris += pupil[..., None] * (np.array([0.13, 0.004, 0.004], np.float32) - iris)
        iris[..., 0] *= 1 - 0.55 * np.exp(-below_lid / (0.30 * radius + 0.3))
        out += disc[..., None] * (iris - out)

        # Catchlights: a large one above on the side of the light, a small one below on the other side.
        towards = 1.0 if light_x > 0.15 else -1.0
        spark_v = max(mv - 0.40 * radius, float(lids.upper(np.clip(mu, 0, 1))) + 0.36 * radius)
        visible = opening * smoothstep(low - v, 0, 0.3 * radius)

        def spark(at_u: float, at_v: float, size: float) -> np.ndarray:
            distance = np.hypot((u - at_u) * lids.width, v - at_v)
            return (1 - smoothstep(distance, size - 0.7 * soft, size + 0.7 * soft)) * visible

        # u grows towards the nose: on the image-right eye that is to the left.
        across = towards * (1 if lids.along[0] > 0 else -1)
        over((0.985, 0, 0.002), 0.97 * spark(mu + across * 0.34 * radius / lids.width, spark_v, 0.235 * radius))
        over((0.93, 0, 0), 0.55 * spark(mu - across * 0.38 * radius / lids.width, mv + 0.36 * radius, 0.11 * radius))

    # Lower lid: a moist bright rim within, a thin soft shadow under it.
    middle_part = np.sin(np.pi * np.clip(u, 0, 1)) ** 0.7 * ends
    over(
        skin + np.array([0.05, 0.012, 0.004], np.float32),
        0.40 * np.exp(-(((v - low - 0.35) / 0.55) ** 2)) * middle_part,
    )
    rim = np.exp(-(((v - low - 1.2) / 0.75) ** 2)) * middle_part * (1 - 0.5 * on)
    over(skin * (0.62, 1, 1), 0.30 * rim)

    # Upper lid: a tapering dark rim that extends beyond the outer corner, as lashes do from the front.
    dark = (0.17, 0.012, 0.012) if skin[0] < 0.8 else (0.20, 0.016, 0.016)
    wing = np.clip(u, -0.07, 1)
    bend = up - np.where(u < 0, (-wing) * 0.35 * lids.width, 0)
    thick = (0.62 + 0.55 * eye.lash) * lids.width / 36
    taper = smoothstep(u, -0.07, 0.20) * (1 - 0.75 * smoothstep(u, 0.45, 1.0)) * (u < 1.0)
    top = bend - 1.45 * thick * taper
    line = smoothstep(v - top, -soft, soft) * smoothstep(bend + 0.7 * thick * taper - v, -soft, soft)
    line = line * smoothstep(taper, 0.0, 0.35)
    over(dark, 0.92 * line)

    # The fold above it, and the soft shade of the socket between the two.
    fold = points[list(CREASE[side])]
    fu, fv = lids.coordinates(fold[:, 0], fold[:, 1])
    if eye.crease > 0.05 and fu[0] < fu[-1]:
        at = np.minimum(np.interp(u, fu, fv), up - 2.0)
        span = smoothstep(u, 0.02, 0.3) * (1 - smoothstep(u, 0.72, 1.0))
        sharp = np.exp(-(((v - at) / 0.75) ** 2)) * (v < at) + np.exp(-(((v - at) / 1.5) ** 2)) * (v >= at)
        over(skin * (0.55, 1.0, 1.0) + (0, 0.012, 0.006), 0.42 * eye.crease * sharp * span)
    if eye.visibility < 1:
        out = under + eye.visibility * (out - under)
    picture[window] = out


def _iris_colour(iris: np.ndarray) -> tuple[float, float, float]:
    """A lighter and more colourful version of an iris, Oklab ``[3]``; dark irises become warm brown."""
    light, a, b = (float(c) for c in iris)
    chroma = float(np.hypot(a, b))
    # Of dark irises the photo shows mostly reflections. Blue and grey irises have a low a + b even in shade.
    warm = max(float(smoothstep(a + b, 0.004, 0.024)), float(smoothstep(-light, -0.37, -0.29)))
    brown = float(smoothstep(-light, -0.52, -0.36)) * warm
    cold = (1 - float(smoothstep(a + b, -0.005, 0.015))) * (1 - brown)
    a, b = a - 0.005 * cold, b - 0.014 * cold
    a = a if b > 0.01 else min(a, 0.0) + brown * max(a, 0.0)  # no violet irises
    a, b = a + 0.6 * brown * (0.035 - a), b + 0.6 * brown * (0.045 - b)
    gain = min(1.7, 0.085 / max(chroma, 1e-3)) if chroma > 0.012 else 1.0
    gain = gain + brown * (1.25 - gain)
    return float(np.clip(light + 0.03 + 0.06 * cold, 0.34, 0.66)), a * gain, b * gain

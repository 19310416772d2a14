"""Skin for the animated style: light is modelled on the form of the face, and fine detail is smoothed away.

Lengths are in 1/256 of the side of the crop; colours are Oklab.
"""

from __future__ import annotations

import numpy as np

from .animated_regions import CHEEK_PATCHES, AnimatedRegions
from .colour import edge_guide
from .filters import blur, enlarge, fast_guided_filter, mix, reduce, resized, smoothstep, weighted_blur
from .geometry import CHEEKS, FINE, LOWER_LID, NOSE_TIP, OVAL, UPPER_LID, WINGS, Relief, grid, light_of, polygon
from .pen import UNIT


def render_skin(
    lab: np.ndarray, regions: AnimatedRegions, holes: np.ndarray, mesh: np.ndarray, form: Relief, tone: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Render smooth skin everywhere; eyes, brows and lips are filled in from around them and drawn over later.

    Args:
        lab: ``[n, n, 3]``.
        regions: of the picture.
        holes: ``[n, n]``, 1 where features lie that must not colour the skin around them.
        mesh: ``[478, 3]``.
        form: relief of the mesh.
        tone: colour of the face ``[3]``.

    Returns:
        The skin, and its change by the new lights, each Oklab ``[n, n, 3]``; and where the light comes from,
        -1 left to 1 right.
    """
    n = lab.shape[0]
    s = n / UNIT
    px = FINE / UNIT
    x, y = grid(n)
    points = mesh[:, :2]
    inside = form.inside
    oval_small = polygon(points[list(OVAL)], FINE, 1.0)
    weight = regions.skin * (1 - holes) ** 2
    small = reduce(np.concatenate([lab, weight[..., None]], -1), FINE)
    # The neck gets little weight, so that its shadow does not darken the chin.
    w = small[..., 3] * (0.02 + 0.98 * np.maximum(oval_small, inside))
    within = w * inside
    total = within.sum() + 1e-6

    fit = light_of(form.normal, small[..., 0], within + 1e-6)
    shade = form.normal @ fit[1:]
    shade = (shade - (shade * within).sum() / total) * inside
    light_x = float(np.clip(fit[1] / 0.12, -1, 1))
    rest = small[..., 0] - shade
    broad = weighted_blur(rest, w, 9 * px)
    mid = weighted_blur(rest, w, 3.5 * px) - broad
    light = broad + 0.75 * _cored(mid, 0.015) + 1.15 * shade

    # New lights: a soft key light from the side of the photo's light, darker hollows, and a specular highlight.
    key = np.array([0.45 if light_x > 0.15 else -0.45, -0.55, 0.75], np.float32)
    key /= np.linalg.norm(key)
    facing = form.normal @ key
    facing = (facing - (facing * within).sum() / total) * inside
    half = key + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    gloss = np.clip(form.normal @ half, 0, 1) ** 30 * blur(oval_small, 4 * px)
    light = light + 0.09 * facing - np.clip(0.012 * form.hollow, 0, 0.05) + 0.06 * gloss

    # Skin is more colourful in shade; the slope of colour over lightness is fitted to the photo.
    off = small[..., :3] - (small[..., :3] * within[..., None]).sum((0, 1)) / total
    near = within * np.exp(-((off[..., 0] / 0.15) ** 2))
    slope = (off[..., 1:] * (near * off[..., 0])[..., None]).sum((0, 1)) / ((near * off[..., 0] ** 2).sum() + 0.5)
    slope = np.clip(slope, -0.25, 0.1)
    colour = weighted_blur(small[..., 1:3] - slope * off[..., :1], w, 7 * px)
    colour += slope * (light - small[..., 0] + off[..., 0])[..., None]
    turn = np.clip((tone[0] + 0.02 - light) / 0.16, 0, 1)
    colour[..., 0] += (
        0.030 * turn * (1 - turn) * inside
    )  # redder where light turns to shade, as by subsurface scattering
    for index, out in zip(CHEEKS, (-2, 2)):
        colour[..., 0] += 0.011 * _spot(points[index] + (out, 1), 14, 10)
    colour[..., 0] += 0.008 * _spot(points[NOSE_TIP] + (0, 1), 9, 8)
    # The mean change of the cheeks is subtracted, so that skin keeps its colour.
    cheeks = sum(_spot(points[index], 10, 10) for index in CHEEK_PATCHES) * within
    made = np.concatenate([light[..., None], colour], -1)
    shift = ((made - small[..., :3]) * cheeks[..., None]).sum((0, 1)) / (cheeks.sum() + 1e-6)
    made -= np.clip(shift * (1, 0.9, 1), -0.05, 0.05)
    face = resized(made[..., :3], n)
    # The change of the skin, fading outwards; it is added to temples, ears and thin hair as well.
    support = blur(within, 5 * px)[..., None]
    drift = enlarge(blur((made - small[..., :3]) * within[..., None], 5 * px) / (support + 0.12), n)
    # Strong fine detail is kept around nostrils, lids and chin.
    fine = weighted_blur(lab[..., 0], weight, 1.3 * s) - weighted_blur(lab[..., 0], weight, 4 * s)
    base = points[2]
    keep = 0.15 + 0.25 * smoothstep(y, float(base[1]) + 4, float(base[1]) + 12)
    for side in range(2):
        lids = points[list(UPPER_LID[side] + LOWER_LID[side])].mean(0)
        keep = keep + 0.2 * np.exp(-(((x - lids[0]) / 18) ** 2) - ((y - lids[1]) / 10) ** 2)
    face[..., 0] += np.clip(keep, 0, 1) * _cored(fine, 0.018)
    # Nostrils and the wings of the nose are filtered with their edges kept.
    across = 0.62 * max(float(np.hypot(*(points[WINGS[0]] - points[WINGS[1]]))), 14.0)
    nose = np.exp(-(((x - base[0]) / across) ** 4) - ((y - base[1] + 3) / np.where(y > base[1] - 3, 5.5, 8.5)) ** 2)
    clean = blur(fast_guided_filter(lab[..., 0], lab[..., 0], 3 * s, 1.5e-3), 0.4 * s)
    form_of_nose = clean - weighted_blur(lab[..., 0], weight, 4 * s)
    face[..., 0] += nose * (1 - holes) * (0.9 * form_of_nose - np.clip(keep, 0, 1) * _cored(fine, 0.018))

    # Ears and neck are smoothed with their folds kept.
    guide = edge_guide(lab)
    other = fast_guided_filter(guide, lab, 4 * s, 1.5e-3) + drift
    oval = polygon(points[list(OVAL)], n, 0.7)
    below = smoothstep(y, float(points[[234, 454], 1].mean()), float(points[[58, 288], 1].mean()))
    above = 1 - smoothstep(y, float(points[[66, 296], 1].mean()), float(points[[33, 263], 1].mean()) + 4)
    # The jaw is a sharp edge; at the temples the face fades into its surroundings.
    wide = resized(np.maximum(inside, blur(oval_small, 3 * px)), n)
    whole = np.maximum(oval * below + wide * (1 - below), above)
    # The head casts a soft shadow on the neck.
    cast = blur(polygon(points[list(OVAL)] + (-3 * np.sign(key[0]), 7), FINE), 4 * px)
    cast = resized(cast, n).clip(0, 1) * below * (1 - oval)
    other[..., 0] -= 0.11 * cast
    other[..., 1] += 0.010 * cast
    return mix(other, face, np.clip(whole, 0, 1)), drift, light_x


def _cored(x: np.ndarray, size: float) -> np.ndarray:
    """x^3 / (x^2 + size^2): differences well below ``size`` are suppressed, larger ones kept."""
    return x * x * x / (x * x + size * size)


def _spot(centre: np.ndarray, a: float, b: float) -> np.ndarray:
    x, y = grid(FINE)
    return np.exp(-(((x - centre[0]) / a) ** 2) - ((y - centre[1]) / b) ** 2)

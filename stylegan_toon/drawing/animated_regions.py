"""Regions for the animated style: the person, skin, beard and rims of glasses, located with a dense mesh.

Meshes are ``[478, 3]``; lengths are in 1/256 of the side of the crop; colours are Oklab.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from .colour import edge_guide
from .filters import blur, derivative, fast_blur, fast_guided_filter, reduce, resized, smoothstep, weighted_blur
from .geometry import FINE, LIPS_OUTER, LOWER_LID, OVAL, UPPER_LID, Relief, grid, light_of, polygon
from .pen import UNIT
from .segmentation import WORK, connected, find_regions


@dataclass(frozen=True)
class AnimatedRegions:
    """Each ``[n, n]`` in [0, 1].

    Attributes:
        person: the person, with hair, hat and clothes.
        skin: bare skin.
        beard: hair on the lower face.
    """

    person: np.ndarray
    skin: np.ndarray
    beard: np.ndarray


CHEEK_PATCHES = (50, 280, 205, 425)


def skin_tone(lab: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """The colour of a face ``[3]``: the median over cheeks, forehead and the bridge of the nose."""
    n = lab.shape[0]
    patches = []
    for index in (*CHEEK_PATCHES, 151, 6, 117, 346):
        low = np.clip(((mesh[index, :2] - 6) * n / UNIT).astype(int), 0, n - 2)
        high = np.clip(((mesh[index, :2] + 6) * n / UNIT).astype(int), low + 1, n)
        patches.append(lab[low[1] : high[1], low[0] : high[0]].reshape(-1, 3))
    return np.median(np.concatenate(patches), 0).astype(np.float32)


def person_region(lab: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """The person ``[n, n]`` in [0, 1], as in `AnimatedRegions`, with edges refined by the picture."""
    person = find_regions(resized(lab, WORK, Image.Resampling.BOX), mesh[:, :2], 1.0).person
    n = lab.shape[0]
    if n == WORK:
        return person
    return smoothstep(fast_guided_filter(edge_guide(lab), resized(person, n), 2 * n / UNIT, 1e-4), 0.1, 0.9)


def animated_regions(
    lab: np.ndarray, mesh: np.ndarray, form: Relief, tone: np.ndarray, covered: float = 0.0
) -> AnimatedRegions:
    """Person, skin and beard of a photo.

    Args:
        lab: the photo, Oklab ``[n, n, 3]``.
        mesh: ``[478, 3]``.
        form: relief of the mesh.
        tone: colour of the face ``[3]``.
        covered: 1 if no brows are visible, so that hair may hang as low as the eyes.
    """
    n = lab.shape[0]
    s = n / UNIT
    points = mesh[:, :2]
    _, y = grid(n)
    light = lab[..., 0]
    person = person_region(lab, mesh)
    oval = resized(blur(polygon(points[list(OVAL)], FINE), 1.0), n)
    inside = resized(form.inside, n)

    # The expected lightness of skin at each pixel, from the light fitted to the normals.
    small = reduce(lab, FINE)
    off = small - tone
    likely = np.exp(-((off[..., 1:] ** 2).sum(-1) / 0.035**2 + (off[..., 0] / 0.2) ** 2) / 2) * form.inside
    likely = likely * (
        1 - 0.9 * smoothstep(grid(FINE)[1], points[2, 1] - 6, points[2, 1] + 6)
    )  # a beard must not enter the fit
    fit = light_of(form.normal, small[..., 0], likely + 1e-4)
    expected = tone[0] + form.inside * (fit[0] + form.normal @ fit[1:] - tone[0])
    expected = resized(np.clip(expected, tone[0] - 0.25, tone[0] + 0.2), n)
    brighter = light - expected

    off = lab - tone
    hue = (off[..., 1:] ** 2).sum(-1) / (0.032 + 0.014 * inside) ** 2
    dark = np.maximum(0, -brighter - 0.07 - 0.03 * inside) / (0.07 + 0.02 * inside)
    pale = np.maximum(0, brighter - 0.12 - 0.1 * inside) / 0.08
    skin = np.exp(-(hue + dark**2 + pale**2) / 2) * np.maximum(person, oval)
    skin = fast_guided_filter(edge_guide(lab), skin, 3 * s, 4e-4)
    skin = smoothstep(skin + 0.12 * inside, 0.3, 0.75)

    # Folds, nostrils and moles are thin or small: they do not interrupt skin. Hair and hats are larger.
    coarse = reduce(skin, FINE)
    closed = ndimage.grey_closing(coarse, footprint=_disc(4))
    brow_y = float(points[[66, 296, 105, 334], 1].mean())
    below_brows = smoothstep(y - brow_y - 10 * covered, -10, 0)
    skin = np.maximum(skin, resized(blur(closed, 0.7), n).clip(0, 1) * inside * below_brows)

    # Strands over the forehead may have the colour of skin. They run downwards, whereas wrinkles run across.
    upright, across = (fast_blur(np.abs(derivative(light, 0.8 * s, axis)) * s, 2.5 * s) for axis in (1, 0))
    textures = [
        smoothstep(upright, 0.012, 0.020),
        smoothstep(upright, 0.005, 0.009) * (upright > 1.6 * across),
        smoothstep(upright + across, 0.008, 0.016) * (1 - oval),  # beyond the mesh, above
    ]
    # The edge of the hair is steep as well, but narrow.
    textures = reduce(np.stack(textures, -1), FINE)
    opened = [ndimage.grey_opening(textures[..., k], footprint=_disc(radius)) for k, radius in enumerate((3, 4, 3))]
    fringe = smoothstep(resized(blur(np.maximum.reduce(opened), 1.2), n), 0.2, 0.7) * (1 - below_brows)
    skin = skin * (1 - fringe)

    beard = _beard(lab, mesh, brighter, tone, inside)
    core = polygon(points[[9, 107, 70, 116, 50, 205, 129, 98, 2, 327, 358, 425, 280, 345, 300, 336]], n, 2.0)
    skin = np.maximum(skin * (1 - beard), smoothstep(core, 0.3, 0.9) * below_brows * (1 - beard))
    return AnimatedRegions(person, skin, beard)


def _disc(radius: int) -> np.ndarray:
    at = np.arange(-radius, radius + 1)
    return np.hypot(at[:, None], at[None, :]) <= radius + 0.3


def _beard(lab: np.ndarray, mesh: np.ndarray, brighter: np.ndarray, tone: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Hair below the nose, ``[n, n]`` in [0, 1]: darker or rougher and greyer than skin, and wider than a fold."""
    n = lab.shape[0]
    s = n / UNIT
    points = mesh[:, :2]
    x, y = grid(n)
    light = lab[..., 0]
    anchors = points[[132, 2, 361]]
    line = np.interp(x[0], anchors[:, 0], anchors[:, 1] + (0, 2, 0))[None, :]
    low = smoothstep(y - line, -2, 4) * np.maximum(inside, smoothstep(y - points[152, 1], -12, 0))
    lips = points[list(LIPS_OUTER)]
    middle = lips.mean(0)
    mouth = polygon(middle + (lips - middle) * (1.06, 1.12), n, 0.8)
    grain = blur(np.abs(light - blur(light, 1.3 * s)), 2.2 * s)
    dark = smoothstep(blur(-brighter, 1.0 * s), 0.05, 0.13)
    grey = smoothstep(blur(np.hypot(*tone[1:]) - np.hypot(lab[..., 1], lab[..., 2]), 2 * s), 0.010, 0.030)
    rough = smoothstep(grain, 0.009, 0.02) * smoothstep(-brighter, -0.04, 0.03)
    deep = smoothstep(blur(-brighter, 1.0 * s), 0.12, 0.22)
    # Shadows are smooth, hair is not.
    dark, deep = (a * smoothstep(fast_blur(grain, 3 * s), 0.0045, 0.009) for a in (dark, deep))
    hairy = np.maximum(np.maximum(dark * (0.35 + 0.65 * grey), deep), rough * (0.25 + 0.75 * grey)) * low
    coarse = reduce(np.stack([hairy, mouth], -1), FINE)
    hairy = weighted_blur(coarse[..., 0], 1 - 0.98 * coarse[..., 1], 1.0)
    hairy = ndimage.grey_opening(hairy, footprint=_disc(3))
    return smoothstep(resized(blur(hairy, 1.6), n), 0.10, 0.48) * low * (1 - mouth)


def glasses_rims(lab: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Rims of glasses, ``[n, n]`` in [0, 1].

    They are thin dark or shiny shapes that cross the nose and run under both eyes.
    """
    light = lab[..., 0]
    n = light.shape[0]
    s = n / UNIT
    steep = np.abs(derivative(light, 1.0 * s, axis=0)) * s
    bridge = (points[168] + points[6]) / 2
    rows = slice(max(0, int((bridge[1] - 9) * s)), max(2, int((bridge[1] + 12) * s)))
    columns = slice(max(0, int((bridge[0] - 4) * s)), max(2, int((bridge[0] + 4) * s)))
    crossing = float(smoothstep(np.median(steep[rows, columns], 1).max(), 0.042, 0.058))
    # In a turned head the outline of the nose looks like the bridge of glasses, so none are reported then.
    reach = np.hypot(*(points[[33, 263]] - bridge).T)
    crossing *= float(smoothstep(reach.min() / reach.max(), 0.30, 0.42))
    if crossing == 0:
        return np.zeros_like(light)
    size = max(3, round(7 * s))
    hollow = ndimage.grey_closing(light, size=(size, size)) - light
    shine = light - ndimage.grey_opening(light, size=(size, size))
    thin = np.maximum(smoothstep(hollow, 0.035, 0.09), 0.7 * smoothstep(shine, 0.06, 0.15))
    x, y = grid(n)
    zone = np.zeros_like(light)
    under = []
    for upper, lower in zip(UPPER_LID, LOWER_LID):
        lids = points[[*upper, *lower[-2:0:-1]]]
        centre = lids.mean(0)
        radius = np.hypot((x - centre[0]) / 34, (y - centre[1] - 4) / 24)
        eye = polygon(centre + (lids - centre) * (1.25, 1.7), n, 0.8)
        zone = np.maximum(zone, (1 - smoothstep(radius, 0.8, 1.1)) * (1 - eye))
        # Rays from the eye downwards: with glasses, nearly every ray crosses the rim.
        angle = np.linspace(0.15, 0.85, 15)[:, None] * np.pi
        length = np.linspace(0.0, 1.0, 40)[None, :]
        ray_x = centre[0] + np.cos(angle) * (8 + 17 * length)
        ray_y = centre[1] + np.sin(angle) * (8 + 15 * length)
        index = [np.clip((a * s).astype(int), 0, n - 1) for a in (ray_y, ray_x)]
        under.append(float(thin[index[0], index[1]].max(1).mean()))
    # Short pieces are bags under the eyes or wrinkles; only long ones are kept.
    coarse = reduce(thin * zone, UNIT)
    pieces, count = connected(coarse > 0.25, diagonally=True)
    long = [max(part.stop - part.start for part in box) > 15 for box in ndimage.find_objects(pieces)]
    kept = np.array([False, *long], bool)[pieces] if count else coarse > 2
    zone = zone * resized(ndimage.grey_dilation(kept.astype(np.float32), size=3), n).clip(0, 1)
    around = float(smoothstep(min(under), 0.2, 0.33) * smoothstep(max(under), 0.4, 0.58))
    return crossing * around * zone * thin

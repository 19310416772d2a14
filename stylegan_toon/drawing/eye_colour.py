"""The photo's colour of the irises, for a cartoon of the same face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..faces import mesh as M
from .filters import blur, smoothstep

EYES = (
    (M.LEFT_IRIS, M.LEFT_EYE_UPPER, M.LEFT_EYE_LOWER),
    (M.RIGHT_IRIS, M.RIGHT_EYE_UPPER, M.RIGHT_EYE_LOWER),
)
RING = (0.45, 0.9)  # of the iris' radius: without the pupil and the dark rim
LEAST_SEEN = 25  # pixels of the ring at `SIDE`; fewer say nothing about its colour
MARGIN = 4  # pixels around the lids
SIDE = 512  # pixels: of the crops that colours are measured in
GLINT = (0.68, 0.8)  # lightness from which on, and at which surely, a pixel is a reflection
PUPIL = (0.12, 0.35)  # lightness up to which a pixel is surely the pupil, and from which on the iris
LIGHTNESS = 0.5  # share of the difference of lightness that is taken over
FAR = 0.16  # most that an iris' colour is moved, in Oklab: a larger difference is a closed eye or a mistake


def iris_shift(wanted: np.ndarray, drawn: np.ndarray, photo: M.Mesh, cartoon: M.Mesh) -> np.ndarray:
    """What to add to a cartoon so that its irises have the photo's colour.

    The colour of an iris is the median of its ring between pupil and rim, as far as the lids leave it free and nothing
    is reflected in it. The photo's eyes count together, so that light from one side counts less.

    Args:
        wanted, drawn: Oklab of photo and cartoon, float32 ``[SIDE, SIDE, 3]``.
        photo, cartoon: their landmarks, in pixels of these.

    Returns:
        float32 ``[SIDE, SIDE, 3]``; 0 where an eye is too small or closed.
    """
    result = np.zeros_like(drawn)
    there = np.concatenate([eye.colours(wanted) for eye in _eyes(photo)])
    if len(there) < LEAST_SEEN:
        return result
    for eye in _eyes(cartoon):
        here = eye.colours(drawn)
        if len(here) < LEAST_SEEN / 2:
            continue
        shift = (np.median(there, 0) - np.median(here, 0)) * np.array((LIGHTNESS, 1, 1), np.float32)
        if np.hypot(shift[1], shift[2]) <= FAR:
            # Reflections stay white, and the pupil as dark and grey as it is.
            light = drawn[eye.window][..., 0]
            free = (1 - smoothstep(light, *GLINT)) * smoothstep(light, *PUPIL)
            result[eye.window] += (free * eye.cover)[..., None] * shift
    return result


@dataclass(frozen=True, eq=False)
class _Eye:
    """One eye in the window around its lids, ``[h, w]`` each.

    Attributes:
        window: rows and columns of the crop.
        distance: from the middle of the iris, in its radii.
        opening: what the lids leave free, with a soft edge, 0 to 1.
        cover: of the iris by what is seen of it, its edge two pixels wide, 0 to 1.
    """

    window: tuple[slice, slice]
    distance: np.ndarray
    opening: np.ndarray
    cover: np.ndarray

    def colours(self, lab: np.ndarray) -> np.ndarray:
        """The pixels of ``lab [SIDE, SIDE, 3]`` that show the colour of the iris: ``[k, 3]``."""
        here = lab[self.window]
        ring = (self.distance > RING[0]) & (self.distance < RING[1])
        return here[ring & (self.opening > 0.9) & (here[..., 0] < GLINT[0])]


def _eyes(mesh: M.Mesh) -> list[_Eye]:
    """The eyes of a face whose lids lie in the crop, at least in part."""
    found = []
    for iris, upper, lower in EYES:
        lids = mesh.points[[*upper, *reversed(lower)]]
        low = np.clip(np.floor(lids.min(0)) - MARGIN, 0, SIDE).astype(int)
        high = np.clip(np.ceil(lids.max(0)) + MARGIN, 0, SIDE).astype(int)
        if (high <= low).any():
            continue
        canvas = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])))
        ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in lids - low], fill=255)
        opening = blur(np.asarray(canvas, np.float32) / 255, 1.0)
        centre, rim = mesh.points[iris[0]], mesh.points[list(iris[1:])]
        radius = max(float(np.hypot(*(rim - centre).T).mean()), 1.0)
        y, x = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
        distance = (np.hypot(x - centre[0], y - centre[1]) / radius).astype(np.float32)
        cover = opening * np.clip((1 - distance) * radius / 2 + 0.5, 0, 1)
        found.append(_Eye((slice(low[1], high[1]), slice(low[0], high[0])), distance, opening, cover))
    return found

"""The photo's colour of the irises, for a cartoon of the same face."""

from __future__ import annotations

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
    there = np.concatenate([wanted[ring] for ring in _rings(wanted, photo)])
    if len(there) < LEAST_SEEN:
        return result
    # Reflections stay white, and the pupil as dark and grey as it is.
    free = (1 - smoothstep(drawn[..., 0], *GLINT)) * smoothstep(drawn[..., 0], *PUPIL)
    for (iris, upper, lower), ring in zip(EYES, _rings(drawn, cartoon)):
        here = drawn[ring]
        if len(here) < LEAST_SEEN / 2:
            continue
        shift = (np.median(there, 0) - np.median(here, 0)) * np.array((LIGHTNESS, 1, 1), np.float32)
        if np.hypot(shift[1], shift[2]) <= FAR:
            cover = free * _disc(cartoon, iris, 1.0) * _opening(cartoon, upper, lower)
            result += cover[..., None] * shift.astype(np.float32)
    return result


def _rings(lab: np.ndarray, mesh: M.Mesh) -> list[np.ndarray]:
    """The pixels of each eye that show the colour of its iris, bool ``[SIDE, SIDE]``."""
    dark = lab[..., 0] < GLINT[0]
    return [
        (_disc(mesh, iris, RING[1]) > 0.5)
        & (_disc(mesh, iris, RING[0]) < 0.5)
        & (_opening(mesh, upper, lower) > 0.9)
        & dark
        for iris, upper, lower in EYES
    ]


def _disc(mesh: M.Mesh, iris: tuple[int, ...], size: float) -> np.ndarray:
    """A disc of ``size`` times the iris' radius, its edge two pixels wide, float32 ``[SIDE, SIDE]``."""
    centre, rim = mesh.points[iris[0]], mesh.points[list(iris[1:])]
    radius = size * np.hypot(*(rim - centre).T).mean()
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    return np.clip((radius - np.hypot(x - centre[0], y - centre[1])) / 2 + 0.5, 0, 1).astype(np.float32)


def _opening(mesh: M.Mesh, upper: tuple[int, ...], lower: tuple[int, ...]) -> np.ndarray:
    """What the lids leave free, with a soft edge, float32 ``[SIDE, SIDE]``."""
    canvas = Image.new("L", (SIDE, SIDE))
    outline = mesh.points[[*upper, *reversed(lower)]]
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in outline], fill=255)
    return blur(np.asarray(canvas, np.float32) / 255, 1.0)

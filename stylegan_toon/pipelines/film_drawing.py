"""Drawings of the faces of a film, without a network: steadied over time, so that lines do not flicker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from ..drawing import draw
from ..faces.mesh import face_mesh
from .film_faces import Shown

KEPT = 0.65  # share of the drawing before in one of a face that does not move
MOVED = 10.0  # of 255: pixels that change by more are drawn anew
POINTS = 0.5  # share of the landmarks before, in shares that fall with their speed
FAST = 0.01  # of the side: landmarks that move by this much between two frames are not smoothed


@dataclass(eq=False)
class _Last:
    index: int
    crop: np.ndarray  # blurred, float32 [n, n, 3]
    points: np.ndarray
    drawing: np.ndarray  # float32 [n, n, 3]


class Drawer:
    """Draws faces in the order of the frames; called like `film_cast.Cast`.

    A renderer decides many things by thresholds, which film grain crosses back and forth. So landmarks, and then the
    drawing, keep a share of what they were in the frame before: much where the face has not changed, nothing where it
    has.

    Args:
        style: one of `drawing.STYLES`.
    """

    def __init__(self, style: str) -> None:
        self.style = style
        self._last: dict[int, _Last] = {}

    def __call__(self, shown: Sequence[Shown]) -> list[Image.Image]:
        """The drawings of the faces, in their order."""
        return [self._draw(one) for one in shown]

    def _draw(self, one: Shown) -> Image.Image:
        picture = one.aligned.image
        side = picture.width
        crop = np.asarray(picture.filter(ImageFilter.GaussianBlur(side / 128)), np.float32)
        points = face_mesh(picture).points
        last = self._last.get(one.span)
        if last is not None and (last.index != one.index - 1 or last.crop.shape != crop.shape):
            last = None
        if last is not None:
            speed = np.hypot(*(points - last.points).T)[:, None] / (FAST * side)
            points = points + POINTS * np.exp(-(speed**2)) * (last.points - points)
        drawing = np.asarray(draw(picture, self.style, landmarks=points), np.float32)
        if last is not None:
            change = np.abs(crop - last.crop).max(-1, keepdims=True) / MOVED
            drawing = drawing + KEPT * np.exp(-(change**2)) * (last.drawing - drawing)
        self._last[one.span] = _Last(one.index, crop, points, drawing)
        return Image.fromarray(np.rint(drawing).astype(np.uint8))

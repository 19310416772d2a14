"""Strokes and shapes with smooth edges, drawn large and reduced; positions and widths in 1/256 of the side."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

UNIT = 256


def curve(points: np.ndarray, count: int = 24) -> np.ndarray:
    """A smooth curve ``[count, 2]`` through ``points`` ``[k, 2]``, in equal steps."""
    from scipy.interpolate import CubicSpline  # slow to import, and a network's cartoon has no strokes

    along = np.concatenate([[0], np.cumsum(np.maximum(np.hypot(*np.diff(points, axis=0).T), 1e-3))])
    return CubicSpline(along, points, bc_type="natural")(np.linspace(0, along[-1], count))


def taper(count: int, start: float, middle: float, end: float) -> np.ndarray:
    """Widths ``[count]`` of a stroke: ``start`` and ``end`` at its ends, a sine arch to about ``middle`` between."""
    t = np.linspace(0, 1, count)
    swell = np.sin(np.pi * t) ** 0.8
    ends = start + (end - start) * t
    return ends + (middle - (start + end) / 2) * swell


def grown(outline: np.ndarray, by: float) -> np.ndarray:
    """A closed outline ``[k, 2]`` whose bounding box is ``by`` units larger on every side."""
    middle = (outline.min(0) + outline.max(0)) / 2
    reach = (outline.max(0) - outline.min(0)) / 2 + 1e-6
    return middle + (outline - middle) * (1 + by / reach)


class Pen:
    """A grey picture that strokes and shapes are drawn on, supersampled so that their edges are smooth.

    Args:
        side: of the sheet in pixels.
        over: factor of supersampling in each direction.
    """

    def __init__(self, side: int, over: int = 3) -> None:
        self.side, self.over = side, over
        self._sheet = Image.new("L", (side * over, side * over))
        self._draw = ImageDraw.Draw(self._sheet)

    def _at(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(points) * (self.side * self.over / UNIT) - 0.5

    def stroke(self, points: np.ndarray, width: np.ndarray | float, strength: np.ndarray | float = 1.0) -> Pen:
        """A line along ``points`` ``[k, 2]`` whose width and strength (0 to 1) may change from point to point."""
        p = self._at(points)
        half = np.broadcast_to(np.asarray(width, float) * (self.side * self.over / UNIT / 2), len(p))
        strength = np.broadcast_to(np.asarray(strength, float), len(p))
        step = np.diff(p, axis=0)
        normal = np.stack([-step[:, 1], step[:, 0]], 1) / np.maximum(np.hypot(*step.T), 1e-6)[:, None]
        for k in np.argsort((strength[1:] + strength[:-1]) / 2, kind="stable"):
            tone = round(255 * float(np.clip((strength[k] + strength[k + 1]) / 2, 0, 1)))
            n, a, b = normal[k], half[k], half[k + 1]
            if tone == 0 or max(a, b) < 0.15:
                continue
            quad = [p[k] + n * a, p[k + 1] + n * b, p[k + 1] - n * b, p[k] - n * a]
            self._draw.polygon([tuple(q) for q in quad], fill=tone)
            for (x, y), r in ((p[k], a), (p[k + 1], b)):
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=tone)
        return self

    def shape(self, points: np.ndarray, strength: float = 1.0) -> Pen:
        """A filled outline ``[k, 2]`` of a strength from 0 to 1."""
        self._draw.polygon([tuple(q) for q in self._at(points)], fill=round(255 * strength))
        return self

    def ink(self) -> np.ndarray:
        """The sheet, float32 ``[side, side]`` in [0, 1]."""
        return np.asarray(self._sheet.reduce(self.over), np.float32) / 255

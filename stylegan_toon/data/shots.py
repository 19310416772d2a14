"""Cuts: where a film changes from one camera to another."""

from __future__ import annotations

from collections import deque

import numpy as np
from PIL import Image

SIZE = (64, 36)
COLOURS = 0.30  # share of the pixels whose colour the picture before does not have
PIXELS = 0.08  # mean change of a pixel; 1 = from black to white
MEAN = 0.4  # brightness that frames are brought to
SUDDEN = 3.0  # times the usual change, so that shaky cameras make no cuts


class CutFinder:
    """Tells from frame to frame whether a new shot has begun: its colours are others, and suddenly.

    Frames are brought to one mean brightness first, so that lamps and flashes make no cuts. Fades and dissolves are not
    found.
    """

    def __init__(self) -> None:
        self._pixels: np.ndarray | None = None
        self._colours = np.zeros(64)
        self._usual: deque[float] = deque(maxlen=12)

    def __call__(self, image: Image.Image) -> bool:
        """Whether ``image`` is the first one of a new shot; the first of all is not."""
        small = np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BOX, reducing_gap=2.0))
        soft = small.astype(np.float32) / 255
        soft = np.minimum(soft * (MEAN / max(float(soft.mean()), 0.02)), 1)
        bins = np.minimum(4 * soft, 3).astype(int) @ (16, 4, 1)
        colours = np.bincount(bins.ravel(), minlength=64) / bins.size
        before, self._pixels = self._pixels, soft
        last, self._colours = self._colours, colours
        if before is None:
            return False
        change = float(np.abs(soft - before).mean())
        usual = float(np.median(self._usual)) if self._usual else 0.0
        other = 0.5 * float(np.abs(colours - last).sum())
        if change > PIXELS and other > COLOURS and change > SUDDEN * usual:
            self._usual.clear()
            return True
        self._usual.append(change)
        return False

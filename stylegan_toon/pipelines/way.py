"""A film of the way that a search takes to its result."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor

from ..data.animation import save_animation
from ..data.images import to_pil

SIDE = 256  # pixels
MOST = 240  # frames kept; half of them go when there are more
RATE, HOLD = 24, 24  # frames a second; frames that the result stays at the end


class Way:
    """Frames of a search, evenly spread over its steps however many there are.

    Attributes:
        frames: from the first step on, at most `MOST` of `SIDE` px.
    """

    def __init__(self) -> None:
        self.frames: list[Image.Image] = []
        self._every, self._steps = 1, 0

    def add(self, picture: Tensor) -> None:
        """Take the picture ``[C, R, R]`` in about [-1, 1] of one step."""
        if self._steps % self._every == 0:
            self.frames.append(_fit(to_pil(picture)))
            if len(self.frames) > MOST:
                self.frames, self._every = self.frames[::2], 2 * self._every
        self._steps += 1

    def save(self, path: Path, photo: Image.Image, result: Image.Image) -> None:
        """Write the photo beside every frame; the last frames show the result. Suffixes as `save_animation`."""
        left = _fit(photo)
        shown = []
        for frame in [*self.frames, *[_fit(result)] * HOLD]:
            both = Image.new("RGB", (2 * SIDE, SIDE))
            both.paste(left, (0, 0))
            both.paste(frame, (SIDE, 0))
            shown.append(both)
        save_animation(shown, path, rate=RATE)


def _fit(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)

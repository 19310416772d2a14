"""Writing short films as animated WebP or GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..errors import ToonError
from ..files import atomic_path


def save_animation(frames: Sequence[Image.Image], path: str | Path, *, rate: float = 24) -> None:
    """Write an animation that repeats for ever, completely or not at all.

    Args:
        frames: RGB pictures of one size.
        path: ends in ``.webp`` or ``.gif``. GIF has 256 colours a frame, and times in hundredths of a second.
        rate: frames a second.

    Raises:
        ToonError: another suffix, or what the operating system refuses.
        ValueError: no frames.
    """
    path = Path(path)
    if not frames:
        raise ValueError("an animation needs at least one frame")
    options = {".webp": {"quality": 85, "method": 3}, ".gif": {}}.get(path.suffix.lower())
    if options is None:
        raise ToonError(f"{path} is no animation: use .webp or .gif.")
    with atomic_path(path) as temporary:
        first, *rest = frames
        first.save(temporary, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0, **options)

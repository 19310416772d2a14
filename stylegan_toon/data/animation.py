"""Writing short films as animated WebP, GIF or MP4."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ToonError
from ..files import atomic_path
from .video import av_module
from .video_writer import BT709, CODEC, LIMITED, QUALITY


def save_animation(frames: Sequence[Image.Image], path: str | Path, *, rate: float = 24) -> None:
    """Write an animation, completely or not at all; WebP and GIF repeat for ever.

    Args:
        frames: RGB pictures of one size, with even sides for ``.mp4``.
        path: ends in ``.webp``, ``.gif`` or ``.mp4``. GIF has 256 colours a frame, and times in hundredths of a second.
        rate: frames a second.

    Raises:
        ToonError: another suffix, what the operating system refuses, or MP4 without the package av.
        ValueError: no frames.
    """
    path = Path(path)
    if not frames:
        raise ValueError("an animation needs at least one frame")
    if path.suffix.lower() == ".mp4":
        with atomic_path(path) as temporary:
            _write_mp4(frames, temporary, rate)
        return
    options = {".webp": {"quality": 85, "method": 3}, ".gif": {}}.get(path.suffix.lower())
    if options is None:
        raise ToonError(f"{path} is no animation: use .webp, .gif or .mp4.")
    with atomic_path(path) as temporary:
        first, *rest = frames
        first.save(temporary, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0, **options)


def _write_mp4(frames: Sequence[Image.Image], path: Path, rate: float) -> None:
    """H.264 as `video_writer.FilmWriter` writes it, without sound."""
    av = av_module()
    with av.open(str(path), "w", format="mp4") as container:
        track = container.add_stream(CODEC, rate=Fraction(rate).limit_denominator(1000), options=QUALITY)
        track.width, track.height, track.pix_fmt = *frames[0].size, "yuv420p"
        context = track.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.asarray(picture.convert("RGB")), format="rgb24")
            container.mux(track.encode(frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)))
        container.mux(track.encode())

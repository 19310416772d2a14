"""Small films for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av: Any = pytest.importorskip("av")
SIZE = (96, 64)


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 ``[height, width, 3]``: grey, lighter from frame to frame, with a red quarter in the upper left."""
    width, height = size
    pixels = np.full((height, width, 3), 40 + 12 * number % 200, np.uint8)
    pixels[: height // 2, : width // 2] = (220, 40, 40)
    return pixels


def write(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    rate: int = 25,
    times: Sequence[int] | None = None,
    sound: str | None = "aac",
    codec: str = "libx264",
    format: str | None = None,
    pixels: str = "yuv420p",
    seconds: float = 0.4,
    **context: int,
) -> Path:
    """A film; ``times`` in milliseconds replace an even rate, ``context`` sets fields of the codec context."""
    with av.open(str(path), "w", format=format) as container:
        track, heard = None, None
        if sound:
            heard = container.add_stream(sound, rate=48000)
            heard.codec_context.layout = "mono"
        for number, array in enumerate(pictures):
            if track is None:
                track = container.add_stream(codec, rate=rate)
                track.height, track.width = array.shape[:2]
                track.pix_fmt = pixels
                if times:
                    track.codec_context.time_base = Fraction(1, 1000)
                for name, value in context.items():
                    setattr(track.codec_context, name, value)
            given = "rgb48le" if array.dtype == np.uint16 else "rgb24"
            matrix = {"dst_colorspace": context["colorspace"]} if "colorspace" in context else {}
            frame = av.VideoFrame.from_ndarray(array, format=given).reformat(format=pixels, **matrix)
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            else:
                frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(track.encode(frame))
        if track is not None:
            container.mux(track.encode())
        if heard is not None:
            wave = np.sin(2 * np.pi * 440 * np.arange(int(48000 * seconds)) / 48000).astype(np.float32)
            tone = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 48000, 0
            resampler = av.AudioResampler(format=heard.codec_context.format, layout="mono", rate=48000, frame_size=960)
            for part in [*resampler.resample(tone), *resampler.resample(None)]:
                container.mux(heard.encode(part))
            container.mux(heard.encode())
    return path


def film(path: Path, count: int = 8, size: tuple[int, int] = SIZE, **options: Any) -> Path:
    """A film of `picture`."""
    return write(path, (picture(number, size) for number in range(count)), **options)


def shown(path: Path) -> list[tuple[float, np.ndarray]]:
    """Time in seconds and uint8 RGB of every frame, as PyAV itself decodes them."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def packets(path: Path) -> list[bytes]:
    """The packets of the first audio stream."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def streams(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.codec_context.name for stream in container.streams]

"""Converts a video frame by frame and copies its sound."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stylegan_toon import cli
from stylegan_toon.data.images import MAX_PIXELS
from stylegan_toon.errors import ToonError
from stylegan_toon.files import atomic_path, output_folder, refuse_overwrite

CODEC, QUALITY = "libx264", {"crf": "18", "preset": "medium"}


def convert_video(
    source: Path,
    out: Path,
    convert: Callable[[Image.Image], Image.Image],
    *,
    quiet: bool = False,
    overwrite: bool = False,
) -> Path:
    """Convert every frame of a video; only a few are in memory at a time.

    Args:
        source: the video.
        out: a folder; gets ``NAME.mp4`` (H.264), shown at the same times as the source. Sound that MP4 cannot hold is
            left out.
        convert: converts one frame; all results must have the same size. An odd width or height loses a pixel.

    Returns:
        path of the video. After Ctrl-C it holds the frames finished so far, and KeyboardInterrupt is raised.

    Raises:
        ToonError: the package av is missing, no video or a damaged one, or the file exists.
    """
    path = out / f"{source.stem}.mp4"
    if path.resolve() == source.resolve():
        raise ToonError(f"{source} would be overwritten: choose another --out.")
    refuse_overwrite([path], overwrite)
    with _explained(source), _open(source) as film:
        output_folder(out)
        stopped = False
        with atomic_path(path) as temporary, _writer(temporary) as written:
            try:
                _copy(film, written, convert, quiet)
            except KeyboardInterrupt:
                stopped = True
        if stopped:
            raise KeyboardInterrupt
    return path


def _copy(film: Any, written: Any, convert: Callable[[Image.Image], Image.Image], quiet: bool) -> None:
    video = film.streams.video[0]
    if video.codec_context.width * video.codec_context.height > MAX_PIXELS:
        raise ToonError(f"The frames of {film.name} are too large: shrink the video first.")
    rate = Fraction(video.average_rate or 25)
    sound = _sound(film, written)
    track = None
    last = -1
    with cli.progress(total=video.frames or None, quiet=quiet, unit="frame") as bar:
        try:
            for packet in film.demux([stream for stream in (video, *film.streams.audio[:1]) if stream is not None]):
                if packet.stream is not video:
                    if sound is not None and packet.dts is not None:
                        packet.stream = sound
                        written.mux(packet)
                    continue
                for frame in packet.decode():
                    image = convert(_upright(frame))
                    width, height = (side - side % 2 for side in image.size)  # colours are stored at half the size
                    if track is None:
                        track = written.add_stream(CODEC, rate=rate, options=QUALITY)
                        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
                        track.codec_context.time_base = video.time_base
                    shown = _frame(image.crop((0, 0, width, height)))
                    last = max(frame.pts if frame.pts is not None else 0, last + 1)  # times must grow
                    shown.pts, shown.time_base = last, video.time_base
                    written.mux(track.encode(shown))
                    bar.update()
        finally:
            if track is not None:
                written.mux(track.encode())
    if track is None:
        raise ToonError(f"{film.name} holds no frames: give another video.")


def _sound(film: Any, written: Any) -> Any:
    """A stream for the copied sound, or None if there is no sound or MP4 does not support its codec."""
    if film.streams.audio:
        with contextlib.suppress(ValueError):
            return written.add_stream_from_template(film.streams.audio[0])
    return None


def _upright(frame: Any) -> Image.Image:
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _frame(image: Image.Image) -> Any:
    import av

    return av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")


@contextlib.contextmanager
def _open(source: Path) -> Iterator[Any]:
    try:
        import av
    except ImportError:
        raise ToonError(f"{source} is a video: pip install 'stylegan_toon[data]' to read it.") from None
    # Only the file itself: a playlist may not make FFmpeg open other files or addresses.
    with av.open(str(source), options={"protocol_whitelist": "file"}) as film:
        if not film.streams.video:
            raise ToonError(f"{source} holds no moving pictures: give another video.")
        yield film


def _writer(path: Path) -> Any:
    import av

    return av.open(str(path), "w", format="mp4")


@contextlib.contextmanager
def _explained(source: Path) -> Iterator[None]:
    import av.error

    try:
        yield
    except av.error.FFmpegError as error:
        raise ToonError(f"{source} is damaged or no video ({error}): convert it again.") from error

"""Writing films: H.264 in MP4, with the sound of another film."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from ..files import atomic_path
from .video import Film, av_module, open_media

CODEC, QUALITY = "libx264", {"crf": "18", "preset": "medium"}
COPIED = ("aac", "mp3", "mp3float", "ac3", "eac3", "opus", "alac", "flac")  # sound that players expect in MP4
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
BT709, LIMITED = 1, 1  # FFmpeg's numbers


@contextlib.contextmanager
def write_film(path: Path, film: Film) -> Iterator[FilmWriter]:
    """Write a film that is shown at the times of ``film`` and has its sound; completely or not at all.

    After Ctrl-C the file is closed in order and ends where the work was, and KeyboardInterrupt goes on. After any
    other error, or without a frame, there is no file.

    Raises:
        ToonError: the operating system refuses to write.
    """
    stopped: KeyboardInterrupt | None = None
    with atomic_path(path) as temporary, FilmWriter(temporary, film) as writer:
        try:
            yield writer
        except KeyboardInterrupt as interrupt:
            if not writer.written:
                raise
            stopped = interrupt
        writer.finish(whole=stopped is None)
    if stopped is not None:
        raise stopped


class FilmWriter:
    """An MP4 that is written frame by frame: yuv420p, BT.709; see `write_film`.

    An odd width or height loses its last pixel, because colours are stored at half the size. Sound that MP4 holds is
    copied packet by packet, other sound becomes AAC. Subtitles and data are left out.

    Attributes:
        written: number of frames so far.
    """

    def __init__(self, path: Path, film: Film) -> None:
        av = av_module()
        self.written = 0
        self._film, self._last = film, -1 << 62
        self._closing = contextlib.ExitStack()
        try:
            self._container = self._closing.enter_context(av.open(str(path), "w", format="mp4"))
            self._track = self._container.add_stream(CODEC, rate=film.rate, options=QUALITY)
            self._track.width, self._track.height = film.width - film.width % 2, film.height - film.height % 2
            self._track.pix_fmt = "yuv420p"
            context = self._track.codec_context
            context.time_base = film.time_base
            context.color_primaries = context.color_trc = context.colorspace = BT709
            context.color_range = LIMITED
            self._duration = max(1, round(1 / film.rate / film.time_base))
            self._sound = Sound(film.path, self._container, self._closing)
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
            self._closing.close()

    def write(self, image: Image.Image, pts: int) -> None:
        """Add a frame of the film's size, shown from ``pts`` on."""
        av = av_module()
        pixels = np.asarray(image.convert("RGB"))[: self._track.height, : self._track.width]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)
        self._last = frame.pts = max(pts, self._last + 1)  # times must grow
        frame.time_base = self._film.time_base
        frame.duration = self._duration
        self._container.mux(self._track.encode(frame))
        self.written += 1
        self._sound.copy_until(float(self._last * self._film.time_base))

    def finish(self, whole: bool = True) -> None:
        """Write what the encoder still holds, and the rest of the sound if the film is ``whole``."""
        self._container.mux(self._track.encode())
        end = float((self._last + self._duration) * self._film.time_base)
        self._sound.finish(None if whole else end)


class Sound:
    """The sound of a film, written beside its new frames.

    Args:
        source: the film.
        container: that is written, before its first packet.
        closing: closes the source.
    """

    def __init__(self, source: Path, container: Any, closing: contextlib.ExitStack) -> None:
        self._container = container
        self._source = closing.enter_context(open_media(source))
        self._name = source.name
        self._tracks: dict[int, Any] = {}  # index of the source's stream -> ours
        self._resamplers: dict[int, Any] = {}
        for stream in self._source.streams.audio:
            self._add(stream)
        self._packets = self._source.demux(list(self._source.streams.audio)) if self._tracks else iter(())
        self._next = self._advance()

    def _add(self, stream: Any) -> None:
        av = av_module()
        if stream.codec_context is None:  # FFmpeg has no decoder
            warnings.warn(f"The sound of {self._name} is of an unknown kind and is left out.", stacklevel=4)
            return
        if stream.codec_context.name in COPIED:
            with contextlib.suppress(ValueError, av.error.FFmpegError):
                self._tracks[stream.index] = self._container.add_stream_from_template(stream)
                return
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        rate = stream.codec_context.sample_rate
        rate = rate if rate in AAC_RATES else 48000
        track = self._container.add_stream("aac", rate=rate, options={"b": "192k"})
        track.codec_context.layout = layout
        self._tracks[stream.index] = track
        self._resamplers[stream.index] = av.AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=1024)

    def _advance(self) -> Any:
        """The next packet of a known stream; None at the end."""
        av = av_module()
        try:
            for packet in self._packets:
                if packet.stream.index in self._tracks and packet.size:
                    return packet
        except av.error.FFmpegError as error:
            if not isinstance(error, av.error.EOFError):
                warnings.warn(f"The sound of {self._name} is damaged and ends early.", stacklevel=4)
        return None

    def copy_until(self, time: float | None) -> None:
        """Write the packets that begin before ``time`` in seconds; all if None."""
        while (packet := self._next) is not None:
            at = packet.pts if packet.pts is not None else packet.dts
            if time is not None and at is not None and float(at * packet.time_base) >= time:
                return
            self._write(packet)
            self._next = self._advance()

    def _write(self, packet: Any) -> None:
        av = av_module()
        index = packet.stream.index
        if index not in self._resamplers:
            if packet.dts is not None:
                packet.stream = self._tracks[index]
                self._container.mux(packet)
            return
        with contextlib.suppress(av.error.FFmpegError):  # a damaged packet
            for frame in packet.decode():
                self._encode(index, frame)

    def _encode(self, index: int, frame: Any) -> None:
        for part in self._resamplers[index].resample(frame):
            self._container.mux(self._tracks[index].encode(part))

    def finish(self, time: float | None) -> None:
        """Write what is left before ``time``, and what the encoders still hold."""
        self.copy_until(time)
        for index in self._resamplers:
            self._encode(index, None)
            self._container.mux(self._tracks[index].encode())

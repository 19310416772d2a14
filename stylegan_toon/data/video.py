"""Reading films frame by frame: any common film becomes upright 8-bit RGB pictures with their times.

PyAV (FFmpeg) decodes. It opens no other file or address, whatever the film says, and no more than a few frames are in
memory.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ToonError, short
from .hdr import is_wide, to_sdr
from .sources import VIDEO_SUFFIXES

MAX_PIXELS = 40_000_000  # of a frame; 8K has 33 million
MAX_SIDE = 3840  # pixels: larger frames are reduced to this
SMALLEST = 16  # pixels
THREADS = 4  # of the decoder: each one holds a frame
# Containers of films. Playlists, image sequences and filter graphs, which name other files, are not among them.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,h264,hevc,mp3,wav,aac,flac"
_STILL = (b"avif", b"heic", b"heix", b"mif1", b"heim", b"heis")  # brands of pictures in a container of films
# FFmpeg's numbers of YCbCr matrices in a file, and those of its converter.
_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}


def is_film(path: Path) -> bool:
    """Whether a file is a film, by its first bytes; or calls itself one by its suffix, which `Film` will then judge."""
    try:
        with open(path, "rb") as file:
            start = file.read(4 * 188)
    except OSError:
        return False
    if start[4:8] == b"ftyp":
        return start[8:12] not in _STILL
    kinds = (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"OggS", b"\x30\x26\xb2\x75", b"\0\0\1\xba", b"\0\0\1\xb3")
    if start.startswith(kinds) or (start[:4] == b"RIFF" and start[8:12] == b"AVI "):
        return True
    if start[4:8] in (b"moov", b"mdat", b"wide", b"skip"):  # QuickTime before it began with ftyp
        return True
    if len(start) > 2 * 188 and start[0] == start[188] == start[376] == 0x47:  # MPEG transport stream
        return True
    return path.suffix.lower() in VIDEO_SUFFIXES and path.suffix.lower() != ".gif"


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a film.

    Attributes:
        image: upright RGB.
        pts: when it is shown, in units of the film's ``time_base``; strictly rising.
        time: the same in seconds.
    """

    image: Image.Image
    pts: int
    time: float


class Film:
    """A film that can be read any number of times, from the start.

    The rotation that phones write is applied, frames that are not made of square pixels are stretched to them, and
    10 bit, HDR (PQ and HLG) and BT.2020 become 8-bit BT.709 (see `hdr`). Frames larger than `MAX_SIDE` are reduced.
    Interlaced films are taken as they are.

    Attributes:
        path: the file.
        width, height: of the frames in pixels.
        rate: frames a second, on average.
        time_base: seconds, the unit of ``pts``.
        count: number of frames as the file states it, or as follows from its length; None if neither is there.
        notes: what was changed in reading, one sentence each.

    Raises:
        ToonError: missing or not a film, no frames, only sound, frames too large, or the package av is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        with self._explained(), self._opened() as (container, stream):
            first = next(self._decoded(container, stream), None)
            if first is None:
                raise ToonError(f"{self.path.name} holds no frames that can be decoded: give another film.")
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            if not 0 < self.rate <= 1000:
                self.rate = Fraction(25)
            self.time_base = Fraction(stream.time_base)
            seconds = container.duration / 1_000_000 if container.duration else None
            self.count: int | None = stream.frames or (round(seconds * self.rate) if seconds else None)
            self.sound = [one.codec_context.name for one in container.streams.audio]
            aspect = stream.sample_aspect_ratio or Fraction(1)
        self._measure(first, aspect)

    def _measure(self, first: Any, aspect: Fraction) -> None:
        width, height = first.width, first.height
        if not Fraction(1, 4) <= aspect <= 4:
            aspect = Fraction(1)
        shown = max(1, round(width * aspect)), height
        scale = min(1.0, MAX_SIDE / max(shown))
        self._stored = tuple(max(1, round(side * scale)) for side in shown)  # before the rotation
        self._turns = round(first.rotation / 90) % 4  # quarter turns anticlockwise
        self.width, self.height = self._stored[::-1] if self._turns % 2 else self._stored
        if min(self.width, self.height) < SMALLEST:
            raise ToonError(f"{self.path.name} is only {self.width}x{self.height} pixels: give a larger film.")
        if scale < 1:
            self.notes.append(f"{self.path.name} is {width}x{height}; it is reduced to {self.width}x{self.height}.")
        if is_wide(first):
            self.notes.append(f"{self.path.name} is HDR or has wide colours; the result is 8-bit BT.709.")

    def __iter__(self) -> Iterator[Frame]:
        """All frames in order. What cannot be decoded is left out, and a warning at the end says so."""
        shown, last = 0, -1 << 62
        step = max(1, round(1 / self.rate / self.time_base))
        damage = [0]
        with self._explained(), self._opened() as (container, stream):
            for frame in self._decoded(container, stream, damage):
                pts = frame.pts if frame.pts is not None else (0 if shown == 0 else last + step)
                last, shown = max(pts, last + 1), shown + 1
                yield Frame(self._picture(frame), last, float(last * self.time_base))
            stated = stream.frames
        if damage[0] or (stated and shown < 0.98 * stated):
            lost = f" of {stated}" if stated else ""
            warnings.warn(f"{self.path.name} is damaged: {shown}{lost} frames could be read.", stacklevel=2)

    def _picture(self, frame: Any) -> Image.Image:
        width, height = self._stored
        matrix = _MATRIX.get(int(frame.colorspace), 1 if frame.height >= 720 else 5)
        wide = is_wide(frame)
        settings: dict[str, Any] = {} if frame.format.is_rgb else {"src_colorspace": matrix, "dst_colorspace": matrix}
        if int(frame.color_range) == 2:
            settings["src_color_range"] = 2
        small = (width, height) != (frame.width, frame.height)
        if small:
            settings["interpolation"] = "AREA" if width < frame.width else "BICUBIC"
        rgb = frame.reformat(width=width, height=height, format="rgb48le" if wide else "rgb24", **settings)
        pixels = rgb.to_ndarray()
        if wide:
            pixels = to_sdr(pixels, int(frame.color_trc))
        if self._turns:
            pixels = np.rot90(pixels, self._turns)
        return Image.fromarray(np.ascontiguousarray(pixels))

    def _decoded(self, container: Any, stream: Any, damage: list[int] | None = None) -> Iterator[Any]:
        """Frames as FFmpeg gives them; counts in ``damage`` what it cannot decode."""
        from av.error import EOFError as EndOfFile
        from av.error import FFmpegError

        damage = [0] if damage is None else damage
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:  # the file ends in the middle of a packet
                damage[0] += not isinstance(error, EndOfFile)
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except EndOfFile:
                return
            except FFmpegError:
                damage[0] += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    damage[0] += 1
                else:
                    yield frame

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        with open_media(self.path) as container:
            moving = [one for one in container.streams.video if not one.disposition & one.disposition.attached_pic]
            if not moving:
                what = "only sound" if container.streams.audio else "no moving pictures"
                raise ToonError(f"{self.path.name} holds {what}: give a film.")
            stream = moving[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > MAX_PIXELS:
                raise ToonError(
                    f"The frames of {self.path.name} are {width}x{height} pixels: reduce the film to 8K or less first."
                )
            context = stream.codec_context
            context.thread_count = THREADS
            context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}  # should the size change on the way
            yield container, stream

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        from_av = av_module().error.FFmpegError
        try:
            yield
        except from_av as error:
            reason = short(getattr(error, "strerror", None) or error)
            raise ToonError(f"{self.path.name} is no film or damaged ({reason}): convert it anew.") from error


@contextlib.contextmanager
def open_media(path: Path) -> Iterator[Any]:
    """An open container, as PyAV's ``InputContainer``.

    Raises:
        ToonError: the package av is missing.
    """
    av = av_module()
    # Only the file itself: a playlist may not make FFmpeg open other files or addresses.
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
        yield container


def av_module() -> Any:
    """The package av.

    Raises:
        ToonError: it is missing.
    """
    try:
        import av
        import av.error
        import av.logging
    except ImportError:
        raise ToonError("Films are read with the package av: pip install 'stylegan_toon[film]'.") from None
    av.logging.set_level(None)  # FFmpeg would print its own messages between ours
    return av

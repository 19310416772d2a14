"""One interface to folders, zips, tar shards, lmdbs and videos: ``path``, ``names``, ``read(name)``, ``labels()``."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ..errors import ToonError
from .archive import MAX_MEMBER_BYTES, MAX_MEMBERS, Archive
from .images import MAX_PIXELS
from .shards import Shards, is_shards

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")


class Source(Protocol):
    """A set of pictures in one fixed order. It may be sent to other processes."""

    @property
    def path(self) -> str | Path:
        """The file, folder or address."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Names of the pictures."""
        ...

    def read(self, name: str) -> bytes:
        """One picture file. Raises ToonError if it is missing or damaged."""
        ...

    def labels(self) -> list[Any] | None:
        """A class number or a list of numbers for each of ``names``; None if there are none."""
        ...


def open_source(place: str | Path, *, fps: float | None = None) -> Source:
    """Open a folder or zip, tar shards (paths, patterns, http addresses), an lmdb, or a video.

    Args:
        fps: frames taken from each second of a video; all of them if None.

    Raises:
        ToonError: it does not exist or holds no pictures, or a package for it is missing.
    """
    path = Path(place)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        return Video(path, fps)
    if path.name == "data.mdb" or (path / "data.mdb").exists() or (path.suffix == ".lmdb" and path.exists()):
        return Lmdb(path)
    return Shards(place) if is_shards(place) else Archive(path)


class Lmdb:
    """Picture files in an lmdb, under any keys; in the layout of rosinality's tool, those of the largest size.

    Raises:
        ToonError: no lmdb, none of its values is a picture, or the package lmdb is missing.
    """

    _PICTURE = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II\*\0|MM\0\*|P[56]\s", re.DOTALL)
    _SIZED = re.compile(rb"(\d{1,5})-\d{5,}")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).parent if Path(path).name == "data.mdb" else Path(path)
        with self._transaction() as transaction:
            if transaction.stat()["entries"] > MAX_MEMBERS:
                raise ToonError(f"{self.path} holds more than {MAX_MEMBERS:,} entries: split it.")
            keys = [key for key, value in transaction.cursor() if self._PICTURE.match(value[:12])]
        sizes = {key: int(match[1]) for key in keys if (match := self._SIZED.fullmatch(key))}
        if keys and len(sizes) == len(keys):
            keys = [key for key in keys if sizes[key] == max(sizes.values())]
        # Keys are any bytes; hexadecimal ones stay unique and in order.
        ascii = all(re.fullmatch(rb"[\w.+/-]+", key, re.ASCII) for key in keys)
        self._keys = {key.decode() if ascii else key.hex(): key for key in keys}
        self.names = list(self._keys)
        if not self.names:
            raise ToonError(f"{self.path} holds no pictures: its values must be picture files, like PNG or JPEG.")

    def read(self, name: str) -> bytes:
        with self._transaction() as transaction:
            data = transaction.get(self._keys.get(name, name.encode()))
        if data is None or len(data) > MAX_MEMBER_BYTES:
            raise ToonError(f"{name} in {self.path} is missing or far too large: take it out.")
        return data

    def labels(self) -> None:
        return None

    @contextlib.contextmanager
    def _transaction(self):
        try:
            import lmdb
        except ImportError:
            raise ToonError(f"{self.path} is an lmdb: pip install 'stylegan_toon[data]' to read it.") from None
        try:
            with _lmdb(str(self.path), os.getpid()).begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise ToonError(f"{self.path} is no readable lmdb ({error}): copy it there again.") from error


@lru_cache(maxsize=4)
def _lmdb(path: str, process: int) -> Any:
    """An open lmdb. A process may open it only once, and may not use one that was opened before a fork."""
    import lmdb

    return lmdb.open(path, subdir=Path(path).is_dir(), readonly=True, lock=False, create=False, readahead=False)


class Video:
    """Frames of a video as pictures, named by their time: ``000012.345s.ppm``. Decoded by PyAV (FFmpeg).

    Args:
        path: the file.
        fps: frames taken from each second, the first at or after each tick; all if None.

    Raises:
        ToonError: no video, no frames, frames beyond `images.MAX_PIXELS`, or the package av is missing.
    """

    def __init__(self, path: str | Path, fps: float | None = None) -> None:
        self.path = Path(path)
        self._decoder: tuple[Any, Any, int] | None = None  # container, its frames, time of the last one
        self._owner = -1
        with self._explained(), self._container() as container:
            stream = container.streams.video[0]
            if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
                raise ToonError(f"The frames of {self.path} are too large: shrink the video first.")
            packets = itertools.islice(container.demux(stream), MAX_MEMBERS)
            shown = [(p.pts, p.dts, p.is_keyframe) for p in packets if p.pts is not None and not p.is_corrupt]
            times = sorted({pts for pts, _, _ in shown})
            # Where decoding may begin: containers seek by decoding time, which is at most the time shown.
            self._keys = sorted((pts, pts if dts is None else min(pts, dts)) for pts, dts, key in shown if key)
            self._base = Fraction(stream.time_base)
        if fps is not None:
            ticks: dict[int, int] = {}
            for pts in times:
                ticks.setdefault(int((pts - times[0]) * self._base * Fraction(fps)), pts)
            times = list(ticks.values())
        self._times = {f"{float((pts - times[0]) * self._base):010.3f}s-{pts}.ppm": pts for pts in times}
        self.names = list(self._times)
        if not self.names:
            raise ToonError(f"{self.path} holds no frames: give another video.")

    def read(self, name: str) -> bytes:
        wanted = self._times[name]
        with self._explained():
            frame = self._frame(wanted)
        buffer = io.BytesIO()
        frame.to_image().save(buffer, "PPM")
        return buffer.getvalue()

    def labels(self) -> None:
        return None

    def _frame(self, wanted: int) -> Any:
        """The frame shown at ``wanted``; decoding continues from the last call's frame if that is earlier."""
        decoder = self._decoder
        if decoder is None or self._owner != os.getpid() or decoder[2] >= wanted:
            container = self._container()
            before = bisect_right(self._keys, (wanted, math.inf)) - 1
            if before > 0:
                container.seek(self._keys[before][1], stream=container.streams.video[0], backward=True)
            decoder, self._owner = (container, container.decode(video=0), -1), os.getpid()
        container, frames, _ = decoder
        for frame in frames:
            if frame.pts is not None and frame.pts >= wanted:
                self._decoder = (container, frames, frame.pts)
                if frame.pts == wanted:
                    return frame
                break
        self._decoder = None
        raise ToonError(f"The frame at {float(wanted * self._base):.3f} s of {self.path} cannot be decoded.")

    def _container(self) -> Any:
        try:
            import av
        except ImportError:
            raise ToonError(f"{self.path} is a video: pip install 'stylegan_toon[data]' to read it.") from None
        # Only the file itself: a playlist may not make FFmpeg open other files or addresses.
        container = av.open(str(self.path), options={"protocol_whitelist": "file"})
        if not container.streams.video:
            container.close()
            raise ToonError(f"{self.path} holds no moving pictures: give another video.")
        return container

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except (OSError, ValueError, EOFError, IndexError) as error:  # av's errors are of these kinds
            raise ToonError(f"{self.path} is damaged or no video ({error}): convert it again.") from error

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_decoder": None}

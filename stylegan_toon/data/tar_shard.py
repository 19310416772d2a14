"""One tar shard: finding, reading and writing its samples.

Files of one sample stand next to each other in the tar and share a key (their name up to the first dot):
``00000042.png``, ``00000042.cls`` (a class number) or ``00000042.json`` (with a ``label``). This is the layout of
WebDataset.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ToonError
from .archive import MAX_MEMBER_BYTES, MAX_MEMBERS
from .images import SUFFIXES

MAX_LABEL_BYTES = 1 << 20


class _Tar(tarfile.TarFile):
    members: list[tarfile.TarInfo]  # all headers so far; cleared here, since a shard may have millions


class OpenShard:
    """An open tar.

    Args:
        path: of the file.
        called: what messages call it.

    Attributes:
        names: of the pictures, in order.

    Raises:
        ToonError: it cannot be read or is no whole, uncompressed tar.
    """

    def __init__(self, path: Path, called: str) -> None:
        self._called = called
        try:
            self._file = open(path, "rb")  # noqa: SIM115 (kept open)
        except OSError as error:
            raise ToonError(f"{called} cannot be read ({error.strerror or error}): check the path.") from None
        self._members = dict(_samples(self._file, called))
        self.names = list(self._members)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, name: str) -> bytes:
        """The bytes of one picture. Raises ToonError if it is missing, damaged or far too large."""
        if name not in self._members:
            raise ToonError(f"{name} in {self._called} does not exist.")
        return self._bytes(name, "picture", MAX_MEMBER_BYTES)

    def label(self, name: str) -> Any:
        """The class number of ``.cls``, else the ``label`` of ``.json``, else None; ToonError if it is malformed."""
        try:
            if "cls" in self._members[name]:
                return int(self._bytes(name, "cls", MAX_LABEL_BYTES))
            if "json" in self._members[name]:
                return json.loads(self._bytes(name, "json", MAX_LABEL_BYTES)).get("label")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ToonError(
                f"The label of {name} in {self._called} is neither a number nor JSON: correct it."
            ) from error
        return None

    def _bytes(self, name: str, kind: str, limit: int) -> bytes:
        offset, size = self._members[name][kind]
        if size > limit:
            raise ToonError(f"{name} in {self._called} holds {size:,} bytes: take it out of the tar.")
        try:
            self._file.seek(offset)
            data = self._file.read(size)
        except OSError as error:
            raise ToonError(f"{name} in {self._called} cannot be read ({error.strerror or error}).") from error
        if len(data) != size:
            raise ToonError(f"{self._called} is cut short: copy it there again.")
        return data


def _samples(file: BinaryIO, called: str) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """For each sample with a picture its name, and (offset, size) of ``picture``, ``cls`` and ``json``."""
    key, places, name, count = None, {}, None, 0
    try:
        with _Tar.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members.clear()
                count += 1
                if count > MAX_MEMBERS:
                    raise ToonError(f"{called} holds more than {MAX_MEMBERS:,} files: split it.")
                folder, _, base = member.name.rpartition("/")
                stem, _, kind = base.partition(".")
                if not member.isreg() or not stem:
                    continue
                if (folder, stem) != key:
                    if name is not None:
                        yield name, places
                    key, places, name = (folder, stem), {}, None
                if f".{kind.lower()}" in SUFFIXES and name is None:
                    name, kind = member.name, "picture"
                places.setdefault(kind, (member.offset_data, member.size))
            if name is not None:
                yield name, places
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        raise ToonError(f"{called} is cut short or no uncompressed tar ({error}): copy or make it again.") from error


def write_tar(path: Path, samples: Iterable[tuple[str, bytes, Any]]) -> list[Any]:
    """Write ``(name, picture, label or None)`` into one tar, without dates and owners; the labels."""
    labels = []
    with _Tar.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data, label in samples:
            _add(tar, name, data)
            key = name.rpartition(".")[0]
            if isinstance(label, int):
                _add(tar, f"{key}.cls", str(label).encode())
            elif label is not None:
                _add(tar, f"{key}.json", json.dumps({"label": label}).encode())
            labels.append(label)
    return labels


def _add(tar: _Tar, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
    tar.members.clear()

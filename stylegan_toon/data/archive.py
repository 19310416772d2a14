"""Pictures in a folder or a zip, sorted by name and read one at a time."""

from __future__ import annotations

import bisect
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ..errors import ToonError
from ..files import BoundedReader
from .images import SUFFIXES

LABEL_FILE = "dataset.json"
MAX_MEMBERS = 20_000_000
MAX_DIRECTORY = 1 << 30  # bytes of a zip's table of contents: 16 million pictures in the layout of NVIDIA
MAX_MEMBER_BYTES = 512 * 1024 * 1024  # a compressed file that says it unpacks to more is refused

# RuntimeError: encrypted; NotImplementedError: a compression method this Python lacks.
_UNREADABLE = (OSError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error)


class Archive:
    """A folder (searched to any depth) or a zip of pictures.

    Nothing is unpacked to disk, so the names inside a zip cannot overwrite files. Instances may be sent to other
    processes: each opens the zip again.

    Attributes:
        path: of the folder or zip.
        names: names of the pictures relative to it, ``/`` between folders, sorted; hidden files are left out.

    Raises:
        ToonError: missing, neither a folder nor a zip, or without pictures.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._owner = -1
        if self.path.is_dir():
            self._members = [
                (Path(folder) / file).relative_to(self.path).as_posix()
                for folder, _, files in os.walk(self.path)
                for file in files
            ]
        elif not self.path.exists():
            raise ToonError(f"{self.path} does not exist: give a folder or a zip of pictures.")
        else:
            self._members = [info.filename for info in self._opened().infolist() if not info.is_dir()]
        if len(self._members) > MAX_MEMBERS:
            raise ToonError(f"{self.path} holds more than {MAX_MEMBERS:,} files: split it into tar shards.")
        self._members.sort()
        self.names = [name for name in self._members if is_picture(name)]
        if not self.names:
            raise ToonError(f"{self.path} holds no pictures ({', '.join(SUFFIXES)}): give another folder or zip.")

    def __contains__(self, name: str) -> bool:
        index = bisect.bisect_left(self._members, name)
        return index < len(self._members) and self._members[index] == name

    def labels(self) -> list[Any] | None:
        """The label of every picture in ``names``, as ``dataset.json`` has them; None if it has none.

        Raises:
            ToonError: the file is not ``{"labels": [["00000/img00000000.png", 3], …]}``, or misses a picture.
        """
        if LABEL_FILE not in self:
            return None
        try:
            pairs = json.loads(self.read(LABEL_FILE))["labels"]
            given = None if pairs is None else dict(pairs)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise malformed_labels(self.path) from error
        if given is None:
            return None
        missing = next((name for name in self.names if name not in given), None)
        if missing is not None:
            raise ToonError(f"{LABEL_FILE} in {self.path} has no label for {missing}: add it.")
        return [given[name] for name in self.names]

    def read(self, name: str) -> bytes:
        """The bytes of one member.

        Raises:
            ToonError: it is missing, damaged, encrypted or far too large.
        """
        where = f"{name} in {self.path}"
        try:
            if self.path.is_dir():
                return (self.path / name).read_bytes()
            info = self._opened().getinfo(name)
            if info.file_size > MAX_MEMBER_BYTES:
                raise ToonError(f"{where} unpacks to {info.file_size:,} bytes: take it out of the zip.")
            with self._opened().open(info) as file:
                data = file.read(MAX_MEMBER_BYTES + 1)  # the size in the directory may be wrong
            if len(data) > MAX_MEMBER_BYTES:
                raise ToonError(f"{where} unpacks to more than it says: take it out of the zip.")
            return data
        except KeyError:
            raise ToonError(f"{where} does not exist.") from None
        except _UNREADABLE as error:
            raise ToonError(f"{where} cannot be read ({error}): replace it or take it out.") from error

    def _opened(self) -> zipfile.ZipFile:
        # After a fork, both processes would move the file position of one shared handle.
        if self._zip is None or self._owner != os.getpid():
            try:
                self._zip = zipfile.ZipFile(BoundedReader(open(self.path, "rb"), MAX_DIRECTORY))  # noqa: SIM115 (kept open)
            except (OSError, zipfile.BadZipFile, ValueError) as error:
                raise ToonError(
                    f"{self.path} is neither a folder nor a readable zip of pictures: give one of those."
                ) from error
            self._owner = os.getpid()
        return self._zip

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_zip": None}


def malformed_labels(path: object) -> ToonError:
    """The error for labels that cannot be used."""
    return ToonError(
        f'{LABEL_FILE} in {path} is malformed: it must hold {{"labels": [["name", class or numbers], …]}}.'
    )


def is_picture(name: str) -> bool:
    """Whether a member's name ends like a picture's and is not hidden."""
    parts = name.split("/")
    return name.lower().endswith(SUFFIXES) and not any(part.startswith((".", "__MACOSX")) for part in parts)

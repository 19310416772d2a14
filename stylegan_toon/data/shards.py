"""Sets of tar shards (`tar_shard`), on disk or behind http(s), read by index like any other set.

``index.json`` beside the tars holds the number of samples in each (the wids layout: ``{"wids_version": 1, "shardlist":
[{"url": "000000.tar", "nsamples": 1000, …}]}``; `write_shards` adds ``labels`` and ``sha256``). Shards on disk are
counted when it is missing; behind http it is needed.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import tempfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, overload
from urllib.parse import urljoin, urlsplit

from ..errors import ToonError
from ..files import atomic_path
from .archive import MAX_MEMBERS, malformed_labels
from .tar_shard import OpenShard, write_tar

INDEX = "index.json"
MAX_SHARDS = 1_000_000
MAX_INDEX_BYTES = 1 << 30
MAX_SHARD_BYTES = 64 << 30
OPEN_SHARDS = 16  # kept open by each process


@dataclass(frozen=True)
class Shard:
    """One tar.

    Attributes:
        place: path or http(s) address.
        size: samples in it.
        sha256: of the file; None = not known.
        labels: of its samples, in order; None = not known.
    """

    place: str
    size: int
    sha256: str | None = None
    labels: list[Any] | None = None

    @property
    def name(self) -> str:
        """The file's name, without folders."""
        return (urlsplit(self.place).path if is_url(self.place) else Path(self.place).as_posix()).rpartition("/")[2]


def is_url(place: object) -> bool:
    """Whether this is an http(s) address."""
    return isinstance(place, str) and place.startswith(("http://", "https://"))


def is_shards(place: str | Path) -> bool:
    """Whether this names tar shards: an address, a ``.tar``, a pattern of them, or a folder that holds some."""
    text = str(place)
    return is_url(text) or text.endswith((".tar", ".tar}", INDEX)) or next(Path(place).glob("*.tar"), None) is not None


class Shards:
    """Samples of tar shards, in order of shard and of place in it; the interface of `Archive`.

    Nothing is unpacked to disk, and only regular files count. A shard behind http is downloaded as a whole, checked
    against the index and cached; the least recently used are deleted. Instances may be sent to other processes.

    Args:
        place: a folder of tars, one tar, a pattern (``shards/{000..041}.tar``, ``shards/*.tar``), an
            ``index.json``, or the http(s) address of a folder, an index or a brace pattern.
        cache: folder for downloaded shards; ``shards`` in the package's cache if None.
        cache_bytes: largest size of that folder.
        index: take sizes from the ``index.json`` beside shards on disk; else every tar is read and counted.

    Attributes:
        path: ``place``.
        sizes: samples in each shard.
        names: ``SHARD/KEY.png`` of every sample, looked up on access.

    Raises:
        ToonError: no pictures, a damaged tar or index, or an address without index.
    """

    def __init__(
        self, place: str | Path, *, cache: Path | None = None, cache_bytes: int = 50 << 30, index: bool = True
    ) -> None:
        self.path = place
        self._cache, self._cache_bytes = cache, cache_bytes
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._owner = os.getpid()
        self.shards = _listed(str(place), index)
        self.sizes = [shard.size for shard in self.shards]
        if not sum(self.sizes):
            raise ToonError(f"{place} holds no pictures: give tar shards with one picture a sample.")
        if sum(self.sizes) > 1 << 40:
            raise ToonError(f"{place} claims {sum(self.sizes):,} samples: its {INDEX} is damaged.")
        self._ends = list(accumulate(self.sizes))
        self._by_name = {shard.name: number for number, shard in enumerate(self.shards)}
        if len(self._by_name) != len(self.shards):
            raise ToonError(f"{place} names two shards alike: give each its own name.")
        self.names = _Names(self)

    def read(self, name: str) -> bytes:
        """The bytes of one picture. Raises ToonError if it is missing, damaged or far too large."""
        shard, _, member = name.partition("/")
        if shard not in self._by_name:
            raise ToonError(f"{name} in {self.path} does not exist.")
        return self._opened(self._by_name[shard]).read(member)

    def labels(self) -> list[Any] | None:
        """The label of every sample, from the index or else the samples; None if the first sample has none."""
        indexed = [shard.labels for shard in self.shards if shard.labels is not None]
        if len(indexed) == len(self.shards):
            return list(chain.from_iterable(indexed))
        labels = []
        for number in range(len(self.shards)):
            opened = self._opened(number)
            for member in opened.names:
                label = opened.label(member)
                if label is None and labels:
                    raise ToonError(f"{self.shards[number].name}/{member} in {self.path} has no label: add it.")
                if label is None:
                    return None
                labels.append(label)
        return labels

    def _name(self, row: int) -> str:
        number = bisect_right(self._ends, row)
        members = self._opened(number).names
        inside = row - (self._ends[number] - self.sizes[number])
        return f"{self.shards[number].name}/{members[inside]}"

    def _opened(self, number: int) -> OpenShard:
        if self._owner != os.getpid():  # file positions must not be shared across a fork
            self._open, self._owner = OrderedDict(), os.getpid()
        if number not in self._open:
            shard = self.shards[number]
            path = self._fetched(shard) if is_url(shard.place) else Path(shard.place)
            opened = OpenShard(path, shard.place)
            if len(opened.names) != shard.size:
                raise ToonError(
                    f"{shard.place} holds {len(opened.names)} pictures, the index says {shard.size}: "
                    "make the index again with `stylegan-toon dataset check --write-index`."
                )
            self._open[number] = opened
            while len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]

    def _fetched(self, shard: Shard) -> Path:
        from ..weights.download import cache_folder, fetch

        folder = self._cache or cache_folder() / "shards"
        path = folder / f"{hashlib.sha256(f'{shard.place} {shard.sha256}'.encode()).hexdigest()[:16]}-{shard.name}"
        fetch(shard.place, path, sha256=shard.sha256, max_bytes=MAX_SHARD_BYTES, quiet=True)
        self._trim_cache(folder, keep=path)
        return path

    def _trim_cache(self, folder: Path, keep: Path) -> None:
        """Delete the least recently used shards until the cache is within its limit."""
        with contextlib.suppress(OSError):
            os.utime(keep)  # mark it as used last
        files = sorted(folder.glob("*.tar"), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= self._cache_bytes or file == keep:
                break
            with contextlib.suppress(OSError):  # another process removed it, or (on Windows) still reads it
                total -= file.stat().st_size
                file.unlink()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}


class _Names(Sequence[str]):
    """Names of all samples, looked up one by one: a list of a hundred million would fill the memory."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def __len__(self) -> int:
        return self._shards._ends[-1]

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self._shards._name(i) for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"sample {row} of {len(self)}")
        return self._shards._name(row % len(self))


def _listed(place: str, index: bool) -> list[Shard]:
    """The shards at a place, with their sizes."""
    if is_url(place):
        return _listed_online(place)
    path = Path(place)
    if path.name == INDEX:
        return _read_index(path.read_bytes() if path.exists() else b"", place)
    if path.is_dir():
        if index and (path / INDEX).exists():
            return _read_index((path / INDEX).read_bytes(), str(path / INDEX))
        files = sorted(map(str, path.glob("*.tar")))
    else:
        files = sorted({file for pattern in _expand_braces(place) for file in glob.glob(pattern) or [pattern]})
    folders = {Path(file).parent for file in files}
    indexed = {folder: _indexed(folder / INDEX) if index else {} for folder in folders}
    return [indexed[Path(file).parent].get(Path(file).name) or _counted(file) for file in files]


def _indexed(index: Path) -> dict[str, Shard]:
    return {shard.name: shard for shard in _read_index(index.read_bytes(), str(index))} if index.exists() else {}


def _counted(file: str) -> Shard:
    opened = OpenShard(Path(file), file)
    opened.close()
    return Shard(file, len(opened.names))


def _listed_online(place: str) -> list[Shard]:
    from ..weights.download import fetch

    if place.endswith(INDEX):
        index, wanted = place, None
    elif urlsplit(place).path.endswith((".tar", ".tar}")):
        index, wanted = urljoin(place, INDEX), list(_expand_braces(place))
    else:
        index, wanted = urljoin(place.rstrip("/") + "/", INDEX), None
    with tempfile.TemporaryDirectory() as folder:  # not in the cache, since a set may have grown
        fetch(index, Path(folder) / INDEX, max_bytes=MAX_INDEX_BYTES, quiet=True)
        shards = _read_index((Path(folder) / INDEX).read_bytes(), index)
    if wanted is None:
        return shards
    by_place = {shard.place: shard for shard in shards}
    unknown = [shard for shard in wanted if shard not in by_place]
    if unknown:
        raise ToonError(f"{index} does not list {unknown[0]}: make it again with `stylegan-toon dataset check`.")
    return [by_place[shard] for shard in wanted]


def _expand_braces(pattern: str) -> Iterator[str]:
    """``a{00..11}.tar`` -> ``a00.tar`` … ``a11.tar``."""
    match = re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", pattern)
    if match is None:
        yield pattern
        return
    low, high = int(match[1]), int(match[2])
    if not 0 <= high - low < MAX_SHARDS:
        raise ToonError(f"{pattern} is no range of shards: write it like {{000..041}}.")
    for number in range(low, high + 1):
        yield f"{pattern[: match.start()]}{number:0{len(match[1])}d}{pattern[match.end() :]}"


def _read_index(data: bytes, where: str) -> list[Shard]:
    malformed = ToonError(f"{where} is no index of shards: make it again with `stylegan-toon dataset check`.")
    try:
        if len(data) > MAX_INDEX_BYTES:
            raise malformed
        rows = json.loads(data)["shardlist"]
        if not isinstance(rows, list) or not 0 < len(rows) <= MAX_SHARDS:
            raise malformed
        shards = []
        for row in rows:
            size, labels, digest = row["nsamples"], row.get("labels"), row.get("sha256")
            if type(size) is not int or not 0 <= size <= MAX_MEMBERS or not isinstance(digest, (str, type(None))):
                raise malformed
            if labels is not None and (not isinstance(labels, list) or len(labels) != size):
                raise malformed_labels(where)
            shards.append(Shard(_shard_place(where, row["url"]), size, digest, labels))
        return shards
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise malformed from error


def _shard_place(index: str, name: str) -> str:
    """The path or address of a shard named in an index, which may name only files of its own folder, or addresses."""
    if is_url(index):
        address = urljoin(index, name)
        if is_url(address):
            return address
    elif re.fullmatch(r"[^/\\]+\.tar", name):
        return str(Path(index).parent / name)
    raise ToonError(f"{index} names {name!r}, which is no tar beside it: make it again.")


def write_index(folder: Path, shards: Iterable[tuple[str, int, list[Any] | None]]) -> Path:
    """Write ``index.json`` for tars in ``folder``, from name, number of samples and labels (or None) of each.

    Returns:
        The path of the index.
    """
    from ..weights.checkpoint import sha256_of

    rows = []
    for name, size, labels in shards:
        path = folder / name
        row = {"url": name, "nsamples": size, "filesize": path.stat().st_size, "sha256": sha256_of(path)}
        rows.append(row if labels is None else {**row, "labels": labels})
    with atomic_path(folder / INDEX) as temporary:
        temporary.write_text(json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": rows}))
    return folder / INDEX


def write_shards(folder: Path, samples: Iterable[tuple[str, bytes, Any]], per_shard: int) -> None:
    """Write ``(name, picture, label or None)`` into ``000000.tar`` … and ``index.json`` of an existing folder.

    The same samples give the same bytes.
    """
    written: list[tuple[str, int, list[Any] | None]] = []
    remaining = iter(samples)
    while first := next(remaining, None):
        name = f"{len(written):06d}.tar"
        labels = write_tar(folder / name, chain([first], islice(remaining, per_shard - 1)))
        written.append((name, len(labels), None if labels[0] is None else labels))
    write_index(folder, written)

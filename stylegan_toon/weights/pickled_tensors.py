"""Tensors and numbers inside pickles: located first, and read from the file one at a time when they are needed.

torch writes a tensor as a call of a rebuilding function on a storage. The storage is either kept outside of the
pickle (``torch.save``: in a zip since 1.6, after the pickle before) or, in a plain pickle, a byte string that is a
whole ``torch.save`` file of the older kind.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, cast

import torch
from torch import Tensor

from ..errors import ToonError
from ..files import BoundedReader
from .assemble import misfit
from .pickles import Global, Persistent, PickleError, Reader, Record, Span, TextSpan, read_pickle

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
ALLOWED = {
    *((("torch", name)) for name in STORAGES),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.storage", "_load_from_bytes"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
}
_MAGIC = 0x1950A86A20F9469CFC6C  # first number of every torch.save file before 1.6
_SMALL = 32 << 10  # budget of the pickles in a single storage's file
_MAX_DIRECTORY = 4 << 20  # bytes of a zip's table of contents: 30,000 storages


@dataclass(frozen=True)
class Storage:
    """Consecutive numbers: their offset in the file, or their bytes if there are few."""

    dtype: torch.dtype
    count: int
    data: int | memoryview  # offset into the file, or the bytes


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet; ``shape``, ``dtype`` and ``is_floating_point()`` are those of a tensor."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    @property
    def extent(self) -> int:
        """Numbers of the storage from the first to the last one of the tensor."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride))

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last number of the tensor."""
        return self.extent * self.dtype.itemsize

    def with_shape(self, shape: tuple[int, ...]) -> StoredTensor:
        """The same tensor with axes of length 1 taken out or put in."""
        steps = iter([step for size, step in zip(self.shape, self.stride) if size != 1])
        return replace(self, shape=shape, stride=tuple(1 if size == 1 else next(steps) for size in shape))

    def read(self, file: BinaryIO) -> Tensor:
        """The tensor, contiguous, on the CPU, read without a second buffer.

        Raises:
            PickleError: the file has become shorter.
        """
        buffer = torch.empty(self.nbytes, dtype=torch.uint8)
        start = self.offset * self.dtype.itemsize
        if isinstance(self.storage.data, memoryview):
            buffer.numpy()[:] = self.storage.data[start : start + self.nbytes]
        else:
            file.seek(self.storage.data + start)
            if cast(io.BufferedIOBase, file).readinto(memoryview(cast(bytes, buffer.numpy()))) != self.nbytes:
                raise PickleError("it ends too early")
        return buffer.view(self.dtype).as_strided(self.shape, self.stride).contiguous()


class PickleFile:
    """An open file with one pickle of networks in it: a plain pickle or a ``torch.save`` file, old or new (zip).

    Attributes:
        root: the pickle, as `pickles.read_pickle` gives it.
        size: of the file, in bytes.
    """

    def __init__(self, file: BinaryIO, allowed: set[tuple[str, str]]) -> None:
        self.file = file
        self.size = file.seek(0, io.SEEK_END)
        self._allowed = allowed | ALLOWED
        self._outside: dict[str, Storage] = {}  # storages kept outside of the pickle
        self._inside: dict[Span | bytes | str, Storage] = {}  # those in byte strings, by the string
        file.seek(0)
        if file.read(2) == b"PK":
            self.root = self._read_zip()
        else:
            self.root = self._read_stream(Reader(file, 0, self.size), self._outside)

    def check_claims(self, tensors: Iterable[StoredTensor]) -> None:
        """Raise PickleError if tensors share storage so that together they are larger than the file."""
        if sum(tensor.nbytes for tensor in tensors) > self.size:
            raise PickleError("its tensors claim more than it holds")

    def tensors(
        self, entries: Mapping[str, Any], path: str | Path, others: Iterable[StoredTensor] = ()
    ) -> dict[str, StoredTensor]:
        """The entries of a state dict, which must all be tensors and, with ``others``, not be larger than the file.

        Raises:
            ToonError: an entry is not a tensor.
            PickleError: a tensor is malformed, or together they are larger than the file.
        """
        located = {name: self.tensor(value) for name, value in entries.items()}
        tensors = {name: tensor for name, tensor in located.items() if tensor is not None}
        if len(tensors) < len(located):
            raise misfit(path, "not tensors", [name for name in located if name not in tensors])
        self.check_claims([*tensors.values(), *others])
        return tensors

    def tensor(self, value: Any) -> StoredTensor | None:
        """A value of the pickle as a tensor, if it is a tensor or parameter, else None.

        Raises:
            PickleError: a malformed tensor.
        """
        while calls(value, "torch._utils", "_rebuild_parameter") and len(value.args) > 0:
            value = value.args[0]
        if not calls(value, "torch._utils", "_rebuild_tensor_v2"):
            return None
        malformed = PickleError("it is damaged: a tensor is malformed")
        if len(value.args) < 4:
            raise malformed
        source, offset, shape, stride = value.args[:4]
        storage = self._storage(source)
        whole = (offset, *shape, *stride) if type(shape) is type(stride) is tuple else (None,)
        if not all(type(n) is int and n >= 0 for n in whole) or len(shape) != len(stride) or len(shape) > 8:
            raise malformed
        tensor = StoredTensor(storage, offset, shape, stride)
        if offset + tensor.extent > storage.count or math.prod(shape) > tensor.extent:
            raise PickleError("it is damaged: a tensor is larger than what is stored of it")
        return tensor

    def _storage(self, source: Any) -> Storage:
        if isinstance(source, Persistent):
            return self._described(source.id, self._outside)
        if not calls(source, "torch.storage", "_load_from_bytes") or len(source.args) != 1:
            raise PickleError("it is damaged: a tensor has no storage")
        content = source.args[0]
        encoded = False
        if calls(content, "_codecs", "encode"):
            content, encoded = next(iter(content.args), None), True
        if not isinstance(content, (Span, bytes, str)):
            raise PickleError("it is damaged: a storage has no bytes")
        if content not in self._inside:
            if encoded or isinstance(content, str):
                self._inside[content] = self._embedded(self._decoded(content))
            else:
                self._inside[content] = self._embedded(content)
        return self._inside[content]

    def _embedded(self, content: Span | bytes) -> Storage:
        storages: dict[str, Storage] = {}
        if isinstance(content, bytes):
            root = self._read_stream(Reader(io.BytesIO(content), 0, len(content)), storages, _SMALL)
        else:
            reader = Reader(self.file, content.start, content.start + content.length)
            root = self._read_stream(reader, storages, _SMALL)
        if not isinstance(root, Persistent):
            raise PickleError("it is damaged: a storage holds something else")
        storage = self._described(root.id, storages)
        if isinstance(content, bytes) and isinstance(storage.data, int):
            return Storage(storage.dtype, storage.count, memoryview(content)[storage.data :])
        return storage

    def _decoded(self, content: Any) -> bytes:
        """Bytes from the Latin-1 text as which protocol 2, which has no bytes, stores them."""
        if not isinstance(content, TextSpan):
            return _latin(content)
        text = codecs.getincrementaldecoder("utf-8")()
        reader = Reader(self.file, content.start, content.start + content.length)
        whole = bytearray()
        while left := reader.end - reader.at:
            try:
                whole += text.decode(reader.take(min(left, 1 << 20))).encode("latin-1")
            except UnicodeError:
                raise PickleError("it is damaged: bytes are malformed") from None
        return bytes(whole)

    def _read_stream(self, reader: Reader, storages: dict[str, Storage], budget: int | None = None) -> Any:
        """A plain pickle, or a ``torch.save`` file before 1.6: three pickles before the pickle, storages after it."""
        root = read_pickle(reader, self._permits, budget)
        if type(root) is not int or root != _MAGIC:
            return root
        read_pickle(reader, self._permits, _SMALL)  # version of the protocol
        system = read_pickle(reader, self._permits, _SMALL)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise PickleError("it was written on a big-endian machine")
        root = read_pickle(reader, self._permits, budget)
        keys = read_pickle(reader, self._permits, budget)
        kinds: dict[str, torch.dtype] = {}
        for persistent in _persistents(root):
            kind, key, _ = _description(persistent)
            kinds[key] = kind
        for key in keys if isinstance(keys, list) else ():
            if type(key) is not str or key not in kinds:
                raise PickleError("it is damaged: a storage belongs to nothing")
            (count,) = struct.unpack("<q", reader.take(8))
            if count < 0:
                raise PickleError("it is damaged: a storage is smaller than nothing")
            span = reader.skip(count * kinds[key].itemsize)
            storages[key] = Storage(kinds[key], count, span.start)
        return root

    def _read_zip(self) -> Any:
        try:
            return self._read_members()
        except (zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, ValueError, NotImplementedError) as error:
            raise PickleError(f"its zip is damaged: {error}") from error

    def _read_members(self) -> Any:
        archive = zipfile.ZipFile(BoundedReader(self.file, _MAX_DIRECTORY))
        pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise PickleError("it is a zip but none of torch.save")
        folder = pickles[0].filename.removesuffix("data.pkl")
        with contextlib.suppress(KeyError):
            if self._member(archive.getinfo(f"{folder}byteorder")).take(6) != b"little":
                raise PickleError("it was written on a big-endian machine")
        root = read_pickle(self._member(pickles[0]), self._permits)
        kinds = {key: kind for kind, key, _ in map(_description, _persistents(root))}
        for key, kind in kinds.items():
            try:
                member = self._member(archive.getinfo(f"{folder}data/{key}"))
            except KeyError:
                raise PickleError("it is damaged: a storage is missing") from None
            self._outside[key] = Storage(kind, (member.end - member.at) // kind.itemsize, member.at)
        return root

    def _member(self, info: zipfile.ZipInfo) -> Reader:
        """The bytes of a member, which torch stores uncompressed."""
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise PickleError("its zip is compressed or encrypted, which torch.save does not do")
        header = Reader(self.file, info.header_offset, self.size).take(30)
        if header[:4] != b"PK\3\4":
            raise PickleError("its zip is damaged")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if start + info.file_size > self.size:
            raise PickleError("it ends too early")
        return Reader(self.file, start, start + info.file_size)

    def _described(self, description: Any, storages: dict[str, Storage]) -> Storage:
        kind, key, count = _description(Persistent(description))
        if key not in storages or storages[key].dtype != kind or storages[key].count < count:
            raise PickleError("it is damaged: a storage is missing or too short")
        return storages[key]

    def _permits(self, name: Global) -> bool:
        return name in self._allowed


@contextlib.contextmanager
def opened(path: str | Path, allowed: set[tuple[str, str]]) -> Iterator[PickleFile]:
    """Open an ordinary file of networks for reading.

    Args:
        allowed: (module, name) of classes and functions that may appear in the pickle beside those of tensors.

    Raises:
        ToonError: what is wrong with the file, in one sentence; also for errors inside the ``with`` block.
    """
    try:
        with open(path, "rb") as file:
            yield PickleFile(file, allowed)
    except PickleError as error:
        raise ToonError(f"{path} is not read because {error}; nothing in it was run.") from error
    except OSError as error:
        raise ToonError(f"{path} cannot be read ({error.strerror or error}): check the path.") from error


def table(value: Any) -> dict | None:
    """The entries of a dict or OrderedDict of the pickle; None for anything else."""
    if isinstance(value, Record) and value.what == ("collections", "OrderedDict"):
        return value.items if not value.args else None
    return value if isinstance(value, dict) else None


def number(value: Any) -> Any:
    """A numpy scalar of a pickle as a Python number; other values as they are.

    Raises:
        PickleError: a scalar, but malformed.
    """
    if not isinstance(value, Record) or value.what.name != "scalar":
        return value
    match value.args:
        case (Record(what=Global(module="numpy", name="dtype"), args=(str(kind), *_)), data):
            forms = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "b1": "<?"}
            if calls(data, "_codecs", "encode") and data.args:
                data = _latin(data.args[0])
            if kind in forms and isinstance(data, bytes) and len(data) == struct.calcsize(forms[kind]):
                return struct.unpack(forms[kind], data)[0]
    raise PickleError("it is damaged: a number is malformed")


def _latin(text: Any) -> bytes:
    try:
        return text.encode("latin-1")
    except (UnicodeError, AttributeError):
        raise PickleError("it is damaged: bytes are malformed") from None


def calls(value: Any, module: str, name: str) -> TypeGuard[Record]:
    """Whether a value of the pickle is a call of ``module.name`` (which was not made)."""
    return isinstance(value, Record) and value.what == (module, name)


def _description(persistent: Persistent) -> tuple[torch.dtype, str, int]:
    """dtype, key and count of a storage kept outside: ("storage", class, key, device, count[, view])."""
    match persistent.id:
        case ("storage", Global(module="torch", name=kind), str(key), str(_), int(count), *view):
            if kind in STORAGES and count >= 0 and not any(view):
                return STORAGES[kind], key, count
    raise PickleError("it is damaged: a storage is described wrongly")


def _persistents(root: Any) -> Iterator[Persistent]:
    """Every `Persistent` in a pickle, each object visited once."""
    waiting, visited = [root], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Persistent):
            yield value
            continue
        if not isinstance(value, (tuple, list, dict, Record)) or id(value) in visited:
            continue
        visited.add(id(value))
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, Record):
            waiting.extend((value.args, value.state, value.items))
        else:
            waiting.extend(value)

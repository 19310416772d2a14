"""A file of ``torch.save``, proved harmless before torch may open it.

``torch.load(weights_only=True)`` runs no stranger's code, but it takes a file's word for sizes: the few types it knows
suffice to ask for terabytes, or to point past the end of a tensor's memory. So the file is first gone through here:
the zip's directory is bounded and may overlap nowhere, and its pickle is followed on placeholders, opcode by opcode,
with nothing allowed but what state dicts are made of. What passes costs no more memory than the file has bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..errors import ToonError

# G, G_ema, D and both optimisers at 1024 px have a pickle of 104 kB, a directory of 58 kB and 34,279 opcodes.
MAX_PICKLE = 1 << 20
MAX_DIRECTORY = 1 << 20
MAX_OPCODES = 100_000
MAX_NAMESPACES = 16  # a training file holds one: its command line

_ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip
_MEMBERS = {"data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # of torch before 1.6: four pickles, then the tensors' bytes
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def load_pt(path: str | Path) -> Any:
    """What ``torch.save`` put into ``path``: containers, numbers, strings and tensors on the CPU.

    Tensors of a zip (torch 1.6 and later) lie in the mapped file and take memory only when they are looked at;
    an older file is read whole.

    Raises:
        ToonError: no such file, not one of torch's, damaged, larger than it is, or holding anything else.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ToonError(f"{path} is not a file: give one network file.")
        with open(path, "rb") as file:
            mappable = _check(file, path.stat().st_size)
        with _plain_namespaces():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except FileNotFoundError:
        raise ToonError(f"{path} does not exist: check the path.") from None
    except ToonError:
        raise
    except OSError as error:
        raise ToonError(f"{path} cannot be read ({error.strerror or error}): check the path.") from error
    except Exception as error:  # damage shows itself in many ways, here and inside torch
        reason = " ".join(str(error).split())[:120]
        raise ToonError(
            f"{path} is not a PyTorch file that is safe to read ({reason or type(error).__name__}): get it again."
        ) from error


def _plain_namespaces() -> contextlib.AbstractContextManager:
    """Let torch.load build ``argparse.Namespace``, a bag of values in which training files keep their options."""
    if hasattr(torch.serialization, "safe_globals"):
        return torch.serialization.safe_globals([argparse.Namespace])
    torch.serialization.add_safe_globals([argparse.Namespace])  # torch 2.4
    return contextlib.nullcontext()


def _check(file: BinaryIO, size: int) -> bool:
    """Go through the whole file; raises _Refusal. True if its tensors may be used where they lie."""
    start = file.read(len(_LEGACY_START))
    if start == _LEGACY_START:
        _check_legacy(file, size)
        return False
    if start[:4] != b"PK\x03\x04":
        raise _Refusal("it is neither a zip nor an older torch file")
    members = _members(file, size)
    if "byteorder" in members and _read(file, *members["byteorder"]) != b"little":
        raise _Refusal("its numbers are stored big end first")
    _require("data.pkl" in members, "it has no data.pkl")
    data = {name.removeprefix("data/"): place for name, place in members.items() if name.startswith("data/")}
    pickle = _Pickle({key: length for key, (_, length) in data.items()})
    pickle.run(io.BytesIO(_read(file, *members["data.pkl"])))
    pickle.check_ranges()
    return all(offset % 8 == 0 for offset, _ in data.values())  # a zip packed anew by other tools is not aligned


class _Refusal(Exception):
    """What is wrong with a file, to follow "not a PyTorch file that is safe to read"."""


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _Refusal(reason)


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    _require(length <= MAX_PICKLE, "a part of its description is far too long")
    file.seek(offset)
    data = file.read(length)
    _require(len(data) == length, "it is cut short")
    return data


# ---------------------------------------------------------------- the zip


def _members(file: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Name inside the archive's one folder -> (offset, length) of its bytes, which lie there uncompressed."""
    offset, length = _directory(file, size)
    _require(length <= MAX_DIRECTORY, "it lists far too many parts")
    with zipfile.ZipFile(file) as archive:
        _require(archive.start_dir == offset, "its directory is ambiguous")
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    members: dict[str, tuple[int, int]] = {}
    end = 0
    folders = set()
    for info in infos:
        folder, _, name = info.orig_filename.partition("/")
        folders.add(folder)
        known = name in _MEMBERS or re.fullmatch("data/[0-9]{1,9}", name)
        _require(bool(known) and name not in members, f"it has the unexpected part {info.orig_filename[:60]!r}")
        whole = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        _require(whole and info.file_size == info.compress_size, "it is compressed")
        header = _read(file, info.header_offset, 30)
        _require(header[:4] == b"PK\x03\x04" and info.header_offset >= end, "its parts overlap")
        begin = info.header_offset + 30 + sum(struct.unpack("<2H", header[26:]))
        end = begin + info.file_size
        members[name] = (begin, info.file_size)
    _require(len(folders) == 1 and end <= offset, "its parts overlap")
    return members


def _directory(file: BinaryIO, size: int) -> tuple[int, int]:
    """(offset, length) of the zip's directory, by the one reading on which all zip libraries agree."""
    _require(size >= 22, "it is cut short")
    *_, length, offset, comment = struct.unpack("<4s4H2LH", end := _read(file, size - 22, 22))
    _require(end[:4] == b"PK\x05\x06" and comment == 0, "it is cut short, or something was appended")
    stop = size - 22
    if size >= 98 and (locator := _read(file, size - 42, 20))[:4] == b"PK\x06\x07":  # zip64
        stop = size - 98
        record = _read(file, stop, 56)
        _require(record[:4] == b"PK\x06\x06" and struct.unpack("<Q", locator[8:16]) == (stop,), "its end is damaged")
        length, offset = struct.unpack("<2Q", record[40:])
    _require(offset + length == stop, "its directory does not end where it says")
    return offset, length


# ---------------------------------------------------------------- the form before torch 1.6


def _check_legacy(file: BinaryIO, size: int) -> None:
    file.seek(0)
    stream = io.BytesIO(file.read(MAX_PICKLE))
    pickle = _Pickle()
    head = [pickle.run(stream) for _ in range(3)]
    little = isinstance(head[2], dict) and head[2].get("little_endian") is True
    _require(head[:2] == [_LEGACY_MAGIC, 1001] and little, "it is not of a known version")
    pickle.run(stream)
    keys = pickle.run(stream)
    _require(isinstance(keys, list) and all(isinstance(key, str) for key in keys), "its list of tensors is damaged")
    _require(sorted(keys) == sorted(pickle.used), "its list of tensors is damaged")
    position = stream.tell()
    for key in keys:  # each storage: its number of elements, and as many elements
        numel, item = pickle.used[key]
        _require(_read(file, position, 8) == struct.pack("<q", numel), "its tensors are not of the size they claim")
        position += 8 + numel * item
    _require(position == size, "its tensors are not of the size they claim")
    pickle.check_ranges()


# ---------------------------------------------------------------- the pickle


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    item: int
    numel: int


class _Tensor:
    """Stands for a tensor."""


class _Namespace:
    """Stands for an argparse.Namespace."""


class _Ordered(dict):
    """Stands for an OrderedDict."""


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STORAGES = {f"torch {name}": item for name, item in _ITEM_BYTES.items()}
_ORDERED, _NAMESPACE = _Global("collections OrderedDict"), _Global("argparse Namespace")
_TENSOR, _PARAMETER = _Global("torch._utils _rebuild_tensor_v2"), _Global("torch._utils _rebuild_parameter")
_GLOBALS = {_ORDERED.name, _NAMESPACE.name, _TENSOR.name, _PARAMETER.name, *_STORAGES}


@dataclass
class _Pickle:
    """Follows pickles on placeholders.

    Attributes:
        storages: key -> bytes of the storages that are there; None = not known yet.
        used: key -> (elements, bytes of one) of those that a pickle speaks of.
        ranges: key -> (first element, one past the last) of each tensor in it.
    """

    storages: Mapping[str, int] | None = None
    used: dict[str, tuple[int, int]] = field(default_factory=dict)
    ranges: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    opcodes: int = 0
    namespaces: int = 0

    def run(self, stream: BinaryIO) -> Any:
        """Follow one pickle to its end; raises _Refusal where it leaves the path of a state dict."""
        try:
            return self._run(pickletools.genops(stream))
        except (ValueError, IndexError, KeyError) as error:  # no opcode, an empty stack, a memo entry never made
            raise _Refusal("its pickle is damaged or cut short") from error

    def _run(self, opcodes: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
        stack: list[Any] = []
        marked: list[list[Any]] = []
        memo: dict[int, Any] = {}
        for opcode, arg, _ in opcodes:
            self.opcodes += 1
            _require(self.opcodes <= MAX_OPCODES, "its pickle is far too long")
            name = opcode.name
            if name in _VALUES:
                stack.append(arg)
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[arg] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[arg])
            elif name == "MARK":
                marked.append(stack)
                stack = []
            elif name in ("TUPLE", "SETITEMS", "APPENDS"):
                items, stack = stack, marked.pop()
                if name == "TUPLE":
                    stack.append(tuple(items))
                else:
                    _put(stack[-1], items, name == "APPENDS")
            elif name in ("SETITEM", "APPEND"):
                count = 2 if name == "SETITEM" else 1
                _put(stack[-count - 1], stack[-count:], name == "APPEND")
                del stack[-count:]
            elif name in _TUPLES:
                items = [stack.pop() for _ in range(_TUPLES[name])]
                stack.append(tuple(reversed(items)))
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == "GLOBAL":
                _require(arg in _GLOBALS, f"it asks for {'.'.join(arg.split())[:80]}")
                stack.append(_Global(arg))
            elif name == "BINPERSID":
                stack.append(self._storage(stack.pop()))
            elif name in ("REDUCE", "NEWOBJ"):
                args = stack.pop()
                stack.append(self._made(name, stack.pop(), args))
            elif name == "BUILD":
                state = stack.pop()
                options = isinstance(stack[-1], _Namespace)
                versions = isinstance(stack[-1], _Ordered) and isinstance(state, dict) and set(state) <= {"_metadata"}
                _require(isinstance(state, dict) and (options or versions), "it sets the state of an object")
            elif name == "STOP":
                return stack.pop()
            else:
                _require(name == "PROTO" and arg == 2, f"its pickle uses {name} {arg or ''}".strip()[:80])
        raise _Refusal("it is cut short")

    def _storage(self, pid: Any) -> _Storage:
        """A storage by its persistent id: ("storage", type, key, device, elements); one more item in older files."""
        _require(isinstance(pid, tuple) and len(pid) == 5 + (self.storages is None), "a tensor has no memory")
        kind, type_, key, device, numel = pid[:5]
        typed = isinstance(type_, _Global) and type_.name in _STORAGES
        _require(kind == "storage" and typed and isinstance(key, str) and isinstance(device, str), "a storage is odd")
        _require(type(numel) is int and numel >= 0 and pid[5:] in ((), (None,)), "a storage is odd")
        item = _STORAGES[type_.name]
        if self.storages is not None:
            _require(self.storages.get(key) == numel * item, "its tensors are not of the size they claim")
        _require(self.used.setdefault(key, (numel, item)) == (numel, item), "a storage is of two sizes")
        return _Storage(key, item, numel)

    def _made(self, how: str, cls: Any, args: Any) -> Any:
        """What calling ``cls`` gives."""
        known = isinstance(cls, _Global) and isinstance(args, tuple)
        if known and how == "NEWOBJ" and cls == _NAMESPACE and args == ():
            self.namespaces += 1
            _require(self.namespaces <= MAX_NAMESPACES, "it holds far too many objects")
            return _Namespace()
        if known and how == "REDUCE":
            if cls == _ORDERED and args == ():
                return _Ordered()
            if cls == _PARAMETER and len(args) == 3 and isinstance(args[0], _Tensor):
                return args[0]
            if cls == _TENSOR and len(args) == 6 and isinstance(args[0], _Storage):
                self._tensor(*args[:4])
                return _Tensor()
        raise _Refusal("it makes an object of its own kind")

    def _tensor(self, storage: _Storage, offset: Any, shape: Any, stride: Any) -> None:
        """A tensor must fill one run of its storage, every element once (in any order of its dimensions)."""
        whole = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= 8
        numbers = (offset, *shape, *stride) if whole else (None,)
        _require(all(type(n) is int and n >= 0 for n in numbers), "a tensor's shape is odd")
        numel = math.prod(shape)
        _require(offset + numel <= storage.numel, "a tensor reaches beyond its memory")
        step = 1
        for width, length in sorted(zip(stride, shape)):
            _require(length <= 1 or numel == 0 or width == step, "a tensor does not fill its memory")
            step *= max(length, 1)
        if numel:
            self.ranges.setdefault(storage.key, set()).add((offset, offset + numel))

    def check_ranges(self) -> None:
        """Tensors may be the same run of a storage or apart, but not in between; raises _Refusal."""
        for ranges in self.ranges.values():
            ordered = sorted(ranges)
            for (_, end), (begin, _) in itertools.pairwise(ordered):
                _require(end <= begin, "its tensors overlap")


def _put(target: Any, items: Sequence[Any], is_list: bool) -> None:
    """Append to a list or set pairs in a dict."""
    if is_list:
        _require(isinstance(target, list), "it appends to something else than a list")
        target.extend(items)
        return
    _require(isinstance(target, dict) and len(items) % 2 == 0, "it sets items of something else than a dict")
    _require(all(isinstance(key, (str, int)) for key in items[::2]), "a key is neither a name nor a number")
    target.update(zip(items[::2], items[1::2]))

"""Reads pickles as data, without running any of their code.

A pickle is a program for a small stack machine, and Python's own machine calls whatever function the program names.
This one calls nothing: for "call f(args)" it puts a `Record` of f's name and its arguments on the stack. Names that the
caller does not allow are refused. Long strings are not read; a `Span` of the file stands for them. Every object is
charged to a memory budget proportional to the file's size, so that a small file cannot use much memory.

The opcodes are those of protocols 2 to 5 that pickles of networks use (PEP 307, PEP 3154; documented in the standard
library's ``pickletools``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from ..errors import short

_INLINE = 1024  # byte strings up to this length are read at once; longer ones hold tensors
_INLINE_TEXT = 64 << 10  # the same for texts; the source code of a published module has 40 kB
_MOST_NUMBERS = 4096  # keys that are numbers; two optimisers at 1024 px have 400


class PickleError(Exception):
    """A pickle cannot be read. The message is a clause such as "it ends too early"."""


class Global(NamedTuple):
    """The name of a function or class in a pickle; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Span(NamedTuple):
    """Bytes of the file that were skipped."""

    start: int
    length: int


class TextSpan(Span):
    """A `Span` that holds text in UTF-8."""


class Persistent(NamedTuple):
    """A reference to data outside of the pickle: for torch, a storage."""

    id: Any


@dataclass(eq=False, slots=True)
class Record:
    """A call ``what(*args)`` that was not made, and the state and items that its result would have been given."""

    what: Global
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


class Reader:
    """A part of a file that cannot be read past its end.

    Args:
        file: an ordinary file, open for reading in binary.
        start, end: offsets of the part in bytes.
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self.file, self.at, self.end = file, start, end
        file.seek(start)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        self._move(count)
        data = self.file.read(count)
        if len(data) != count:
            raise PickleError("it ends too early")
        return data

    def skip(self, count: int) -> Span:
        """Pass over ``count`` bytes."""
        span = Span(self.at, count)
        self._move(count)
        self.file.seek(self.at)
        return span

    def line(self) -> str:
        """The rest of the line, at most 512 bytes."""
        text = self.file.readline(512)
        self._move(len(text))
        if not text.endswith(b"\n"):
            raise PickleError("it ends too early")
        return _text(text[:-1])

    def _move(self, count: int) -> None:
        if count > self.end - self.at:
            raise PickleError("it ends too early")
        self.at += count


def read_pickle(reader: Reader, allowed: Callable[[Global], bool], budget: int | None = None) -> Any:
    """Read one pickle, from the position of ``reader`` to its STOP opcode.

    Args:
        allowed: whether a name may appear.
        budget: bytes of memory that may be used, roughly. None = 4 MiB and half of what is left to read.

    Returns:
        None, bool, int, float, str, bytes, tuple, list, dict (with str or int keys), set of str, or one of
        `Global`, `Record`, `Span`, `TextSpan`, `Persistent`, nested in any way.

    Raises:
        PickleError: the pickle is damaged, names something that is not allowed, or does not hold networks.
    """
    if budget is None:
        budget = (4 << 20) + (reader.end - reader.at) // 2
    return _Machine(reader, allowed, budget).run()


_MARK = object()


class _Machine:
    """The stack machine; each opcode of `_STEPS` calls one of its methods."""

    def __init__(self, reader: Reader, allowed: Callable[[Global], bool], budget: int) -> None:
        self.reader, self.allowed, self.budget = reader, allowed, budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.numbers = 0  # keys of tables that are numbers

    def run(self) -> Any:
        take = self.reader.take
        while (code := take(1)) != b".":
            step = _STEPS.get(code)
            if step is None:
                raise PickleError(f"it uses the opcode {code!r}, which pickles of networks do not")
            self._spend(24)
            step(self)
        if len(self.stack) != 1:
            raise PickleError("it is damaged: it leaves more than one object on the stack")
        return self._pop()

    def _spend(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise PickleError("it holds more objects than a network of its size has")

    def _push(self, value: Any, cost: int = 0) -> None:
        self._spend(cost)
        self.stack.append(value)

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("it is damaged: it takes more from the stack than there is")
        return self.stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise PickleError("it is damaged: it takes more from the stack than there is")

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self.reader.take(struct.calcsize(form)))[0]

    # Values

    def _constant(self, value: Any) -> None:
        self._push(value)

    def _plain(self, form: str) -> None:
        self._push(self._number(form), 32)

    def _long(self) -> None:
        size = self._number("B")
        if size > 16:
            raise PickleError("it holds a whole number of more than 16 bytes")
        self._push(int.from_bytes(self.reader.take(size), "little", signed=True), 48)

    def _unicode(self, form: str) -> None:
        size = self._number(form)
        if size > _INLINE_TEXT:
            return self._push(TextSpan(*self.reader.skip(size)), 64)
        data = self.reader.take(size)
        widest = max(data, default=0)  # Python stores all characters of a string as wide as the widest one
        self._push(_text(data), 64 + size * (1 if widest < 0xC4 else 2 if widest < 0xF0 else 4))

    def _bytes(self, form: str) -> None:
        size = self._number(form)
        self._push(self.reader.take(size) if size <= _INLINE else self.reader.skip(size), 64 + min(size, _INLINE))

    # Containers

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)), 48 + 8 * count)

    def _tuple_to_mark(self) -> None:
        items = self._pop_to_mark()
        self._push(tuple(items), 48 + 8 * len(items))

    def _empty(self, kind: type) -> None:
        self._push(kind(), 232 if kind is set else 72)

    def _append(self, items: list[Any]) -> None:
        target = self._top(list)
        self._spend(12 * len(items))
        target.extend(items)

    def _add(self) -> None:
        items = self._pop_to_mark()
        if not all(type(item) is str for item in items):
            raise PickleError("it holds a set of something else than names")
        self._spend(80 * len(items))
        self._top(set).update(items)

    def _set(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise PickleError("it is damaged: a key has no value")
        target = self._top(dict, Record)
        self._spend(80 * len(items))
        target = target.items if isinstance(target, Record) else target
        for key, value in zip(items[::2], items[1::2]):
            # Keys are names, classes (lightning keeps its callbacks by class) and the numbers of parameters in
            # optimisers. The count of numbers is limited, since a hostile file can choose ones with equal hashes.
            self.numbers += type(key) is int
            if type(key) not in (str, int, Global) or self.numbers > _MOST_NUMBERS:
                raise PickleError("it holds a table whose keys are not names")
            target[key] = value

    def _top(self, *kinds: type) -> Any:
        if not self.stack or type(self.stack[-1]) not in kinds:
            raise PickleError("it is damaged: it fills something that is no container")
        return self.stack[-1]

    # Memory

    def _put(self, form: str | None) -> None:
        key = len(self.memo) if form is None else self._number(form)
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("it is damaged: there is nothing to store in its memo")
        self._spend(120)
        self.memo[key] = self.stack[-1]

    def _get(self, form: str) -> None:
        key = self._number(form)
        if key not in self.memo:
            raise PickleError("it is damaged: it uses an entry of its memo that does not exist")
        self._push(self.memo[key])

    # What Python would execute

    def _global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise PickleError("it is damaged: a name is not text")
        named = Global(module, name)
        if not self.allowed(named):
            raise PickleError(f"it asks for {short(named, 80)}, which no network needs: it may be harmful")
        self._push(named, 120)

    def _stack_global(self) -> None:
        name = self._pop()
        self._global(self._pop(), name)

    def _call(self) -> None:
        args, what = self._pop(), self._pop()
        if type(args) is not tuple or type(what) is not Global:
            raise PickleError("it calls something that is not a function by name: it may be harmful")
        self._push(Record(what, args), 160)

    def _build(self) -> None:
        state = self._pop()
        self._top(Record).state = state

    def _persistent(self) -> None:
        self._push(Persistent(self._pop()), 64)

    def _protocol(self) -> None:
        if not 2 <= self._number("B") <= 5:
            raise PickleError("its pickle protocol is not one of 2 to 5")


_Step = Callable[[_Machine], object]
_STEPS: dict[bytes, _Step] = {
    b"\x80": _Machine._protocol,
    b"\x95": lambda m: m.reader.take(8),  # FRAME: a hint for buffering
    b"N": lambda m: m._constant(None),
    b"\x88": lambda m: m._constant(True),
    b"\x89": lambda m: m._constant(False),
    b"K": lambda m: m._plain("B"),
    b"M": lambda m: m._plain("<H"),
    b"J": lambda m: m._plain("<i"),
    b"G": lambda m: m._plain(">d"),
    b"\x8a": _Machine._long,
    b"\x8c": lambda m: m._unicode("B"),
    b"X": lambda m: m._unicode("<I"),
    b"\x8d": lambda m: m._unicode("<Q"),
    b"C": lambda m: m._bytes("B"),
    b"B": lambda m: m._bytes("<I"),
    b"\x8e": lambda m: m._bytes("<Q"),
    b"(": lambda m: m._constant(_MARK),
    b")": lambda m: m._tuple(0),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"t": _Machine._tuple_to_mark,
    b"]": lambda m: m._empty(list),
    b"}": lambda m: m._empty(dict),
    b"\x8f": lambda m: m._empty(set),
    b"a": lambda m: m._append([m._pop()]),
    b"e": lambda m: m._append(m._pop_to_mark()),
    b"\x90": _Machine._add,
    b"s": lambda m: m._set([m._pop(), m._pop()][::-1]),
    b"u": lambda m: m._set(m._pop_to_mark()),
    b"0": lambda m: m._pop(),
    b"1": lambda m: m._pop_to_mark(),
    b"\x94": lambda m: m._put(None),
    b"q": lambda m: m._put("B"),
    b"r": lambda m: m._put("<I"),
    b"h": lambda m: m._get("B"),
    b"j": lambda m: m._get("<I"),
    b"c": lambda m: m._global(m.reader.line(), m.reader.line()),
    b"\x93": _Machine._stack_global,
    b"R": _Machine._call,  # REDUCE
    b"\x81": _Machine._call,  # NEWOBJ
    b"b": _Machine._build,
    b"Q": _Machine._persistent,
}


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise PickleError("it holds text that is no UTF-8") from None

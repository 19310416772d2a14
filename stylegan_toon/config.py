"""Options as dataclass fields: the one place for an option's name, type, default, range and help.

The command line (`cli.from_config`), TOML files (`read_toml`) and the headers of checkpoints (`from_values`) are made
from such dataclasses. Values are checked once, in ``__post_init__``::

    @dataclass(frozen=True)
    class SearchConfig(Config):
        steps: int = option(400, "Steps.", low=1)
        lr: float = option(0.1, "Learning rate.", above=0)
        space: str = option("w+", "One w for all layers, or one for each.", choices=("w", "w+"))
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .errors import ToonError, short

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_TOML = 1 << 20  # bytes
T = TypeVar("T")


class ConfigError(ToonError, ValueError):
    """A value that an option cannot have."""


@dataclass(frozen=True)
class Limits:
    """What the values of an option may be.

    Attributes:
        low, high: the smallest and the largest one.
        above: all are larger than this.
        choices: the only ones, if there are any.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()

    def fault(self, value: Any) -> str | None:
        """What ``value`` should be instead, or None if it may be."""
        if self.choices and value not in self.choices:
            return f"say {', '.join(map(str, self.choices))}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if not math.isfinite(value):
            return "give a finite number"
        if self.low is not None and value < self.low:
            return f"give {self.low} or more"
        if self.above is not None and value <= self.above:
            return f"give more than {self.above}"
        if self.high is not None and value > self.high:
            return f"give {self.high} or less"
        return None


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Iterable[Any] = (),
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    hidden: bool = False,
) -> Any:
    """A dataclass field that is an option.

    Args:
        default: its value if nothing is said; without one it has to be given.
        help: a sentence for the help page.
        low, high, above, choices: see `Limits`.
        flags: how it is written on the command line, if not as ``--its-name``.
        metavar: what stands for its value on the help page.
        hidden: it is no option of the command line.
    """
    limits = Limits(low, high, above, tuple(choices))
    metadata = {"help": help, "limits": limits, "flags": flags, "metavar": metavar, "hidden": hidden}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Options that are checked when an instance is made.

    Raises:
        ConfigError: a value has the wrong type, is not finite, or lies outside its `Limits`.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):
            value, name = getattr(self, entry.name), flag(entry)
            if not fits(value, hints[entry.name]):
                raise ConfigError(f"{name} is {short(repr(value))}: give {described(hints[entry.name])}.")
            if value is not None and (fault := entry.metadata.get("limits", Limits()).fault(value)):
                raise ConfigError(f"{name} is {short(str(value))}: {fault}.")


def flag(entry: dataclasses.Field[Any]) -> str:
    """How the option of a field is written on the command line."""
    flags = entry.metadata.get("flags") or (f"--{entry.name.replace('_', '-')}",)
    return flags[0]


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a type hint asks for: numbers finite, no bool for an int, an int where a float may be."""
    if isinstance(hint, types.UnionType):
        return any(fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    if hint is Path:
        return isinstance(value, Path)
    return type(value) is (types.NoneType if hint is None else hint)


def described(hint: Any) -> str:
    """A type hint in words."""
    words = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", Path: "a path"}
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(words.get(part, str(part)) for part in parts if part is not types.NoneType)


def from_values(cls: type[T], values: Mapping[str, Any]) -> T:
    """An instance of a config dataclass from JSON or TOML values; what is not among them keeps its default.

    Raises:
        ConfigError: a field it does not have, or a value of the wrong type; the dataclass may refuse more.
    """
    hints = typing.get_type_hints(cls)
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in known.items():
        if name not in hints:
            raise ConfigError(f"There is no option {short(name)}: take it out.")
        if not fits(value, hints[name]):
            raise ConfigError(f"The option {name} is {short(repr(value))}: give {described(hints[name])}.")
    return cls(**known)


def read_toml(cls: type[T], path: Path, given: Mapping[str, Any] | None = None) -> T:
    """An instance of ``cls`` from a TOML file, with what was ``given`` over it; what neither says keeps its default.

    Raises:
        ToonError: no such file, not TOML, an unknown key, or a value that cannot be.
    """
    try:
        with open(path, "rb") as file:
            values = tomllib.loads(file.read(MAX_TOML).decode("utf-8"))
        return from_values(cls, values | dict(given or {}))
    except OSError as error:
        raise ToonError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except ConfigError as error:
        raise ToonError(f"{path} with the options of the command line: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise ToonError(f"{path} and the options make no config ({error}): correct them.") from error

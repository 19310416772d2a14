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
# Values of options that the command line and the library share.
ACCELERATE = ("auto", "off", "graphs", "compile")
DTYPES = ("auto", "float32", "bfloat16", "float16")
MAX_SEED = 2**32 - 1
T = TypeVar("T")


class ConfigError(ToonError, ValueError):
    """An option has a value that it cannot have."""


@dataclass(frozen=True)
class Limits:
    """The values that an option may have.

    Attributes:
        low, high: smallest and largest value; None = no limit.
        above: values must be larger than this; None = no limit.
        choices: the only values allowed; empty = any.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()

    def fault(self, value: Any) -> str | None:
        """What to give instead of ``value``, or None if it is allowed."""
        if self.choices and value not in self.choices:
            return f"choose {' or '.join(map(str, self.choices))}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return "give a finite number"
        if isinstance(value, int) and abs(value) >= 2**63:
            return "give a number of at most 18 digits"  # torch takes no larger integers
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
        default: the value if none is given; without a default the option is required.
        help: a sentence for the help page.
        low, high, above, choices: see `Limits`.
        flags: spellings on the command line; empty = ``--its-name``.
        metavar: the placeholder for the value on the help page.
        hidden: the field is not an option of the command line.
    """
    limits = Limits(low, high, above, tuple(choices))
    metadata = {"help": help, "limits": limits, "flags": flags, "metavar": metavar, "hidden": hidden}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Base class of configs: all values are checked when an instance is made.

    Raises:
        ConfigError: a value has the wrong type, is not finite, or lies outside its `Limits`.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):
            value, name = getattr(self, entry.name), flag(entry)
            if not fits(value, hints[entry.name]):
                raise ConfigError(f"{name} is {short(repr(value))}: give {described(hints[entry.name])}.")
            if isinstance(value, str) and not value.strip() and value != entry.default:
                raise ConfigError(f"{name} is empty: give a value, or leave the option out.")
            if value is not None and (fault := entry.metadata.get("limits", Limits()).fault(value)):
                raise ConfigError(f"{name} is {short(str(value))}: {fault}.")


def flag(entry: dataclasses.Field[Any]) -> str:
    """The spelling of a field's option on the command line, such as ``--tune``."""
    flags = entry.metadata.get("flags") or (f"--{entry.name.replace('_', '-')}",)
    return flags[0]


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a hint: floats must be finite, an int passes as a float, a bool not as an int."""
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
    """An instance of a config dataclass from JSON or TOML values; fields that are not given keep their defaults.

    Raises:
        ConfigError: an unknown field, a value of the wrong type, or one that the dataclass refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in fields.items():
        if name not in hints:
            raise ConfigError(f"There is no option {short(name)}: remove it.")
        if not fits(value, hints[name]):
            raise ConfigError(f"The option {name} is {short(repr(value))}: give {described(hints[name])}.")
    return cls(**fields)


def read_toml(cls: type[T], path: Path, given: Mapping[str, Any] | None = None) -> T:
    """An instance of ``cls`` from a TOML file.

    Args:
        cls: a config dataclass.
        path: the TOML file, at most 1 MiB.
        given: values that replace those of the file. Fields in neither keep their defaults.

    Raises:
        ToonError: no such file, not TOML, an unknown key, or a value that an option cannot have.
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

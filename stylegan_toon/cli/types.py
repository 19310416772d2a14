"""Types of options: numbers, texts, paths, photos, seeds, devices, precisions.

They refuse on the command line what no command can use (``nan``, an empty text, a missing photo), before torch is
imported.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import DTYPES, MAX_SEED, Limits
from ..errors import ToonError, short

if TYPE_CHECKING:
    import torch

MAX_SEEDS = 100_000


class Number(click.FloatRange):
    """A finite number within limits; ``nan``, ``inf`` and ``1e400`` are refused.

    Args:
        kind: int or float.
        limits: the smallest and the largest value, shown on the help page.
    """

    def __init__(self, kind: type[int] | type[float] = float, limits: Limits | None = None) -> None:
        self.kind, self.limits = kind, limits or Limits()
        low, high, above = self.limits.low, self.limits.high, self.limits.above
        super().__init__(low if above is None else above, high, min_open=above is not None)
        self.name = "integer" if kind is int else "number"

    def _describe_range(self) -> str:
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = self.kind(value)
        except (ValueError, OverflowError):
            what = "a whole number" if self.kind is int else "a number"
            self.fail(f"{short(repr(value))} is not {what}.", param, ctx)
        if fault := self.limits.fault(number):
            self.fail(f"{short(repr(value))} is not allowed: {fault}.", param, ctx)
        return number


def number(low: float | None = None, high: float | None = None, *, above: float | None = None) -> Number:
    """The type of an option that is a finite number."""
    return Number(float, Limits(low, high, above))


def integer(low: int | None = None, high: int | None = None) -> Number:
    """The type of an option that is a whole number."""
    return Number(int, Limits(low, high))


class TextType(click.ParamType):
    """A text that is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and not value.strip():
            self.fail("it is empty: give a value, or leave the option out.", param, ctx)
        return value


class PathType(click.Path):
    """A path that is not empty, as a `Path`; nothing need be there."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():
            self.fail("it is empty: give a path, or leave the option out.", param, ctx)
        return super().convert(value, param, ctx)


class PhotoType(PathType):
    """The path of an ordinary file that can be read: what a photo must at least be.

    Args:
        folders: folders will do, too.
    """

    name = "photo"

    def __init__(self, folders: bool = False) -> None:
        super().__init__()
        self.folders = folders

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        try:
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                with open(path, "rb"):
                    return path
        except FileNotFoundError:
            raise ToonError(f"{path} does not exist: check the path.") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ToonError(f"{path} cannot be read ({reason}): check the path.") from error
        if stat.S_ISDIR(mode):
            if self.folders:
                return path
            raise ToonError(f"{path} is a folder: give one picture file.")
        raise ToonError(f"{path} is not an ordinary file: give a picture file.")


class SeedsType(click.ParamType):
    """``0-15,33`` -> [0, 1, ..., 15, 33]."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if not isinstance(value, str):
            return list(value)
        seeds: list[int] = []
        for part in value.split(","):
            first, dash, last = (text.strip() for text in part.partition("-"))
            last = last if dash else first
            if not (first.isdecimal() and last.isdecimal() and len(first) <= 10 and len(last) <= 10):
                self.fail(
                    f"{short(repr(part))} is neither a seed nor a range of seeds: write them like 0-15,33.", param, ctx
                )
            low, high = int(first), int(last)
            if not low <= high <= MAX_SEED:
                self.fail(f"{part!r} is not a range within 0 to {MAX_SEED}.", param, ctx)
            if len(seeds) + high - low >= MAX_SEEDS:
                self.fail(f"that is more than {MAX_SEEDS} seeds: use several runs.", param, ctx)
            seeds.extend(range(low, high + 1))
        return seeds


class DeviceType(click.ParamType):
    """``auto`` -> the best there is; otherwise a torch device that is there."""

    name = "device"
    choices = "auto|cpu|cuda|cuda:N|mps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> torch.device:
        import torch

        if isinstance(value, torch.device):
            return value
        if value == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
        kind, _, index = value.partition(":")
        if kind not in ("cpu", "cuda", "mps") or (index and not (index.isdecimal() and len(index) <= 4)):
            self.fail(f"{short(repr(value))} is not one of {self.choices}.", param, ctx)
        count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(_has_mps())}[kind]
        if count == 0:
            self.fail(f"torch finds no {kind} device on this machine: use auto or cpu.", param, ctx)
        if int(index or 0) >= count:
            self.fail(f"there is no {value}: the last device is {kind}:{count - 1}.", param, ctx)
        return torch.device(value)


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


class DtypeType(click.ParamType):
    """``auto`` -> None (as the network is configured); otherwise the torch dtype."""

    name = "dtype"
    choices = "|".join(DTYPES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> torch.dtype | None:
        import torch

        if isinstance(value, torch.dtype):
            return value
        if value not in DTYPES:
            self.fail(f"{short(repr(value))} is not one of {self.choices}.", param, ctx)
        return None if value == "auto" else getattr(torch, value)


SEEDS, DEVICE, DTYPE = SeedsType(), DeviceType(), DtypeType()
TEXT, PATH, PHOTO, PHOTOS = TextType(), PathType(), PhotoType(), PhotoType(folders=True)

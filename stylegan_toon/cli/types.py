"""Types of options: seeds, devices, precisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import Limits

if TYPE_CHECKING:
    import torch

MAX_SEEDS = 100_000


class Number(click.ParamType):
    """A finite number within limits: ``nan`` and ``inf`` are refused, and so is ``1e400``."""

    def __init__(self, kind: type[int] | type[float] = float, limits: Limits | None = None) -> None:
        self.kind, self.limits = kind, limits or Limits()
        self.name = "integer" if kind is int else "number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name.upper()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = self.kind(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no {'whole ' * (self.kind is int)}number.", param, ctx)
        if fault := self.limits.fault(number):
            self.fail(f"{value!r} does not do: {fault}.", param, ctx)
        return number


def number(low: float | None = None, high: float | None = None, *, above: float | None = None) -> Number:
    """The type of an option that is a finite number."""
    return Number(float, Limits(low, high, above))


def integer(low: int | None = None, high: int | None = None) -> Number:
    """The type of an option that is a whole number."""
    return Number(int, Limits(low, high))


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
                self.fail(f"{part!r} is no seed and no range of seeds: write them like 0-15,33.", param, ctx)
            low, high = int(first), int(last)
            if not low <= high < 2**32:
                self.fail(f"{part!r} is no range from 0 up to 4294967295.", param, ctx)
            if len(seeds) + high - low >= MAX_SEEDS:
                self.fail(f"that is more than {MAX_SEEDS} seeds: make them in parts.", param, ctx)
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
        if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
            self.fail(f"{value!r} is not one of {self.choices}.", param, ctx)
        count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(_has_mps())}[kind]
        if count == 0:
            self.fail(f"torch sees no {kind} device here: use auto or cpu.", param, ctx)
        if int(index or 0) >= count:
            self.fail(f"{value!r} is not there: the last one is {kind}:{count - 1}.", param, ctx)
        return torch.device(value)


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


class DtypeType(click.ParamType):
    """``auto`` -> None (as the network is configured); otherwise the torch dtype."""

    name = "dtype"
    choices = "auto|float32|bfloat16|float16"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> torch.dtype | None:
        import torch

        if isinstance(value, torch.dtype):
            return value
        if value not in self.choices.split("|"):
            self.fail(f"{value!r} is not one of {self.choices}.", param, ctx)
        return None if value == "auto" else getattr(torch, value)


SEEDS, DEVICE, DTYPE = SeedsType(), DeviceType(), DtypeType()
PATH = click.Path(path_type=Path)

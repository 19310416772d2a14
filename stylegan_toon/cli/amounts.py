"""Types of options that give an amount to a name or a number: ``smile=1.5``, ``3=-2``."""

from __future__ import annotations

from typing import Any

import click

from ..config import Limits
from ..errors import short
from .types import Number, integer

MOST = 100.0


class AmountType(click.ParamType):
    """``smile=1.5`` -> ("smile", 1.5); with ``numbered``, ``3=2`` -> (3, 2.0)."""

    def __init__(self, *, numbered: bool) -> None:
        self.numbered = numbered
        self.name = "number=amount" if numbered else "name=amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | int, float]:
        if isinstance(value, tuple):
            return value
        key, equals, amount = (part.strip() for part in value.partition("="))
        if not key or not equals:
            example = "0=3" if self.numbered else "smile=1.5"
            self.fail(f"{short(repr(value))} is not {self.name}: write it like {example}.", param, ctx)
        number = Number(float, Limits(-MOST, MOST)).convert(amount, param, ctx)
        return (integer(0, 100_000).convert(key, param, ctx) if self.numbered else key), number


NAMED, NUMBERED = AmountType(numbered=False), AmountType(numbered=True)

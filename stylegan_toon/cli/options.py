"""Options that several commands have, each with one name, one type and one help text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..config import ACCELERATE, MAX_SEED
from .types import DEVICE, DTYPE, PATH, SEEDS, TEXT, integer, number

# Every function here makes a click decorator; ``changes`` replaces settings of `click.option`, such as ``help``.
_NETWORK = "zoo name, file or https address"


def network(default: str | None = "faces", **changes: Any) -> Callable:
    return _option("--network", type=TEXT, default=default, help=f"Network: {_NETWORK}.", changes=changes)


def base(default: str | None = "faces", **changes: Any) -> Callable:
    return _option("--base", type=TEXT, default=default, help=f"Network of the person: {_NETWORK}.", changes=changes)


def toon(default: str | None = "comic", **changes: Any) -> Callable:
    text = f"Cartoon network: {_NETWORK}."
    return _option("--style", "--toon", "toon", type=TEXT, default=default, help=text, changes=changes)


def swap(default: str, **changes: Any) -> Callable:
    text = (
        "Layers to take from --toon: blocks (b64,b128), ranges (b64- or -b32 or b16-b64), layers (b64.conv0), "
        "parts (b64=0.5), mapping, all, or a preset (toonify, fine-toon)."
    )
    return _option("--swap", type=TEXT, default=default, help=text, changes=changes)


def width(**changes: Any) -> Callable:
    text = "Smooth the swap with a logistic curve of this width in octaves."
    return _option("--width", type=number(above=0, high=100), help=text, changes=changes)


def seeds(default: str, **changes: Any) -> Callable:
    return _option("--seeds", type=SEEDS, default=default, help="Seeds, like 0-15,33.", changes=changes)


def psi(default: float = 0.7, **changes: Any) -> Callable:
    text = "Truncation: 1 is the full variety, 0 the mean face."
    return _option("--psi", type=number(-2, 2), default=default, help=text, changes=changes)


def batch(default: int, help: str = "Pictures computed at once.", **changes: Any) -> Callable:
    return _option("--batch", type=integer(1, 1024), default=default, help=help, changes=changes)


def aligned(help: str, **changes: Any) -> Callable:
    return _option("--aligned", is_flag=True, help=help, changes=changes)


def out(default: str, help: str = "Folder for the results.", **changes: Any) -> Callable:
    return _option("--out", type=PATH, default=default, help=help, changes=changes)


def device(**changes: Any) -> Callable:
    text = "Where to compute."
    return _option("--device", type=DEVICE, metavar=DEVICE.choices, default="auto", help=text, changes=changes)


def dtype(**changes: Any) -> Callable:
    text = "Precision of the four highest blocks; auto is what the network is configured for."
    return _option("--dtype", type=DTYPE, metavar=DTYPE.choices, default="auto", help=text, changes=changes)


def accelerate(**changes: Any) -> Callable:
    text = "CUDA graphs at small batch (auto), none (off), CUDA graphs always, or torch.compile."
    return _option("--accelerate", type=click.Choice(ACCELERATE), default="auto", help=text, changes=changes)


def seed(default: int = 0, **changes: Any) -> Callable:
    text = "Seed of everything random."
    return _option("--seed", type=integer(0, MAX_SEED), default=default, help=text, changes=changes)


def quiet(**changes: Any) -> Callable:
    return _option("--quiet", is_flag=True, help="Show no progress.", changes=changes)


def overwrite(**changes: Any) -> Callable:
    return _option("--overwrite", is_flag=True, help="Replace files that exist already.", changes=changes)


def _option(*names: str, changes: dict[str, Any], **settings: Any) -> Callable:
    return click.option(*names, **{**settings, **changes})

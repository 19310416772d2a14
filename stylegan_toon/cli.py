"""The ``stylegan-toon`` command, and what its verbs share: options, types, progress, and how mistakes are told.

A verb is a module with ``main = verb(...)(function)``; ``python -m stylegan_toon.VERB`` and ``stylegan-toon VERB``
run the same thing. Nothing heavier than click is imported until a verb runs.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import __version__
from .errors import ToonError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

VERBS = {
    "toonify": "Turn photos of people into cartoons.",
    "blend": "Swap layers between two networks.",
    "generate": "Make pictures from seeds.",
    "project": "Find the latent behind a photo.",
    "dataset": "Make a training set: crop, filter, draw.",
    "train": "Train a network, or teach one a new style.",
    "convert": "Carry networks between formats.",
    "finetoon": "Tune a blended network to keep the face.",
    "evaluate": "Measure a network or pictures: FID, KID, identity ...",
    "env": "Show versions, kernels, weights and folders.",
}

MAX_SEEDS = 100_000


# ---------------------------------------------------------------- commands


def _explain(error: BaseException) -> str | None:
    """One sentence for what a user can mend; None for a defect of ours, which deserves its traceback."""
    if isinstance(error, ToonError):
        return str(error)
    if isinstance(error, click.ClickException):
        return error.format_message()
    text = str(error)
    # torch raises a plain RuntimeError when the CPU has no memory left.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in text:
        return "There is not enough memory for this: take fewer or smaller pictures at once, or another --device."
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or text or type(error).__name__}."
    return None


def _warn(message: Warning | str, *_: Any) -> None:
    """A line on stderr, above the progress bars if there are any."""
    if "tqdm" not in sys.modules:
        click.echo(f"warning: {message}", err=True)
        return
    with sys.modules["tqdm"].tqdm.external_write_mode(file=sys.stderr):
        click.echo(f"warning: {message}", err=True)


class _Told:
    """Mixin for click commands: mistakes end in ``error: ...`` on stderr and exit code 2, never in a traceback."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            try:
                result = super().main(*args, standalone_mode=False, **kwargs)
            except click.Abort:
                click.echo("stopped", err=True)
                sys.exit(130)
            except Exception as error:
                message = _explain(error)
                if message is None:
                    raise
                click.echo(f"error: {message}", err=True)
                sys.exit(2)
        sys.exit(result if isinstance(result, int) else 0)


class Verb(_Told, click.Command):
    """A command whose help page ends in an example."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"  {line}\n")


class VerbGroup(Verb, click.Group):
    """A verb with verbs of its own; arguments that begin with none of them are for the one named ``default``."""

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def verb(self, name: str, example: str) -> Callable[[Callable[..., None]], click.Command]:
        """Decorator: make a function the sub-command ``name``."""
        return self.command(name, cls=Verb, example=example, context_settings=_SETTINGS)


class _Verbs(_Told, click.Group):
    """Imports a verb's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return importlib.import_module(f".{name}", __package__).main if name in VERBS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


def verb(example: str) -> Callable[[Callable[..., None]], Verb]:
    """Decorator: make a function the command of its module. ``example`` is one or more lines of shell."""

    def decorate(function: Callable[..., None]) -> Verb:
        name = function.__module__.rpartition(".")[2]
        return click.command(name, cls=Verb, example=example, context_settings=_SETTINGS)(function)

    return decorate


def verb_group(example: str, default: str) -> Callable[[Callable[..., None]], VerbGroup]:
    """Decorator: like `verb`, for a command with sub-commands, of which ``default`` may be left unsaid."""

    def decorate(function: Callable[..., None]) -> VerbGroup:
        name = function.__module__.rpartition(".")[2]
        return click.group(name, cls=VerbGroup, example=example, default=default, context_settings=_SETTINGS)(function)

    return decorate


@click.group(cls=_Verbs, invoke_without_command=True, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="stylegan-toon")
@click.pass_context
def main(ctx: click.Context) -> None:
    """A photo goes in, a cartoon that still looks like the person comes out.

    "stylegan-toon VERB --help" tells more about a verb.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


# ---------------------------------------------------------------- types


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


# ---------------------------------------------------------------- options

_NETWORK = "zoo name, file or https address"


def network(default: str | None = "faces", **changes: Any) -> Callable:
    return _option("--network", default=default, help=f"Network: {_NETWORK}.", changes=changes)


def base(default: str | None = "faces", **changes: Any) -> Callable:
    return _option("--base", default=default, help=f"Network of the person: {_NETWORK}.", changes=changes)


def toon(default: str | None = "comic", **changes: Any) -> Callable:
    text = f"Cartoon network: {_NETWORK}."
    return _option("--style", "--toon", "toon", default=default, help=text, changes=changes)


def swap(default: str = "b64,b128", **changes: Any) -> Callable:
    text = (
        "Layers to take from --toon: blocks (b64,b128), ranges (b64- or -b32 or b16-b64), layers (b64.conv0), "
        "parts (b64=0.5), mapping, all, or a preset (toonify, fine-toon)."
    )
    return _option("--swap", default=default, help=text, changes=changes)


def seeds(default: str, **changes: Any) -> Callable:
    return _option("--seeds", type=SEEDS, default=default, help="Seeds, like 0-15,33.", changes=changes)


def psi(default: float = 0.7, **changes: Any) -> Callable:
    text = "Truncation: 1 is the full variety, 0 the mean face."
    return _option("--psi", type=click.FloatRange(-2, 2), default=default, help=text, changes=changes)


def out(default: str, help: str = "Folder for what is made.", **changes: Any) -> Callable:
    return _option("--out", type=PATH, default=default, help=help, changes=changes)


def device(**changes: Any) -> Callable:
    text = "Where to compute."
    return _option("--device", type=DEVICE, metavar=DEVICE.choices, default="auto", help=text, changes=changes)


def dtype(**changes: Any) -> Callable:
    text = "Precision of the four highest blocks; auto is what the network is configured for."
    return _option("--dtype", type=DTYPE, metavar=DTYPE.choices, default="auto", help=text, changes=changes)


def accelerate(**changes: Any) -> Callable:
    from .nn.accelerate import ACCELERATE

    text = "CUDA graphs at small batch (auto), none (off), CUDA graphs always, or torch.compile."
    return _option("--accelerate", type=click.Choice(ACCELERATE), default="auto", help=text, changes=changes)


def seed(default: int = 0, **changes: Any) -> Callable:
    text = "Seed of everything random."
    return _option("--seed", type=click.IntRange(0, 2**32 - 1), default=default, help=text, changes=changes)


def quiet(**changes: Any) -> Callable:
    return _option("--quiet", is_flag=True, help="No progress bar.", changes=changes)


def overwrite(**changes: Any) -> Callable:
    return _option("--overwrite", is_flag=True, help="Replace what is there already.", changes=changes)


def _option(*names: str, changes: dict[str, Any], **settings: Any) -> Callable:
    return click.option(*names, **{**settings, **changes})


def progress(items: Iterable[T] | None = None, *, quiet: bool = False, **settings: Any) -> Any:
    """A tqdm bar on stderr with rate and ETA: ``for x in progress(items, desc="...", unit="img"):``."""
    from tqdm import tqdm

    return tqdm(items, disable=quiet, dynamic_ncols=True, **settings)


if __name__ == "__main__":
    main()

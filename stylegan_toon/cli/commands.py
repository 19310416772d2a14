"""The ``stylegan-toon`` command, the classes of commands, and how mistakes are reported.

A command is a module with ``main = command(...)(function)``; ``python -m stylegan_toon.NAME`` and
``stylegan-toon NAME`` run the same function. Nothing heavier than click is imported until a command is used.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import click

from .. import __version__
from ..errors import ToonError

COMMANDS = {
    "toonify": "Turn photos of people into cartoons.",
    "blend": "Swap layers between two networks.",
    "generate": "Make pictures from seeds.",
    "project": "Find the latent behind a photo.",
    "edit": "Change a face along directions of w; mix and walk between faces.",
    "dataset": "Make a training set: crop, filter, draw.",
    "train": "Train a network, or teach one a new style.",
    "convert": "Convert networks between formats.",
    "finetoon": "Tune a blended network to keep the face.",
    "evaluate": "Measure a network or pictures: FID, KID, identity ...",
    "env": "Show versions, kernels, weights and folders.",
}


def _explain(error: BaseException) -> str | None:
    """One sentence for an error that the user can correct; None for a defect, which keeps its traceback."""
    if isinstance(error, ToonError):
        return str(error)
    if isinstance(error, click.ClickException):
        return error.format_message()
    text = str(error)
    # torch raises a plain RuntimeError when the CPU has no memory left.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in text:
        return "There is not enough memory for this: use fewer or smaller pictures at once, or another --device."
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or text or type(error).__name__}."
    return None


def say(line: str) -> None:
    """A line on stderr, above the progress bars if there are any."""
    if "tqdm" not in sys.modules:
        click.echo(line, err=True)
        return
    with sys.modules["tqdm"].tqdm.external_write_mode(file=sys.stderr):
        click.echo(line, err=True)


def _warn(message: Warning | str, *_: Any) -> None:
    say(f"warning: {message}")


class _Reporting(click.Command):
    """Base of all commands: mistakes end in ``error: ...`` on stderr and exit code 2, never in a traceback."""

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


class Command(_Reporting):
    """A command whose help page ends in an example."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"  {line}\n")


class CommandGroup(Command, click.Group):
    """A command with subcommands; without the name of one, the arguments go to the one named ``default``."""

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def subcommand(self, name: str, example: str) -> Callable[[Callable[..., None]], click.Command]:
        """Decorator: make a function the subcommand ``name``."""
        return self.command(name, cls=Command, example=example, context_settings=_SETTINGS)


class _Commands(_Reporting, click.Group):
    """The group of all commands; imports the module of a command when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return importlib.import_module(f"stylegan_toon.{cmd_name}").main if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


def command(example: str) -> Callable[[Callable[..., None]], Command]:
    """Decorator: make a function the command of its module. ``example`` is one or more lines of shell."""

    def decorate(function: Callable[..., None]) -> Command:
        name = function.__module__.rpartition(".")[2]
        return click.command(name, cls=Command, example=example, context_settings=_SETTINGS)(function)

    return decorate


def command_group(example: str, default: str) -> Callable[[Callable[..., None]], CommandGroup]:
    """Decorator: like `command`, for a command with subcommands; the name of ``default`` may be left out."""

    def decorate(function: Callable[..., None]) -> CommandGroup:
        name = function.__module__.rpartition(".")[2]
        return click.group(name, cls=CommandGroup, example=example, default=default, context_settings=_SETTINGS)(
            function
        )

    return decorate


@click.group(cls=_Commands, invoke_without_command=True, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="stylegan-toon")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Turn photos into cartoons that still look like the person.

    "stylegan-toon COMMAND --help" shows the options of a command, with an example.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())

"""What the projects' commands share: a config read, a run begun and ended, a folder of pictures worked through."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image

from stylegan_toon import cli
from stylegan_toon.data.images import SUFFIXES, image_grid, read_image, save_image
from stylegan_toon.data.sources import open_source
from stylegan_toon.errors import ToonError
from stylegan_toon.files import output_folder, refuse_overwrite
from stylegan_toon.memory import keep_pages
from stylegan_toon.training.config import RunConfig, restored
from stylegan_toon.training.curves import draw_log
from stylegan_toon.training.log import Sink, sinks
from stylegan_toon.training.run import Saved, find_run
from stylegan_toon.training.snapshots import refuse_another, snapshots, start_folder
from stylegan_toon.weights.provenance import descend, provenance_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHEET = 8  # pairs on a sheet
MAX_CONFIG = 1 << 20  # bytes


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Start:
    """What a training begins with, once the command line is understood.

    Attributes:
        folder: for what is made.
        config: an instance of the project's config.
        saved: the snapshot to go on from, if any.
    """

    folder: Path
    config: Any
    saved: Saved | None
    device: torch.device
    provenance: dict[str, Any]
    quiet: bool
    begin: Callable[[], Sequence[Sink]]

    @functools.cached_property
    def sinks(self) -> Sequence[Sink]:
        """Who is told of the numbers. To be asked for when all that was given fits together.

        Only then is the folder made ready, and an earlier training in it removed.
        """
        return self.begin()


def read_config(cls: type[RunConfig], path: Path, given: Mapping[str, Any] | None = None) -> Any:
    """An instance of ``cls`` from a TOML file, with what was ``given`` over it; what neither says keeps its default.

    Raises:
        ToonError: no such file, not TOML, an unknown key, or a value that cannot be.
    """
    try:
        with open(path, "rb") as file:
            values = tomllib.loads(file.read(MAX_CONFIG).decode("utf-8"))
        return restored(cls, values | dict(given or {}))
    except OSError as error:
        raise ToonError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except (ValueError, TypeError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise ToonError(f"{path} and the options make no config ({error}): mend it.") from error


def trainer(
    example: str, config_class: type[RunConfig], file: Path, panels: Sequence[Sequence[str]]
) -> Callable[[Callable[..., Path]], click.Command]:
    """Decorator: make a function ``(start, **own options) -> path`` the command that trains a project.

    It gets an option for every field of the config (over ``--config``, whose default is ``file``), and ``--out``,
    ``--resume``, ``--wandb``, ``--device``, ``--quiet`` and ``--overwrite``. Ctrl-C ends it after a snapshot. At the
    end ``curves.png`` shows the numbers named in ``panels``.
    """

    def decorate(function: Callable[..., Path]) -> click.Command:
        project = file.parent.name
        names = [field.name for field in fields(config_class)]
        own = {parameter.name for parameter in getattr(function, "__click_params__", ())}

        @functools.wraps(function)
        def main(
            config: Path, out: Path, resume: str | None, wandb: str | None, device: torch.device, overwrite: bool,
            quiet: bool, **options: Any,
        ) -> None:  # fmt: skip
            given = {name: value for name in names if (value := options.pop(name)) is not None}
            saved = find_run(resume, out, config_class) if resume else None
            if saved is None:
                chosen = read_config(config_class, config, given)
            else:
                chosen = _changed(saved.config, given)
            if saved is None and not overwrite:
                refuse_another(out)
            keep_pages()
            torch.manual_seed(chosen.seed)
            history = _history(f"projects.{project}.train", chosen, options, saved)

            def begin() -> Sequence[Sink]:
                start_folder(output_folder(out), saved)
                return sinks(out, saved.counters.images if saved else 0, wandb=wandb, config=asdict(chosen))

            try:
                final = function(Start(out, chosen, saved, device, history, quiet, begin), **options)
            except KeyboardInterrupt:
                if snapshots(out):
                    click.echo(f"Stopped; --resume auto goes on from what is in {out}.", err=True)
                raise click.Abort from None
            draw_log(out, panels)
            click.echo(final)

        for option in (
            click.option("--config", type=cli.PATH, default=file, show_default=file.name, help="TOML file of options."),
            cli.out(f"runs/{project}"),
            click.option("--resume", help="Go on exactly: auto (the newest in --out, if any), a snapshot, or a run."),
            *(_option(config_class, field) for field in fields(config_class)),
            click.option("--wandb", metavar="PROJECT", help="Log to this project of Weights & Biases, too."),
            cli.device(),
            cli.overwrite(),
            cli.quiet(),
        )[::-1]:
            main = option(main)
        command = cli.command(example)(main)
        command.params.sort(key=lambda parameter: parameter.name not in own)  # what a project asks for comes first
        return command

    return decorate


def _option(cls: type[RunConfig], field: Any) -> Callable:
    hint = typing.get_type_hints(cls)[field.name]
    if isinstance(hint, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    name = field.name.replace("_", "-")
    flag = f"--{name}/--no-{name}" if hint is bool else f"--{name}"
    return click.option(flag, field.name, type=hint, default=None, help=field.metadata.get("help"))


def _changed(config: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    try:
        return replace(config, **given)
    except ValueError as error:
        raise ToonError(f"The options make no config ({error}): mend them.") from error


def _history(verb: str, config: RunConfig, options: Mapping[str, Any], saved: Saved | None) -> dict[str, Any]:
    """The provenance of what is trained; going on adds nothing to it."""
    if saved is not None:
        known = provenance_of(next(iter(saved.networks.values())))
        return {key: value for key, value in known.items() if key not in ("name", "sha256")}
    # Names, not paths: a checkpoint travels, and whose disk it was made on is nobody's business.
    short = {k: v.rpartition("/")[2] if isinstance(v, str) else getattr(v, "name", v) for k, v in options.items()}
    return descend(verb, short | asdict(config), [])


# ---------------------------------------------------------------- pictures in, pictures out


def each_picture(
    source: str | Path,
    out: Path,
    convert: Callable[[Image.Image], Image.Image],
    *,
    suffix: str = "",
    labels: tuple[str, str] = ("in", "out"),
    size: int = 128,
    limit: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """Convert a picture, or every picture of a folder or set, each on its own.

    Args:
        source: a picture file, or anything `open_source` takes.
        out: a folder; gets ``NAME{suffix}.png`` for each picture, folders in the name joined by "-", and
            ``sheet.png`` with the first few beside what became of them.
        convert: what to do with a picture.
        labels: above the columns of the sheet, whose cells have ``size`` pixels.
        limit: only so many pictures, in order of name.

    Returns:
        the files written, without the sheet.

    Raises:
        ToonError: nothing is there, a file exists, or no picture could be used. One bad picture among others is told
            of in a warning and passed over.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        read, names = (lambda name: read_image(path)), [path.name]
    else:
        opened = open_source(source)
        read, names = (lambda name: read_image(io.BytesIO(opened.read(name)), name=name)), list(opened.names)[:limit]
    files = {name: out / f"{Path(name).with_suffix('').as_posix().replace('/', '-')}{suffix}.png" for name in names}
    if len(set(files.values())) < len(files):
        raise ToonError(f"Two pictures of {source} would be written to one file: rename them.")
    refuse_overwrite([*files.values(), out / "sheet.png"], overwrite)
    new = not out.exists()
    output_folder(out)
    written, shown = [], []
    try:
        for name in cli.progress(names, quiet=quiet, unit="img"):
            try:
                image = read(name)
                made = convert(image)
            except ToonError as error:
                if len(names) == 1:
                    raise
                warnings.warn(f"{error} It is left out.", stacklevel=2)
                continue
            save_image(made, files[name])
            written.append(files[name])
            shown += [image, made] if len(shown) < 2 * SHEET else []
        if not written:
            raise ToonError(f"None of the pictures of {source} could be used: see the warnings.")
    finally:
        if new and not written:
            with contextlib.suppress(OSError):  # somebody put a file there meanwhile
                out.rmdir()
    columns = 4 if len(shown) > 2 else 2
    heads = (labels * 2)[:columns]
    save_image(image_grid(shown, columns, size=size, column_labels=heads), out / "sheet.png")
    return written

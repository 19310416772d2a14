"""What the projects' commands share: a config read, a run begun and ended, a folder of pictures worked through."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image

from stylegan_toon import cli
from stylegan_toon.config import Config, option, read_toml
from stylegan_toon.data.images import SUFFIXES, image_grid, read_image, save_image
from stylegan_toon.data.sources import open_source
from stylegan_toon.errors import ToonError
from stylegan_toon.files import output_folder, refuse_overwrite
from stylegan_toon.memory import keep_pages
from stylegan_toon.training.curves import draw_log
from stylegan_toon.training.log import Sink, sinks
from stylegan_toon.training.run import RunConfig, Saved, find_run
from stylegan_toon.training.snapshots import refuse_another, snapshots, start_folder
from stylegan_toon.weights.provenance import descend, provenance_of

SHEET = 8  # pairs on a sheet


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Start:
    """What a training begins with, once the command line is understood.

    Attributes:
        folder: for what is made.
        config: how to train, an instance of the project's config.
        sources: what to train on, an instance of the project's other config.
        saved: the snapshot to go on from, if any.
    """

    folder: Path
    config: Any
    sources: Any
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


@dataclass(frozen=True)
class Session(Config):
    """Options of this start of a training, which no snapshot keeps."""

    config: Path | None = option(None, "TOML file of options, instead of the project's own config.toml.")
    resume: str | None = option(None, "Go on exactly: auto (the newest in --out, if any), a snapshot, or a run.")
    wandb: str | None = option(None, "Log to this project of Weights & Biases, too.", metavar="PROJECT")


def trainer(
    example: str,
    config_class: type[RunConfig],
    sources_class: type[Config],
    file: Path,
    panels: Sequence[Sequence[str]],
) -> Callable[[Callable[[Start], Path]], click.Command]:
    """Decorator: make a function the command that trains a project.

    Its options are the fields of ``sources_class``, `Session` and ``config_class``, and ``--out``, ``--device``,
    ``--quiet`` and ``--overwrite``. What is not given on the command line has the value of ``--config``, or of
    ``file``. Ctrl-C ends it after a snapshot. At the end ``curves.png`` shows the numbers named in ``panels``.
    """

    def decorate(function: Callable[[Start], Path]) -> click.Command:
        project = file.parent.name

        @functools.wraps(function)
        def main(
            sources: Config, session: Session, out: Path, device: torch.device, overwrite: bool, quiet: bool,
            **values: Any,
        ) -> None:  # fmt: skip
            given = {name: value for name, value in values.items() if value is not None}
            saved = find_run(session.resume, out, config_class) if session.resume else None
            config = replace(saved.config, **given) if saved else read_toml(config_class, session.config or file, given)
            if saved is None and not overwrite:
                refuse_another(out)
            keep_pages()
            torch.manual_seed(config.seed)
            history = _history(f"projects.{project}.train", config, sources, saved)

            def begin() -> Sequence[Sink]:
                start_folder(output_folder(out), saved)
                return sinks(out, saved.counters.images if saved else 0, wandb=session.wandb, config=asdict(config))

            try:
                final = function(Start(out, config, sources, saved, device, history, quiet, begin))
            except KeyboardInterrupt:
                if snapshots(out):
                    click.echo(f"Stopped; --resume auto goes on from what is in {out}.", err=True)
                raise click.Abort from None
            draw_log(out, panels)
            click.echo(final)

        for decorator in (
            cli.with_config(sources_class, name="sources"),
            cli.with_config(Session, name="session"),
            cli.out(f"runs/{project}"),
            cli.options_of(config_class, unset=True),
            cli.device(),
            cli.overwrite(),
            cli.quiet(),
        )[::-1]:
            main = decorator(main)
        return cli.command(example)(main)

    return decorate


def _history(command: str, config: RunConfig, sources: Config, saved: Saved | None) -> dict[str, Any]:
    """The provenance of what is trained; going on adds nothing to it."""
    if saved is not None:
        earlier = provenance_of(next(iter(saved.networks.values())))
        return {key: value for key, value in earlier.items() if key not in ("name", "sha256")}
    # Names, not paths: a checkpoint travels, and its folders on this machine say nothing on another.
    names = {key: Path(value).name for key, value in asdict(sources).items()}
    return descend(command, names | asdict(config), [])


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

"""Make training sets: from photos, drawings, videos; rendered comics; vector avatars."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import click

from . import cli
from .data.datasets import ImageDataset
from .dataset_builder.avatars import FRONTAL, Avatars
from .dataset_builder.build import Summary
from .dataset_builder.filters import BLUR, DUPLICATE
from .dataset_builder.labels import KINDS
from .dataset_builder.recipe import FORMATS, Recipe
from .drawing import STYLES
from .errors import ToonError, short
from .pipelines.dataset import avatars, dataset, index_shards

MANY = 2**31 - 1  # pictures


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Ctrl-C ends the command and says that it can be continued."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("The pictures so far are kept: the same command continues from them.", err=True)
        raise click.Abort from None


def _report(summary: Summary) -> None:
    left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(summary.dropped.items()))
    click.echo(f"{summary.kept} pictures kept" + (f", left out: {left_out} ({summary.report})" if left_out else ""))
    click.echo(summary.out)


_SOURCES = click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=cli.TEXT)
_SIZE = click.option("--size", type=cli.integer(8, 4096), default=256, help="Side of the pictures in pixels.")
_FORMAT = click.option("--format", type=click.Choice(list(FORMATS)), default="png", help="Format of the pictures.")
_PER_SHARD = click.option("--per-shard", type=cli.integer(1, MANY), default=1000, help="Pictures in a tar shard.")
_WORKERS = click.option("--workers", type=cli.integer(1, 1024), default=2, help="Processes.")
_LABELS = click.option("--labels", type=click.Choice(KINDS), default="auto", help="Where labels come from.")
_START = click.option("--start", type=cli.integer(0, MANY), default=0, help="First picture to take, in order of name.")
_STOP = click.option("--stop", type=cli.integer(1, MANY), help="Picture to stop before.")


@cli.command_group(
    """python -m stylegan_toon.dataset photos/ --crop align --front 20 --no-glasses --out faces.zip
python -m stylegan_toon.dataset film.mp4 --fps 2 --crop align --duplicates --out film.zip
python -m stylegan_toon.dataset draw faces.zip --style ink --out ink.zip
python -m stylegan_toon.dataset avatars --count 5000 --out avatars.zip
python -m stylegan_toon.dataset check faces.zip""",
    default="make",
)
def main() -> None:
    """Make training sets.

    "dataset SOURCE... --out SET.zip" is short for "dataset make SOURCE... --out SET.zip"; a SOURCE is a folder, a
    zip, tar shards (a folder, a pattern, an http address), an lmdb or a video. An --out that does not end in .zip
    becomes a folder of tar shards. "dataset make --help" lists the options.
    """


@main.subcommand(
    "make",
    """python -m stylegan_toon.dataset photos/ --crop align --front 20 --no-glasses --out faces.zip
python -m stylegan_toon.dataset drawings/ --size 128 --labels folders --duplicates --out shards/drawings""",
)
@_SOURCES
@cli.out("set.zip", help="A .zip, or a folder for tar shards.")
@_SIZE
@click.option(
    "--crop",
    type=click.Choice(["center", "align", "none"]),
    default="center",
    help="The largest square about the centre; faces, as FFHQ cuts them; or only squares are taken.",
)
@click.option("--all-faces", is_flag=True, help="With --crop align: all faces of a photo, not just the largest.")
@click.option(
    "--enlarge",
    type=cli.number(0, 1000),
    default=2.0,
    help="Leave out what would be enlarged by more than this factor.",
)
@click.option("--front", type=cli.number(0, 90), help="Leave out heads turned by more than this many degrees.")
@click.option("--no-glasses", is_flag=True, help="Leave out faces with glasses (aligned faces only).")
@click.option("--sharp", is_flag=True, help="Leave out blurred pictures.")
@click.option("--max-blur", type=cli.number(0, 1), help=f"The same with another limit than {BLUR}.")
@click.option("--duplicates", is_flag=True, help="Leave out near-duplicates, by perceptual hash.")
@click.option("--max-distance", type=cli.integer(0, 127), help=f"... up to this distance instead of {DUPLICATE}.")
@click.option(
    "--background",
    type=click.Choice(["keep", "white", "transparent"]),
    default="keep",
    help="The background of aligned faces.",
)
@click.option(
    "--matting", type=click.Choice(["walker", "rembg"]), default="walker", help="How the background is found."
)
@_FORMAT
@_LABELS
@click.option("--fps", type=cli.number(above=0, high=1000), help="Frames taken from each second of a video.")
@_START
@_STOP
@_PER_SHARD
@_WORKERS
@cli.quiet()
@cli.overwrite()
def make(
    sources: tuple[str, ...], out: Path, size: int, crop: str, all_faces: bool, enlarge: float, front: float | None,
    no_glasses: bool, sharp: bool, max_blur: float | None, duplicates: bool, max_distance: int | None,
    background: str, matting: str, format: str, labels: str, fps: float | None, start: int, stop: int | None,
    per_shard: int, workers: int, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Make a set from folders, zips, tar shards, lmdbs and videos.

    Every picture is cropped, resized with antialiasing, and judged; what is left out is shown with the reason in
    NAME-report.html. Damaged files are left out, too. A run that was killed is resumed by the same command.
    """
    recipe = Recipe(
        size, crop, "all" if all_faces else "largest", enlarge, front, not no_glasses,
        BLUR if sharp and max_blur is None else max_blur, background, matting, format=format,
    )  # fmt: skip
    distance = DUPLICATE if duplicates and max_distance is None else max_distance
    with _resumable():
        summary = dataset(
            sources, out, recipe, labels=labels, fps=fps, start=start, stop=stop, distance=distance, workers=workers,
            per_shard=per_shard, overwrite=overwrite, quiet=quiet,
        )  # fmt: skip
    _report(summary)


@main.subcommand("draw", "python -m stylegan_toon.dataset draw faces.zip --style ink --out ink.zip")
@_SOURCES
@click.option("--style", type=click.Choice(sorted(STYLES)), default="comic", help="Manner of the drawings.")
@cli.out("drawings.zip", help="A .zip, or a folder for tar shards.")
@click.option("--size", type=cli.integer(32, 4096), default=256, help="Side of the pictures in pixels.")
@click.option("--align", is_flag=True, help="The sources are photos: find and cut out the faces first.")
@_FORMAT
@_LABELS
@_START
@_STOP
@_PER_SHARD
@_WORKERS
@cli.quiet()
@cli.overwrite()
def draw_command(
    sources: tuple[str, ...], style: str, out: Path, size: int, align: bool, format: str, labels: str, start: int,
    stop: int | None, per_shard: int, workers: int, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Draw faces: a cartoon set for people who have none."""
    recipe = Recipe(size, crop="align" if align else "none", style=style, format=format)
    with _resumable():
        summary = dataset(
            sources, out, recipe, labels=labels, start=start, stop=stop, workers=workers, per_shard=per_shard,
            overwrite=overwrite, quiet=quiet,
        )  # fmt: skip
    _report(summary)


@main.subcommand("avatars", "python -m stylegan_toon.dataset avatars --count 5000 --styles toon-head --out avatars.zip")
@cli.out("avatars.zip", help="A .zip, or a folder for tar shards.")
@click.option("--count", type=cli.integer(1, MANY), default=1000, help="Number of pictures.")
@click.option("--styles", type=cli.TEXT, default=",".join(FRONTAL), help="DiceBear styles, each of them a class.")
@_SIZE
@click.option("--background", type=click.Choice(["pastel", "white"]), default="pastel", help="Behind the heads.")
@click.option(
    "--crop",
    type=cli.TEXT,
    default="0,0,1",
    help="Left, upper and side of what is kept, as parts of the drawing's side.",
)
@_FORMAT
@_PER_SHARD
@_WORKERS
@cli.seed()
@cli.quiet()
@cli.overwrite()
def avatars_command(
    out: Path, count: int, styles: str, size: int, background: str, crop: str, format: str, per_shard: int,
    workers: int, seed: int, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Draw vector avatars, offline (pip install 'stylegan_toon[avatars]').

    The styles and their licences, which differ, are written into dataset.json.
    """
    artist = Avatars(tuple(dict.fromkeys(styles.split(","))), size, seed, background, format, _three(crop))
    with _resumable():
        summary = avatars(out, count, artist, workers=workers, per_shard=per_shard, overwrite=overwrite, quiet=quiet)
    _report(summary)
    for row in [] if quiet else artist.licences():
        click.echo(f"{row['style']}: {row['artist']}, {row['licence']}", err=True)


def _three(text: str) -> tuple[float, float, float]:
    try:
        left, upper, part = (float(number) for number in text.split(","))
        if not math.isfinite(left + upper + part):
            raise ValueError
    except ValueError:
        raise ToonError(f"--crop is {short(repr(text))}: give left, upper and side, such as 0.15,0.18,0.7.") from None
    return left, upper, part


@main.subcommand("check", "python -m stylegan_toon.dataset check faces.zip")
@click.argument("source", metavar="SET", type=cli.TEXT)
@click.option(
    "--resolution", type=cli.integer(1, 65_536), help="Side the pictures must have; that of the first if not given."
)
@click.option("--resize", is_flag=True, help="Accept pictures of any size, as train does.")
@click.option("--write-index", is_flag=True, help="Write index.json for the tar shards in the folder SET.")
@cli.quiet()
def check(source: str, resolution: int | None, resize: bool, write_index: bool, quiet: bool) -> None:
    """Read every picture of a set and name those that cannot be used; exit code 2 if there are any."""
    if write_index:
        index_shards(source)
    pictures = ImageDataset(source, resolution, resize=resize)
    bad = 0
    with cli.progress(total=len(pictures), quiet=quiet, unit="img") as bar:
        for row in range(len(pictures)):
            problem = pictures.problem(row)
            if problem:
                bad += 1
                bar.write(problem)
            bar.update()
    if bad:
        raise ToonError(f"{bad} of {len(pictures)} pictures of {source} cannot be used: repair or remove them.")
    click.echo(f"{len(pictures)} pictures of {pictures.resolution}x{pictures.resolution}, all usable")
    click.echo(source)


if __name__ == "__main__":
    main()

"""Make training sets: from photos, drawings, videos; rendered comics; vector avatars."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..data.shards import Shards, is_url, write_index
from ..data.sources import Source, open_source
from ..dataset_builder.avatars import Avatars
from ..dataset_builder.build import Summary, make_set
from ..dataset_builder.labels import KINDS, labels_of
from ..dataset_builder.recipe import FORMATS, Preparation, Recipe
from ..errors import ToonError


def dataset(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    labels: str = "auto",
    fps: float | None = None,
    start: int = 0,
    stop: int | None = None,
    distance: int | None = None,
    **how: Any,
) -> Summary:
    """Make a set from folders, zips, tar shards, lmdbs and videos; going on where an earlier call was killed.

    Args:
        sources: one or several of what `open_source` takes.
        out: a ``.zip``, or a folder for tar shards.
        recipe: what is done with each picture.
        labels: see `labels_of`.
        fps: frames taken from each second of a video; all if None.
        start, stop: only these of all pictures, in order of name.
        distance: bits of 256 in which near-duplicates may differ; None keeps them.
        how: ``workers``, ``per_shard``, ``overwrite``, ``quiet`` as for `make_set`.

    Raises:
        ToonError: as `open_source`, `labels_of` and `make_set` do. A damaged picture is left out and reported.
    """
    recipe = recipe or Recipe()
    places = [sources] if isinstance(sources, (str, Path)) else list(sources)
    opened = [open_source(place, fps=fps) for place in places]
    given, about = labels_of(labels, opened)
    items = [
        (number, name, label)
        for number, (source, part) in enumerate(zip(opened, given))
        for name, label in zip(source.names, part)
    ]
    chosen = items[start:stop]
    if not chosen:
        raise ToonError(f"There are {len(items)} pictures, none of them from {start} to {stop}.")
    plan = {"sources": [_fingerprint(source) for source in opened], "labels": labels, "start": start, **asdict(recipe)}
    work = Preparation(opened, recipe)
    return make_set(out, chosen, work, plan, format=recipe.format, distance=distance, about=about, **how)


def _fingerprint(source: Source) -> list[Any]:
    """Tells a source from others without reading its pictures, wherever it lies."""
    names = hashlib.sha256("\n".join(source.names).encode(errors="surrogatepass")).hexdigest()
    return [Path(str(source.path)).name, len(source.names), names]


_SOURCES = click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
_SIZE = click.option("--size", type=click.IntRange(8, 4096), default=256, help="Side of the pictures in pixels.")
_FORMAT = click.option("--format", type=click.Choice(list(FORMATS)), default="png", help="Of the pictures.")
_PER_SHARD = click.option("--per-shard", type=click.IntRange(1), default=1000, help="Pictures in a tar shard.")
_WORKERS = click.option("--workers", type=click.IntRange(1), default=2, help="Processes.")
_LABELS = click.option("--labels", type=click.Choice(KINDS), default="auto", help="Where labels come from.")
_START = click.option("--start", type=click.IntRange(0), default=0, help="First picture to take, in order of name.")
_STOP = click.option("--stop", type=click.IntRange(1), help="Picture to stop before.")


def avatars(out: str | Path, count: int, artist: Avatars, **how: Any) -> Summary:
    """Make a set of ``count`` vector avatars; the class of a picture is its style.

    Args:
        out: a ``.zip``, or a folder for tar shards; ``dataset.json`` names artist and licence of every class.
        how: as for `make_set`.
    """
    about = {"classes": list(artist.styles), "licences": artist.licences(), "made_with": artist.versions()}
    plan = {**asdict(artist), **artist.versions()}
    return make_set(out, range(count), artist, plan, format=artist.format, about=about, **how)


def index_shards(folder: str | Path) -> Path:
    """Write ``index.json`` for the tars of a folder, so that they can be read over http. Returns its path."""
    path = Path(folder)
    if is_url(folder) or not path.is_dir():
        raise ToonError(f"{folder} is no folder: --write-index needs the folder in which the tars lie.")
    shards = Shards(path / "*.tar", index=False)
    labels = shards.labels()
    ends = [sum(shards.sizes[: number + 1]) for number in range(len(shards.sizes))]
    return write_index(
        path,
        [
            (shard.name, shard.size, None if labels is None else labels[end - shard.size : end])
            for shard, end in zip(shards.shards, ends)
        ],
    )

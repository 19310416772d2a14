"""Make training sets from photos, drawings and videos; from vector avatars; index tar shards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.shards import Shards, is_url, write_index
from ..data.sources import Source, open_source
from ..dataset_builder.avatars import Avatars
from ..dataset_builder.build import Summary, make_set
from ..dataset_builder.labels import labels_of
from ..dataset_builder.recipe import Preparation, Recipe
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
    workers: int = 1,
    per_shard: int = 1000,
    overwrite: bool = False,
    quiet: bool = False,
) -> Summary:
    """Make a set from folders, zips, tar shards, lmdbs and videos, resuming where an earlier call was killed.

    Args:
        sources: one or several of what `open_source` takes.
        out: a ``.zip``, or a folder for tar shards.
        recipe: how each picture is cropped, judged and drawn; None = the defaults.
        labels: see `labels_of`.
        fps: frames taken from each second of a video; None = all.
        start, stop: take the pictures from ``start`` up to, but not including, ``stop``, in order of name.
        distance: bits of 256 in which near-duplicates may differ; None keeps duplicates.
        workers: processes.
        per_shard: pictures in a tar shard.
        overwrite: replace ``out`` if it exists.
        quiet: show no progress.

    Raises:
        ToonError: ``out`` is or contains a source; and as `open_source`, `labels_of` and `make_set` do. A damaged
            picture is left out and reported.
    """
    recipe = recipe or Recipe()
    places = [sources] if isinstance(sources, (str, Path)) else list(sources)
    _refuse_sources(Path(out), places)
    opened = [open_source(place, fps=fps) for place in places]
    given, about = labels_of(labels, opened)
    items = [
        (number, name, label)
        for number, (source, part) in enumerate(zip(opened, given))
        for name, label in zip(source.names, part)
    ]
    chosen = items[start:stop]
    if not chosen:
        raise ToonError(f"There are {len(items)} pictures, none of them from {start} to {stop}: choose other limits.")
    plan = {"sources": [_fingerprint(source) for source in opened], "labels": labels, "start": start, **asdict(recipe)}
    work = Preparation(opened, recipe)
    return make_set(
        out, chosen, work, plan, format=recipe.format, distance=distance, about=about, workers=workers,
        per_shard=per_shard, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip


def _refuse_sources(out: Path, places: Sequence[str | Path]) -> None:
    """Refuse an ``out`` whose replacement would delete a source."""
    target = out.resolve()
    for place in places:
        if is_url(place):
            continue
        source = Path(place).resolve()  # of a pattern such as shards/*.tar, the folder counts
        source = source.parent if any(letter in source.name for letter in "*?[") else source
        if source == target or target in source.parents:
            raise ToonError(f"{out} is a source of the set, or contains one: choose another --out.")


def _fingerprint(source: Source) -> list[Any]:
    """What distinguishes a source from others: name, number of pictures and a digest of their names."""
    names = hashlib.sha256("\n".join(source.names).encode(errors="surrogatepass")).hexdigest()
    return [Path(str(source.path)).name, len(source.names), names]


def avatars(
    out: str | Path,
    count: int,
    artist: Avatars,
    *,
    workers: int = 1,
    per_shard: int = 1000,
    overwrite: bool = False,
    quiet: bool = False,
) -> Summary:
    """Make a set of ``count`` vector avatars; the class of a picture is its style.

    Args:
        out: a ``.zip``, or a folder for tar shards; ``dataset.json`` names artist and licence of every class.
        count: pictures.
        artist: what draws them.
        workers, per_shard, overwrite, quiet: as for `dataset`.

    Raises:
        ToonError: as `make_set` does.
    """
    about = {"classes": list(artist.styles), "licences": artist.licences(), "made_with": artist.versions()}
    plan = {**asdict(artist), **artist.versions()}
    return make_set(
        out, range(count), artist, plan, format=artist.format, about=about, workers=workers, per_shard=per_shard,
        overwrite=overwrite, quiet=quiet,
    )  # fmt: skip


def index_shards(folder: str | Path) -> Path:
    """Write ``index.json`` for the tar shards of a folder, so that they can be read over http.

    Returns:
        the path of ``index.json``.

    Raises:
        ToonError: not a folder, or no tar shards in it.
    """
    path = Path(folder)
    if is_url(folder) or not path.is_dir():
        raise ToonError(f"{folder} is not a folder: --write-index needs the folder of the tar shards.")
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

"""Makes a set: a function processes items into a journal, and the journal becomes a zip or tar shards."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.archive import LABEL_FILE
from ..data.images import image_grid, read_image, save_image, shrink
from ..data.shards import INDEX, write_shards
from ..errors import ToonError
from ..files import atomic_folder, atomic_path, output_folder, refuse_overwrite
from ..progress import progress
from .filters import duplicates
from .journal import Entry, Journal
from .parallel import ordered_map
from .recipe import THUMBNAIL, Outcome, encoded
from .report import write_report

Processed = tuple[str, Any, list[Outcome]]  # name and label (a class, numbers or None) of an item, and its outcomes
PER_FOLDER = 1000  # pictures in a folder of the zip, as NVIDIA's tool has it


@dataclass(frozen=True)
class Summary:
    """The result of a run: the number of pictures kept, those left out by reason, and the files written."""

    out: Path
    kept: int
    dropped: dict[str, int]
    report: Path
    sheet: Path


def make_set(
    out: str | Path,
    items: Sequence[Any],
    work: Callable[[Any], Processed],
    plan: dict[str, Any],
    *,
    format: str = "png",
    workers: int = 1,
    distance: int | None = None,
    per_shard: int = 1000,
    about: dict[str, Any] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Summary:
    """Make a zip (``out`` ends in ``.zip``) or a folder of tar shards from ``items``.

    After an interruption, a call with the same arguments continues where the last one stopped, and the result has the
    same bytes. ``NAME-report.html`` and ``NAME-report.csv`` beside ``out`` list what was left out and why, ``NAME.png``
    is a sheet of pictures that were kept.

    Args:
        items: each is given to ``work``, which must be picklable and depend on nothing else.
        plan: JSON of sources and options, by which an unfinished job is recognised.
        format: suffix of the pictures.
        workers: processes.
        distance: see `filters.duplicates`; None keeps duplicates.
        per_shard: pictures in a tar. Shards are shuffled (with a fixed seed), a zip keeps the order of the items.
        about: further entries of ``dataset.json``.

    Raises:
        ToonError: ``out`` exists or cannot be written; there is an unfinished job with another plan; nothing was kept;
            some pictures have labels and others none.
    """
    out = Path(out)
    zipped = out.suffix.lower() == ".zip"
    stem = str(out.with_suffix("") if zipped else out)
    report, table, sheet = (Path(stem + end) for end in ("-report.html", "-report.csv", ".png"))
    refuse_overwrite([out, sheet], overwrite)  # a report alone comes from a run that kept nothing
    if out.is_dir() and (zipped or not (out / INDEX).exists()):
        raise ToonError(f"{out} is a folder, and no set of shards: choose another --out.")
    output_folder(out.parent)
    plan = {**plan, "number of pictures": len(items), "format": format}
    bar = partial(progress, unit="img", quiet=quiet)
    journal = Journal(out.with_name(f"{out.name}.part"), plan, replace=overwrite)
    try:
        remaining = (items[i] for i in range(journal.done, len(items)))
        results = ordered_map(work, remaining, workers)
        for result in bar(results, desc=out.name, initial=journal.done, total=len(items)):
            journal.add(*result)
    finally:
        journal.close()

    kept, dropped = _without_duplicates(journal, distance)
    if not zipped:
        order = np.random.default_rng(0).permutation(len(kept))
        kept = [kept[i] for i in order]
    names = [f"{i // PER_FOLDER:05d}/img{i:08d}.{format}" if zipped else f"{i:08d}.{format}" for i in range(len(kept))]
    write_report(report, table, out.name, list(zip(kept, names)), dropped)
    reasons: dict[str, int] = {}
    for entry in dropped:
        reasons[entry.kind] = reasons.get(entry.kind, 0) + 1
    if not kept:
        journal.remove()
        counts = ", ".join(f"{count} {kind}" for kind, count in reasons.items())
        raise ToonError(f"None of {len(items)} pictures was kept ({counts}): {report} shows them.")
    labelled = sum(entry.label is not None for entry in kept)
    if labelled not in (0, len(kept)):
        raise ToonError(f"Only {labelled} of {len(kept)} pictures have labels: label all, or use --labels none.")

    samples = ((name, journal.picture(entry), entry.label) for name, entry in zip(names, kept))
    write = _write_zip if zipped else _write_folder
    write(out, bar(samples, desc="writing", total=len(kept)), about or {}, per_shard)
    shown = np.unique(np.linspace(0, len(kept) - 1, 32).astype(int))
    pictures = [read_image(io.BytesIO(journal.picture(kept[i]))) for i in shown]
    save_image(image_grid(pictures, 8, size=min(160, pictures[0].width)), sheet)
    journal.remove()
    return Summary(out, len(kept), reasons, report, sheet)


def _without_duplicates(journal: Journal, distance: int | None) -> tuple[list[Entry], list[Entry]]:
    """The entries that are kept and those that are left out, both in order."""
    entries = list(journal.entries())
    good = [entry for entry in entries if entry.outcome.why is None]
    copies = {} if distance is None else duplicates([entry.outcome.hash for entry in good], distance)
    for index, first in copies.items():
        outcome = good[index].outcome
        outcome.why = f"duplicate: of {good[first].name}"
        picture = read_image(io.BytesIO(journal.picture(good[index])))
        outcome.thumbnail = encoded(shrink(picture, THUMBNAIL), "jpg")
    return [e for e in good if e.outcome.why is None], [e for e in entries if e.outcome.why is not None]


def _write_zip(out: Path, samples: Iterable[tuple[str, bytes, Any]], about: dict[str, Any], _: int) -> None:
    labels = []
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data, label in samples:
            archive.writestr(_member(name), data)
            labels += [] if label is None else [[name, label]]
        archive.writestr(_member(LABEL_FILE), json.dumps({"labels": labels or None, **about}))


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # with a fixed date: the same pictures give the same file
    info.external_attr = 0o644 << 16
    info.create_system = 3
    return info


def _write_folder(out: Path, samples: Iterable[tuple[str, bytes, Any]], about: dict[str, Any], per_shard: int) -> None:
    with atomic_folder(out) as temporary:
        write_shards(temporary, samples, per_shard)
        (temporary / LABEL_FILE).write_text(json.dumps({"labels": None, **about}))

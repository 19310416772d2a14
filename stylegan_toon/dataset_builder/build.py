"""Making a set: items through a worker function into a journal, and from there into a zip or tar shards."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.archive import LABEL_FILE
from ..data.images import image_grid, read_image, save_image, shrink
from ..data.shards import INDEX, write_shards
from ..errors import ToonError
from ..files import atomic_folder, atomic_path, output_folder, refuse_overwrite
from .filters import duplicates
from .journal import Entry, Journal
from .parallel import ordered_map
from .prepare import THUMBNAIL, Outcome, encoded
from .report import write_report

Made = tuple[str, Any, list[Outcome]]  # name, label (a class, numbers or None) and what became of an item
PER_FOLDER = 1000  # pictures in a folder of the zip, as NVIDIA's tool has it


@dataclass(frozen=True)
class Summary:
    """What came of a run: pictures kept, pictures left out by reason, and the files made."""

    out: Path
    kept: int
    dropped: dict[str, int]
    report: Path
    sheet: Path


def make_set(
    out: str | Path,
    items: Sequence[Any],
    work: Callable[[Any], Made],
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

    Interrupted or killed, it goes on where it was when it is called again with the same arguments, and the result
    has the same bytes. Beside ``out`` come ``NAME-report.html`` and ``NAME-report.csv`` (what was left out and why)
    and ``NAME.png`` (a sheet of what was kept).

    Args:
        items: one after the other given to ``work``, which must be picklable and depend on nothing else.
        plan: JSON that tells this job from others: sources and options.
        format: suffix of the pictures.
        workers: processes.
        distance: see `filters.duplicates`; None keeps duplicates.
        per_shard: pictures in a tar. Shards are shuffled (always alike), a zip keeps the order of the items.
        about: goes into ``dataset.json`` besides the labels.

    Raises:
        ToonError: ``out`` is there already or cannot be written; an unfinished job with another plan is;
            nothing was kept; some pictures have labels and others none.
    """
    out = Path(out)
    zipped = out.suffix.lower() == ".zip"
    stem = str(out.with_suffix("") if zipped else out)
    report, table, sheet = (Path(stem + end) for end in ("-report.html", "-report.csv", ".png"))
    refuse_overwrite([out, sheet], overwrite)  # reports alone are of a run that kept nothing
    if out.is_dir() and (zipped or not (out / INDEX).exists()):
        raise ToonError(f"{out} is a folder, and no set of shards: choose another --out.")
    output_folder(out.parent)
    plan = {**plan, "number of pictures": len(items), "format": format}
    journal = Journal(out.with_name(f"{out.name}.part"), plan, replace=overwrite)
    try:
        rest = (items[i] for i in range(journal.done, len(items)))
        bar = dict(total=len(items), unit="img", disable=quiet, dynamic_ncols=True)
        for made in tqdm(ordered_map(work, rest, workers), desc=out.name, initial=journal.done, **bar):
            journal.add(*made)
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
        said = ", ".join(f"{count} {kind}" for kind, count in reasons.items())
        raise ToonError(f"None of {len(items)} pictures was kept ({said}): {report} shows them.")
    labelled = sum(entry.label is not None for entry in kept)
    if labelled not in (0, len(kept)):
        raise ToonError(f"Only {labelled} of {len(kept)} pictures have labels: give all one, or say --labels none.")

    samples = ((name, journal.picture(entry), entry.label) for name, entry in zip(names, kept))
    bar["total"] = len(kept)
    (_write_zip if zipped else _write_folder)(out, tqdm(samples, desc="writing", **bar), about or {}, per_shard)
    shown = np.unique(np.linspace(0, len(kept) - 1, 32).astype(int))
    pictures = [read_image(io.BytesIO(journal.picture(kept[i]))) for i in shown]
    save_image(image_grid(pictures, 8, size=min(160, pictures[0].width)), sheet)
    journal.remove()
    return Summary(out, len(kept), reasons, report, sheet)


def _without_duplicates(journal: Journal, distance: int | None) -> tuple[list[Entry], list[Entry]]:
    """What is kept and what is not, both in order."""
    entries = list(journal.entries())
    good = [entry for entry in entries if entry.outcome.why is None]
    twins = {} if distance is None else duplicates([entry.outcome.hash for entry in good], distance)
    for index, first in twins.items():
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

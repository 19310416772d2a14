"""Which photos are worked on, and which files each of them becomes; checked before anything long begins."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.archive import is_picture
from ..data.images import FORMATS, SUFFIXES, starts_like_picture
from ..data.video import is_film
from ..errors import ToonError, short
from ..files import atomic_path, output_folder

MAX_PHOTOS = 1_000_000
PLAN = "toonify.json"  # in the folder of results of a folder: what the results were made of, and how


@dataclass(frozen=True)
class Wanted:
    """What `toonify` writes for each photo.

    Attributes:
        kind: "toon" or "drawing".
        pasted: also the whole photo with the cartoons in it.
        latents: also the latent of each face.
    """

    kind: str = "toon"
    pasted: bool = False
    latents: bool = False


@dataclass(frozen=True)
class Job:
    """A photo, or a film, and the names of its results.

    Attributes:
        path: of the photo.
        folder: of its results.
        wanted: which results there are.
        film: it is a film.
        listed: it was found in a folder, and not named itself.
    """

    path: Path
    folder: Path
    wanted: Wanted = Wanted()
    film: bool = False
    listed: bool = False

    @property
    def stem(self) -> str:
        return self.path.stem

    def cartoon(self, number: int | None = None) -> Path:
        """The cartoon of the only face, or of the one with this number."""
        return self._file(self.wanted.kind + (".mp4" if self.film else ".png"), number)

    def latent(self, number: int | None = None) -> Path:
        """The latent of the only face, or of the one with this number."""
        return self._file("latent.safetensors", number)

    @property
    def pasted(self) -> Path:
        return self._file("pasted.png")

    @property
    def sheet(self) -> Path:
        """Written last: where it is, the photo is finished."""
        return self._file("sheet.png")

    def _file(self, ending: str, number: int | None = None) -> Path:
        return self.folder / f"{self.stem}{'' if number is None else f'-{number}'}-{ending}"


@dataclass
class PhotoList:
    """The photos of a run, in order.

    Attributes:
        jobs: one for each photo or film.
        folders: those that were given.
        passed_over: files of the folders that are no pictures, by suffix.
    """

    jobs: list[Job]
    folders: list[Path] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    @cached_property
    def taken(self) -> set[Path]:
        """What results begin with, ``folder / stem``, of all jobs."""
        return {job.folder / job.stem for job in self.jobs}

    @cached_property
    def _originals(self) -> set[tuple[int, int]]:
        return {key for job in self.jobs if (key := _identity(job.path)) is not None}

    @cached_property
    def _numbered(self) -> dict[Path, list[Path]]:
        """Results of single faces that are there already, by what they begin with."""
        there: dict[Path, list[Path]] = {}
        for folder in {job.folder for job in self.jobs}:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            for name in names:
                if match := re.fullmatch(r"(.+)-\d{1,4}-(?:toon|drawing)\.png|(.+)-\d{1,4}-latent\.safetensors", name):
                    there.setdefault(folder / (match[1] or match[2]), []).append(folder / name)
        return there

    def existing(self, job: Job) -> list[Path]:
        """The results of a job that are there already, whether or not they are a former run's."""
        files = [job.cartoon(), job.sheet]
        files += [job.pasted] if job.wanted.pasted and not job.film else []
        files += [job.latent()] if job.wanted.latents and not job.film else []
        return [file for file in files if file.exists()] + ([] if job.film else self._numbered.get(files[0], []))

    def spare_originals(self) -> None:
        """Refuse to begin where a result would take the place of a photo of this run.

        Raises:
            ToonError: which photo, whatever it is called there: another spelling of its path, a link to it.
        """
        for job in self.jobs:
            for file in self.existing(job):
                if _identity(file) in self._originals:
                    raise ToonError(f"{file} is one of the photos and would be overwritten: choose another --out.")

    def refuse_existing(self, *, but: Iterable[Job] = ()) -> None:
        """Raise ToonError if a result of a job exists; those of the jobs ``but`` may."""
        allowed = set(but)
        for job in self.jobs:
            if job not in allowed and (there := self.existing(job)):
                raise ToonError(f"{there[0]} exists already: choose another --out, or add --overwrite.")


def list_photos(places: Sequence[Path], out: Path, wanted: Wanted) -> PhotoList:
    """The photos and films that were named, and the photos in folders, sorted; no picture is opened.

    The results of a folder's photos go to the same sub-folders of ``out``. Hidden files and folders are left out, and
    so is ``out`` where it lies inside a folder of photos. Films in folders are left out.

    Args:
        places: files and folders.
        out: folder of the results.
        wanted: see `Wanted`.

    Raises:
        ToonError: a file that is no picture or film, a folder without photos, or two photos with the same results.
    """
    result = PhotoList([])
    for place in places:
        if not place.is_dir():
            result.jobs.append(_named(place, out, wanted))
            continue
        if out.exists() and os.path.samefile(place, out):
            raise ToonError(f"{place} holds the photos and cannot be --out too: choose another --out.")
        result.folders.append(place)
        before = len(result.jobs)
        for path in _files(place, out):
            if not is_picture(path.name):
                result.passed_over[path.suffix.lower() or "no suffix"] += 1
                continue
            result.jobs.append(Job(path, out / path.parent.relative_to(place), wanted, listed=True))
            if len(result.jobs) > MAX_PHOTOS:
                raise ToonError(f"{place} holds more than {MAX_PHOTOS:,} photos: give its sub-folders one at a time.")
        if len(result.jobs) == before:
            raise ToonError(f"{place} holds no pictures ({', '.join(SUFFIXES)}): give another folder.")
    by_results: dict[Path, Job] = {}
    for job in result.jobs:
        other = by_results.setdefault(job.folder / job.stem, job)
        if other is not job:
            raise ToonError(
                f"{short(other.path, 200)} and {short(job.path, 200)} would have the same name as results "
                f"({short(job.cartoon(), 200)}): rename one, or do them one at a time with an --out each."
            )
    return result


def _named(path: Path, out: Path, wanted: Wanted) -> Job:
    if is_film(path):
        return Job(path, out, wanted, film=True)
    # A file with the suffix of a picture is judged when it is read, so that others go on if it is damaged.
    if path.suffix.lower() not in SUFFIXES and not starts_like_picture(path):
        raise ToonError(f"{path} is not a picture this can read: save it as one of {', '.join(FORMATS)}.")
    return Job(path, out, wanted)


def _files(folder: Path, out: Path) -> Iterator[Path]:
    """All files below a folder, sorted by folder and name, without hidden ones and what lies in ``out``."""

    def refuse(error: OSError) -> None:
        raise ToonError(f"{error.filename} cannot be read ({error.strerror}): check the folder.") from error

    own = _identity(out)
    for root, folders, names in os.walk(folder, onerror=refuse):
        here = Path(root)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (own is None or _identity(here / name) != own)
        )
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode: equal for all spellings of a path and all links to a file. None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def begin(photos: PhotoList, out: Path, options: Mapping[str, Any], *, overwrite: bool) -> list[Job]:
    """What is left to do of folders, after a run that was stopped or for the first time.

    A file ``toonify.json`` in ``out`` holds the options, so that no folder of results is made in two ways.

    Args:
        photos: a list with folders in it.
        out: folder of the results.
        options: all that the results depend on; anything JSON can hold.
        overwrite: make everything again.

    Raises:
        ToonError: results that are not of a former run of the same photos with the same options, or ``out`` cannot be
            written to.
    """
    now = json.loads(json.dumps({"photos": [str(f.resolve()) for f in photos.folders], "options": dict(options)}))
    plan = out / PLAN
    photos.spare_originals()
    finished: set[Job] = set()
    if not overwrite:
        before = _read_plan(plan)
        if before is None:
            photos.refuse_existing()
        elif changed := _changed(before, now):
            raise ToonError(f"{out} was made with {changed}: choose another --out, or add --overwrite to make it anew.")
        else:
            finished = {job for job in photos.jobs if job.listed and job.sheet.exists()}
            photos.refuse_existing(but=(job for job in photos.jobs if job.listed))
    output_folder(out)
    with atomic_path(plan) as temporary:
        temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    return [job for job in photos.jobs if job not in finished]


def _read_plan(path: Path) -> dict[str, Any] | None:
    """The plan of a former run; None if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.loads(file.read(1 << 20))
        return found if isinstance(found, dict) and isinstance(found.get("options"), dict) else {"options": {}}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {"options": {}}


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What a former run had otherwise, in words; None if nothing."""
    then, today = before["options"], now["options"]
    if then == today:
        return None if before.get("photos") == now["photos"] else "other photos"
    names = sorted(name for name in {*then, *today} if then.get(name) != today.get(name))
    return "another " + ", ".join("--" + short(name, 40).replace("_", "-") for name in names[:5])

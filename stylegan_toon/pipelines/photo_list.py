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
from ..files import atomic_path, explain_os_error, file_identity, output_folder, spare_originals
from .film_journal import journal_folder

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
        """Written last."""
        return self._file("sheet.png")

    @property
    def finished(self) -> bool:
        """Whether a former run has finished it: its sheet is there, and of a film no journal is left."""
        return self.sheet.exists() and not (self.film and journal_folder(self.cartoon()).exists())

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
    def _numbered(self) -> dict[Path, list[Path]]:
        """Results of single faces that are there already, by what they begin with."""
        there: dict[Path, list[Path]] = {}
        for folder in {job.folder for job in self.jobs}:
            names = set(os.listdir(folder)) if folder.is_dir() else set()
            for name in sorted(names):
                match = re.fullmatch(r"((.+)-\d{1,4})-(?:toon\.png|drawing\.png|latent\.safetensors)", name)
                if match and f"{match[1]}-sheet.png" not in names:  # with a sheet they are those of a photo NAME-2
                    there.setdefault(folder / match[2], []).append(folder / name)
        return there

    def existing(self, job: Job) -> list[Path]:
        """The results of a job that are there already, whether or not they are a former run's."""
        wanted, files = job.wanted, [job.cartoon(), job.sheet]
        if job.film:
            return [file for file in files if file.exists()]
        files += ([job.pasted] if wanted.pasted else []) + ([job.latent()] if wanted.latents else [])
        endings = (f"-{wanted.kind}.png", *(["-latent.safetensors"] if wanted.latents else []))
        numbered = [file for file in self._numbered.get(job.folder / job.stem, []) if file.name.endswith(endings)]
        return [file for file in files if file.exists()] + numbered

    def refuse_meeting(self, job: Job, numbers: Iterable[int], *, overwrite: bool = False) -> None:
        """Raise ToonError if the results of faces ``numbers`` of a photo would be those of a photo called NAME-2."""
        for number in numbers:
            meets = job.folder / f"{job.stem}-{number}"
            other = meets.with_name(f"{meets.name}-sheet.png")
            if meets in self.taken or (other.exists() and not overwrite):
                raise ToonError(
                    f"Face {number} of {job.path.name} would be {job.cartoon(number).name}, as of another photo: "
                    "rename one."
                )

    def remarks(self, finished: int) -> list[str]:
        """What is not done, in sentences: ``finished`` photos of a former run, and what is no picture."""
        lines = [f"{finished} photo{'' if finished == 1 else 's'} finished before."] if finished else []
        if self.passed_over:
            kinds = ", ".join(f"{count} {short(kind, 20)}" for kind, count in self.passed_over.most_common(8))
            lines.append(f"Not pictures, and left out: {kinds}.")
        return lines

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

    own = file_identity(out)
    for root, folders, names in os.walk(folder, onerror=refuse):
        here = Path(root)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (own is None or file_identity(here / name) != own)
        )
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def latent_jobs(paths: Sequence[Path], out: Path) -> list[Job]:
    """The names of what latents without a photo become: those of their files, without "-latent" at the end.

    Raises:
        ToonError: two have the same name.
    """
    jobs = [Job(Path(path.stem.removesuffix("-latent") + ".safetensors"), out) for path in paths]
    if len({job.stem for job in jobs}) < len(jobs):
        raise ToonError("Two latent files have the same name, and so would their results: rename one.")
    return jobs


def plan_of(photos: PhotoList, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of folders depend on, for `remaining` and `note_plan`."""
    folders = [str(folder.resolve()) for folder in photos.folders]
    return json.loads(json.dumps({"photos": folders, "options": dict(options)}))


def remaining(
    photos: PhotoList, out: Path, plan: Mapping[str, Any], *, overwrite: bool = False, resume: bool = False
) -> list[Job]:
    """What is left to do; nothing is written.

    Of folders, and with ``resume``, photos and films that a former run has finished are left out. A folder of results
    says in ``toonify.json`` how it was made, so that none is made in two ways.

    Args:
        photos: all of them.
        out: folder of the results.
        plan: see `plan_of`.
        overwrite: make everything again.
        resume: go on with photos and films that were named.

    Raises:
        ToonError: results exist that are not of a former run with the same options, or a photo would be overwritten.
    """
    spare_originals((file for job in photos.jobs for file in photos.existing(job)), (job.path for job in photos.jobs))
    if overwrite:
        return photos.jobs
    before = _read_plan(out / PLAN) if photos.folders else None
    if before is not None and (changed := _changed(before, plan)):
        raise ToonError(f"{out} was made with {changed}: choose another --out, or add --overwrite to make it anew.")
    ours = [job for job in photos.jobs if resume or (job.listed and before is not None)]
    photos.refuse_existing(but=ours)
    finished = {job for job in ours if job.finished}
    return [job for job in photos.jobs if job not in finished]


def note_plan(out: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan of folders beside their results.

    Raises:
        ToonError: ``out`` cannot be written to.
    """
    output_folder(out)
    with atomic_path(out / PLAN) as temporary:
        temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def forget_finished(jobs: Iterable[Job]) -> None:
    """Remove the sheets of photos that are made again, so that a run that is stopped knows which of them are new.

    Raises:
        WriteError: they cannot be removed.
    """
    for job in jobs:
        try:
            job.sheet.unlink(missing_ok=True)
        except OSError as error:
            raise explain_os_error(error, job.sheet) from error


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


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What a former run had otherwise, in words; None if nothing."""
    then, today = before["options"], now["options"]
    if then == today:
        return None if before.get("photos") == now["photos"] else "other photos"
    names = sorted(name for name in {*then, *today} if then.get(name) != today.get(name))
    return "another " + ", ".join("--" + short(name, 40).replace("_", "-") for name in names[:5])

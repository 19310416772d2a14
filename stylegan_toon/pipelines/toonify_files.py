"""What `toonify` writes for a photo, and for latents that were kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.images import image_grid, save_image
from ..data.metadata import Metadata
from ..errors import ToonError
from ..faces.doubts import without_doubtful
from ..faces.photo import Photo, open_photo
from ..files import results_folder
from ..weights import descend
from ..weights.latent import Latent, read_latent, refuse_other_base, save_latent
from .photo_list import Job
from .project import latent_of
from .toonify import Toon, Toonifier


@dataclass(frozen=True)
class Choice:
    """How photos are opened, which of their faces are taken, and how they are written.

    Attributes:
        size: side of the crops in pixels.
        aligned, face, all_faces: see `faces.photo.open_photo`.
        force: faces that `faces.doubts` doubts are taken, too.
        scene: style that the rest of the photo is drawn in; None = it stays a photo.
        strip: no EXIF is written. The ICC profile stays: without it the colours would change.
    """

    size: int
    aligned: bool = False
    face: int | None = None
    all_faces: bool = False
    force: bool = False
    scene: str | None = None
    strip: bool = False


def open_job(
    job: Job, choice: Choice, say: Callable[[str], None], *, toonifier: Toonifier | None = None, quiet: bool = False
) -> Photo:
    """The photo of a job with the faces that are worth it; says how many were found, and which are left out and why.

    Args:
        job: the photo.
        choice: see `Choice`.
        say: shows a line.
        toonifier: will make the cartoons; None = they are drawn.
        quiet: say only what is left out.

    Raises:
        ToonError: as `open_photo`, or no face is left.
    """
    photo = open_photo(
        job.path, choice.size, aligned=choice.aligned, face=choice.face, all_faces=choice.all_faces
    )  # fmt: skip
    if not photo.aligned and (photo.left_out or not quiet):
        say(photo.about_faces)
    if not choice.force:
        photo, remarks = without_doubtful(photo, toonifier.covered if toonifier else None)
        for remark in remarks:
            say(remark)
    return photo


def write_results(
    job: Job, photo: Photo, result: Toon, choice: Choice, *, base: Toonifier | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write the cartoons of a photo, their latents, the pasted photo, and last the sheet.

    Args:
        job: the photo's names.
        photo: as opened.
        result: its cartoons; of an interrupted one there may be fewer than faces.
        choice: see `Choice`.
        base: made the cartoons; None = they are drawings.
        options: for the provenance of latents.

    Raises:
        WriteError: it cannot be written. What was written before is whole.
    """
    numbers: list[int | None] = list(photo.numbers) if len(photo.faces) > 1 else [None]
    with results_folder(job.folder):
        for number, face in zip(numbers, result):
            save_image(face.image, job.cartoon(number))
        if job.wanted.latents and base is not None:
            history = descend("toonify", dict(options or {}), [base.base])
            for number, face in zip(numbers, result):
                if face.projection is not None:
                    latent = latent_of(face.projection, base.base, noise=False)  # none was searched for
                    save_latent(job.latent(number), latent, scores=face.projection.scores(), provenance=history)
        if job.wanted.pasted:
            metadata = Metadata(profile=result.metadata.profile) if choice.strip else result.metadata
            save_image(result.pasted(choice.scene), job.pasted, metadata)
        save_image(result.sheet(), job.sheet)


def read_faces(paths: Sequence[Path], toonifier: Toonifier) -> list[Latent]:
    """The latents of single faces in files, on the networks' device.

    Raises:
        ToonError: what is wrong with a file, it holds several faces, or they belong to another network.
    """
    result = []
    for path in paths:
        latent = read_latent(path, toonifier.base)
        refuse_other_base(latent, toonifier.base, path)
        if len(latent.ws) != 1:
            raise ToonError(f"{path} holds {len(latent.ws)} latents: give files with one.")
        result.append(latent.to(toonifier.base.mapping.w_avg.device))
    return result


def write_latent(job: Job, shown: tuple[Any, Any]) -> None:
    """Write the cartoon of a latent, and the sheet with what the base shows for it."""
    with results_folder(job.folder):
        save_image(shown[1], job.cartoon())
        save_image(image_grid(shown, columns=2, size=256, column_labels=["inverted", "toon"]), job.sheet)

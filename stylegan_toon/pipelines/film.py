"""Film to cartoon: find and follow the faces, learn each person from a few frames, show all frames, paste them back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ..data.images import image_grid
from ..data.video import Film
from ..data.video_writer import write_film
from ..errors import ToonError
from ..faces.align import Aligned
from ..faces.paste import paste_back
from ..faces.spans import Span
from ..progress import progress
from ..weights import name_of
from .defaults import RESOLUTION
from .film_cast import Cast, film_encoder
from .film_drawing import Drawer
from .film_faces import Cartoons, Shown, cut_out, find_faces, only_person, with_spans
from .film_journal import Journal, journal_folder
from .toonify import Toonifier

BATCH = 8  # frames that are worked on at a time
MOMENTS = 6  # of the sheet
Item = TypeVar("Item")


@dataclass(frozen=True)
class ToonFilm:
    """What `toonify_film` made.

    Attributes:
        path: the film.
        frames: number of its frames.
        people: number of people whose faces were replaced.
        sheet: moments of the source, and below them the same of the result.
        seconds: processor time of finding the faces, learning the people, and making the film.
    """

    path: Path
    frames: int
    people: int
    sheet: Image.Image
    seconds: tuple[float, float, float]


def toonify_film(
    source: str | Path | Film,
    path: str | Path,
    toonifier: Toonifier | str,
    *,
    resolution: int | None = None,
    face: int | None = None,
    resume: bool = False,
    quiet: bool = True,
) -> ToonFilm:
    """Turn the faces of a film into cartoons.

    Args:
        source: the film; see `data.video.Film` for what is read.
        path: of the result, an MP4 with H.264 and the sound of the source.
        toonifier: the networks; or the name of a drawing style.
        resolution: side of the cartoons; None = for each face the smallest that is as large as it, at most 512 px.
        face: only this person, counted from 1 in the order in which they appear. None = all.
        resume: go on with what an interrupted run has found.
        quiet: show no progress.

    Returns:
        What was made. Ctrl-C leaves what the steps have found beside ``path``, and once frames are written, a film
        that ends there; KeyboardInterrupt goes on.

    Raises:
        ToonError: what is wrong with the film or the networks, in one sentence.
    """
    film, path = source if isinstance(source, Film) else Film(source), Path(path)
    if isinstance(toonifier, Toonifier):
        film_encoder(toonifier)
    for note in film.notes:
        warnings.warn(note, stacklevel=2)
    journal = Journal(journal_folder(path), film.path, _settings(toonifier), resume=resume)
    clock = [time.process_time()]
    spans, times = find_faces(film, journal, quiet=quiet)
    try:
        spans = only_person(spans, face, film.path.name)
    except ToonError:
        if not resume:
            journal.discard()
        raise
    clock.append(time.process_time())
    if isinstance(toonifier, str):
        cartoons: Cartoons = Drawer(toonifier)
        sides = [resolution or drawing_side(span) for span in spans]
    else:
        made = toonifier.base.config.head_resolutions
        sides = [resolution or fitting_side(span, made) for span in spans]
        cartoons = Cast.learn(toonifier, film, spans, times, sides, journal, quiet=quiet)
    clock.append(time.process_time())
    frames, sheet = _render(film, path, spans, sides, cartoons, len(times), quiet)
    clock.append(time.process_time())
    journal.discard()
    faces, people, film_itself = (b - a for a, b in pairwise(clock))
    return ToonFilm(path, frames, len({span.person for span in spans}), sheet, (faces, people, film_itself))


def _render(
    film: Film, path: Path, spans: Sequence[Span], sides: Sequence[int], cartoons: Cartoons, total: int, quiet: bool
) -> tuple[int, Image.Image]:
    """Write the film; the number of frames, and the sheet."""
    moments = {int((i + 0.5) * total / MOMENTS) for i in range(MOMENTS)}
    before, after = [], []
    with write_film(path, film) as writer, progress(quiet=quiet, total=total, desc="film", unit="frame") as bar:
        for part in _batches(with_spans(film, spans), BATCH):
            shown = [
                [Shown(i, index, cut_out(frame.image, spans[i], index, sides[i])) for i in here]
                for index, frame, here in part
            ]
            made = iter(cartoons([one for each in shown for one in each]))
            for (index, frame, _), faces in zip(part, shown):
                result = frame.image.copy() if index in moments else frame.image
                if index in moments:
                    before.append(frame.image)
                for one in faces:
                    opacity = float(spans[one.span].opacity[index - spans[one.span].first])
                    result = put_back(result, one.aligned, next(made), opacity)
                if index in moments:
                    after.append(result)
                writer.write(result, frame.pts)
                bar.update()
        written = writer.written
    columns = max(1, len(before))
    sheet = image_grid([*before, *after], columns, size=(384, round(384 * film.height / film.width)))
    return written, sheet


def put_back(photo: Image.Image, aligned: Aligned, cartoon: Image.Image, opacity: float) -> Image.Image:
    """The photo, which may be changed, with a cartoon in place of the face; the photo shows through where it fades."""
    if opacity >= 1:
        return paste_back(photo, aligned, cartoon, in_place=True)
    return Image.blend(photo, paste_back(photo, aligned, cartoon), max(0.0, opacity))


def fitting_side(span: Span, sides: Sequence[int]) -> int:
    """The smallest of ``sides`` that is as large as the face in the film, or the largest up to 512 px."""
    allowed = [side for side in sides if side <= RESOLUTION] or [min(sides)]
    return next((side for side in sorted(allowed) if side >= 0.9 * span.side), max(allowed))


def drawing_side(span: Span) -> int:
    """Side in pixels at which a face is drawn."""
    return fitting_side(span, (128, 256, 384, 512))


def _settings(toonifier: Toonifier | str) -> dict[str, Any]:
    """What the steps before the film itself depend on."""
    if isinstance(toonifier, str):
        return {"drawn": True}
    base, toon = (name_of(network, "") for network in (toonifier.base, toonifier.toon))
    mean = round(float(toonifier.base.mapping.w_avg.double().sum()), 6)
    return {"base": base, "toon": toon, "mean": mean, "inversion": repr(toonifier.inversion)}


def _batches(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    items = iter(items)
    while part := list(islice(items, count)):
        yield part

"""The faces of a film: found and followed in one pass, cut out in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..data.shots import CutFinder
from ..data.video import Film, Frame
from ..errors import ToonError
from ..faces.align import Aligned, crop
from ..faces.spans import Span, spans_of
from ..faces.track import Tracker
from ..progress import progress
from .film_journal import Journal


@dataclass(frozen=True, eq=False)
class Shown:
    """A face in one frame: the index of its span, that of the frame, and the crop."""

    span: int
    index: int
    aligned: Aligned


Cartoons = Callable[[Sequence[Shown]], Sequence[Image.Image]]  # in the order of the frames


def find_faces(film: Film, journal: Journal, *, quiet: bool = True) -> tuple[list[Span], np.ndarray]:
    """The spans of all faces, and the times of all frames in seconds.

    Raises:
        ToonError: there is no face in the film.
    """
    kept = journal.get("faces")
    if kept is None:
        tracker, cuts, times = Tracker(), CutFinder(), []
        with progress(film, quiet=quiet, total=film.count, desc="faces", unit="frame") as frames:
            for index, frame in enumerate(frames):
                times.append(frame.time)
                tracker(index, frame.image, cuts(frame.image))
        spans = spans_of(tracker.shots, np.array(times))
        if not spans:
            name = film.path.name
            raise ToonError(f"No face was found in {name}: use a film in which a face is seen from the front.")
        kept = {"times": np.array(times), **pack(spans)}
        journal.keep("faces", kept)
    return unpack(kept), kept["times"]


def pack(spans: Sequence[Span]) -> dict[str, np.ndarray]:
    """Spans as arrays."""
    heads = np.array([(span.shot, span.person, span.first, len(span)) for span in spans], np.int64).reshape(-1, 4)
    quads = np.concatenate([span.quads for span in spans]) if spans else np.zeros((0, 4, 2))
    turned = np.concatenate([span.turned for span in spans]) if spans else np.zeros(0)
    opacity = np.concatenate([span.opacity for span in spans]) if spans else np.zeros(0)
    return {"spans": heads, "quads": quads, "turned": turned, "opacity": opacity}


def unpack(arrays: dict[str, np.ndarray]) -> list[Span]:
    """The inverse of `pack`."""
    spans, at = [], 0
    for shot, person, first, length in arrays["spans"].tolist():
        part = slice(at, at + length)
        spans.append(Span(shot, person, first, arrays["quads"][part], arrays["turned"][part], arrays["opacity"][part]))
        at += length
    return spans


def only_person(spans: list[Span], face: int | None, name: str) -> list[Span]:
    """The spans of one person, counted from 1 in the order of appearance; all if None.

    Raises:
        ToonError: there are not as many.
    """
    if face is None:
        return spans
    people = sorted({span.person for span in spans})
    if face > len(people):
        raise ToonError(f"{name} shows {len(people)} person(s): choose --face from 1 to {len(people)}.")
    return [span for span in spans if span.person == people[face - 1]]


def with_spans(film: Film, spans: Sequence[Span]) -> Iterator[tuple[int, Frame, list[int]]]:
    """Every frame, its index, and the indices of the spans that it is in."""
    for index, frame in enumerate(film):
        yield index, frame, [i for i, span in enumerate(spans) if span.first <= index <= span.last]


def cut_out(image: Image.Image, span: Span, index: int, size: int) -> Aligned:
    """The face of ``span`` in the frame number ``index``."""
    quad = span.quads[index - span.first]
    return Aligned(crop(image, quad, size), quad)

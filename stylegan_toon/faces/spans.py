"""From tracks of faces to steady crops: gaps are filled, short finds dropped, and the squares smoothed over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .steady import fill_gaps, smooth
from .track import Track

GAP = 0.5  # seconds: a face hidden for longer is gone
SHORTEST = 0.25  # seconds: finds that are shorter, and not a whole shot, are taken for mistakes
SIGMA = 0.1  # seconds: of the smoothing of squares
FADE = 0.12  # seconds in which the cartoon of a face comes and goes within a shot


@dataclass(eq=False)
class Span:
    """One face in a row of frames without a gap.

    Attributes:
        shot: index of the shot.
        person: number of the person.
        first: index of its first frame.
        quads: float64 ``[T, 4, 2]``: where the FFHQ crop lies, smoothed; squares.
        turned: ``[T]``: how far the face is turned, see `track.Track`; nan where it was not seen.
        opacity: ``[T]``, 0 to 1: of what is pasted over it.
    """

    shot: int
    person: int
    first: int
    quads: np.ndarray
    turned: np.ndarray
    opacity: np.ndarray

    def __len__(self) -> int:
        return len(self.quads)

    @property
    def side(self) -> float:
        """Median side of the squares in pixels."""
        return float(np.median(np.hypot(*(self.quads[:, 3] - self.quads[:, 0]).T)))

    @property
    def last(self) -> int:
        """Index of its last frame."""
        return self.first + len(self) - 1


def spans_of(shots: Sequence[tuple[int, Sequence[Track]]], times: np.ndarray) -> list[Span]:
    """The spans of all shots.

    Args:
        shots: first frame and tracks of each, as `track.Tracker` collects them.
        times: of all frames in seconds, rising.
    """
    spans = []
    ends = [*(first for first, _ in shots[1:]), len(times)]
    for shot, ((begin, tracks), end) in enumerate(zip(shots, ends)):
        for track in tracks:
            for seen in _runs(np.array(sorted(track.quads)), times):
                first, last = int(seen[0]), int(seen[-1])
                whole = first == begin and last == end - 1
                if not whole and times[last] - times[first] < SHORTEST:
                    continue
                here = times[first : last + 1]
                known = np.isin(np.arange(first, last + 1), seen)
                quads = np.zeros((len(here), 4, 2))
                quads[known] = [track.quads[index] for index in seen]
                turned = np.full(len(here), np.nan)
                turned[known] = [track.turned[index] for index in seen]
                opacity = np.ones(len(here))
                if first > begin:
                    opacity = np.minimum(opacity, (here - here[0]) / FADE + 0.25)
                if last < end - 1:
                    opacity = np.minimum(opacity, (here[-1] - here) / FADE + 0.25)
                spans.append(Span(shot, track.person, first, steady(here, fill_gaps(known, quads)), turned, opacity))
    return spans


def steady(times: np.ndarray, quads: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """Squares ``[T, 4, 2]`` smoothed over time; they stay squares, because corners are smoothed by one linear rule."""
    return smooth(times, quads, sigma, degree=2)


def _runs(seen: np.ndarray, times: np.ndarray) -> list[np.ndarray]:
    """Indices of frames in groups between which the face is gone for longer than `GAP`."""
    if not len(seen):
        return []
    return np.split(seen, np.flatnonzero(np.diff(times[seen]) > GAP) + 1)

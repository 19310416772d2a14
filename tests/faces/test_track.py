"""Tracks: known faces that move, cross, leave and come back; the networks are replaced by the truth."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stylegan_toon.faces import track as module
from stylegan_toon.faces.align import Face, ffhq_quad
from stylegan_toon.faces.spans import GAP, spans_of
from stylegan_toon.faces.track import Sight, Tracker

FIVE = np.array([[-20, -8], [20, -8], [0, 12], [-14, 26], [14, 26]], float)


class World:
    """Faces on paths; an image is only the number of its frame."""

    def __init__(self, paths: dict[int, dict[int, tuple[float, float]]]) -> None:
        self.paths = paths  # person -> frame -> where
        self.detected: list[int] = []

    def landmarks(self, person: int, frame: int) -> np.ndarray:
        return FIVE + np.array(self.paths[person][frame])

    def here(self, frame: int) -> list[int]:
        return [person for person, path in self.paths.items() if frame in path]

    def detect(self, image: Image.Image, device: str, smallest: int) -> list[Face]:
        frame = number(image)
        self.detected.append(frame)
        return [Face((0, 0, 1, 1), self.landmarks(person, frame), 0.99) for person in self.here(frame)]

    def look(self, image: Image.Image, quad: np.ndarray, looks: int = 2) -> Sight | None:
        frame = number(image)
        side = np.hypot(*(quad[3] - quad[0]))
        for person in self.here(frame):
            true = ffhq_quad(self.landmarks(person, frame))
            if np.hypot(*(true.mean(0) - quad.mean(0))) < 0.3 * side:
                return Sight(true, 0.99, 0.0)
        return None

    def embed(self, image: Image.Image, quad: np.ndarray, network: object) -> np.ndarray:
        frame = number(image)
        centres = {p: ffhq_quad(self.landmarks(p, frame)).mean(0) for p in self.here(frame)}
        person = min(centres, key=lambda p: float(np.hypot(*(centres[p] - quad.mean(0)))))
        vector = np.zeros(128)
        vector[person] = 1.0
        return vector


def number(image: Image.Image) -> int:
    red, green, _ = image.getpixel((0, 0))
    return 256 * red + green


@pytest.fixture
def follow(monkeypatch):
    def run(paths, frames: int, cuts: tuple[int, ...] = (), every: int = 10) -> tuple[Tracker, World]:
        world = World(paths)
        monkeypatch.setattr(module, "_detect", world.detect)
        monkeypatch.setattr(module, "look", world.look)
        monkeypatch.setattr(module, "embed", world.embed)
        monkeypatch.setattr(module, "DlibFaces", lambda: world)
        monkeypatch.setattr(World, "eval", lambda self: self, raising=False)
        monkeypatch.setattr(World, "requires_grad_", lambda self, _: self, raising=False)
        tracker = Tracker(every)
        for index in range(frames):
            tracker(index, Image.new("RGB", (640, 480), (index // 256, index % 256, 0)), index in cuts)
        return tracker, world

    return run


def line(start, end, frames) -> dict[int, tuple[float, float]]:
    places = np.linspace(start, end, len(frames))
    return {frame: tuple(place) for frame, place in zip(frames, places)}


def test_two_faces_keep_their_numbers(follow):
    paths = {0: line((100, 100), (300, 200), range(40)), 1: line((500, 300), (380, 100), range(40))}
    tracker, world = follow(paths, 40)
    ((first, tracks),) = tracker.shots
    assert first == 0 and [track.person for track in tracks] == [0, 1]
    for track in tracks:
        assert sorted(track.quads) == list(range(40))
        for frame, quad in track.quads.items():
            assert np.allclose(quad, ffhq_quad(world.landmarks(track.person, frame)))
    assert world.detected == [0, 10, 20, 30]  # the mesh does the rest


def test_a_face_that_comes_between_two_looks_is_followed_back(follow):
    tracker, _ = follow({0: line((100, 100), (150, 100), range(13, 40))}, 40)
    (track,) = tracker.shots[0][1]
    assert sorted(track.quads) == list(range(13, 40))  # the detector saw it in frame 20


def test_a_face_that_leaves_and_comes_back_is_the_same(follow):
    path = line((100, 100), (150, 100), range(15)) | line((400, 300), (420, 300), range(30, 60))
    tracker, _ = follow({0: path}, 60)
    (track,) = tracker.shots[0][1]
    assert sorted(track.quads) == [*range(15), *range(30, 60)] and track.person == 0


def test_another_face_in_the_same_place_is_another_person(follow):
    paths = {0: line((100, 100), (110, 100), range(12)), 1: line((110, 100), (120, 100), range(25, 50))}
    tracker, _ = follow(paths, 50)
    assert [track.person for track in tracker.shots[0][1]] == [0, 1]


def test_people_are_known_again_after_a_cut(follow):
    paths = {
        0: line((100, 100), (110, 100), range(10)) | line((300, 300), (310, 300), range(20, 30)),
        1: line((300, 300), (310, 300), range(10, 20)),
    }
    tracker, _ = follow(paths, 30, cuts=(10, 20))
    assert [first for first, _ in tracker.shots] == [0, 10, 20]
    assert [[track.person for track in tracks] for _, tracks in tracker.shots] == [[0], [1], [0]]


def test_spans_fill_short_gaps_drop_short_finds_and_stay_square(follow):
    whole = line((100, 100), (300, 150), range(60))
    hidden = {frame: place for frame, place in whole.items() if not 20 <= frame < 26}
    flash = {frame: (500, 400) for frame in range(30, 34)}
    tracker, world = follow({0: hidden, 1: flash}, 60, every=3)
    times = np.arange(60) / 25
    (span,) = spans_of(tracker.shots, times)
    assert (span.person, span.first, span.last) == (0, 0, 59) and (span.opacity == 1).all()
    world.paths[0] = whole
    truth = np.array([ffhq_quad(world.landmarks(0, frame)) for frame in range(60)])
    assert np.abs(span.quads - truth).max() < 0.01  # a straight path, also where nothing was seen
    x, y = span.quads[:, 3] - span.quads[:, 0], span.quads[:, 1] - span.quads[:, 0]
    np.testing.assert_allclose(np.stack([-x[:, 1], x[:, 0]], 1), y, atol=1e-9)


def test_long_gaps_end_a_span_and_faces_come_and_go_softly(follow):
    frames = [*range(5, 25), *range(45, 60)]
    tracker, _ = follow({0: {frame: (200, 200) for frame in frames}}, 70, every=2)
    first, second = spans_of(tracker.shots, np.arange(70) / 25)
    assert GAP < 20 / 25
    assert (first.first, first.last, second.first, second.last) == (5, 24, 45, 59)
    for span in (first, second):
        assert span.opacity[0] < 0.5 and span.opacity[-1] < 0.5 and span.opacity[6] == 1


def test_jitter_of_the_landmarks_is_smoothed_away(follow, monkeypatch):
    """Second differences, which the eye sees as shaking, fall to less than a tenth."""
    tracker, _ = follow({0: line((100, 100), (300, 150), range(60))}, 60)
    rng = np.random.default_rng(0)
    (track,) = tracker.shots[0][1]
    clean = np.array([track.quads[frame] for frame in range(60)])
    track.quads = {frame: quad + rng.normal(0, 1, 2) for frame, quad in track.quads.items()}
    shaky = np.array([track.quads[frame] for frame in range(60)])
    (span,) = spans_of(tracker.shots, np.arange(60) / 25)

    def shaking(quads: np.ndarray) -> float:
        return float(np.diff(quads - clean, 2, axis=0).std())

    assert shaking(span.quads) < 0.1 * shaking(shaky)
    assert np.abs(span.quads - clean).max() < np.abs(shaky - clean).max()

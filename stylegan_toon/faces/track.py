"""Follow faces from frame to frame.

The detector looks at some frames. In between the landmarks network looks where a face was last, which is cheaper and
steadier; a face that the detector finds is also followed back to the frame before which it was looked for the last
time. A face that was lost and comes back within a shot is told by its embedding.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from ..data.images import shrink, to_tensor
from ..errors import ToonError
from ..features.identity import DlibFaces
from .align import _detect, _transformed, crop, ffhq_quad
from .mesh import NOSE_TIP, face_mesh, turned

EVERY = 10  # frames from one look of the detector to the next
SEARCH_SIDE = 640  # pixels: longer side of the copy that is searched
SMALLEST = 28  # pixels: faces whose square is smaller are not followed
CONFIDENCE, SCORE = 0.9, 0.5  # of the detector, of the landmarks network
SAME_PERSON = 0.55  # distance of embeddings; strangers are about 0.8 apart
CROP = 192
# On crops that are FFHQ-aligned already, the quad of the mesh's landmarks is of this size and shifted by this part of
# its side (x, y). Measured on 50 synthetic faces; the sizes vary by 0.024.
MESH_SIZE, MESH_SHIFT = 0.977, (-0.001, 0.001)


@dataclass(eq=False)
class Track:
    """A face over time.

    Attributes:
        person: number of the person, from 0 on in the order in which they appear.
        quads: by index of the frame: float64 ``[4, 2]``, where the FFHQ crop lies, see `align.Aligned`.
        turned: by index of the frame: how far the nose is from between the eyes, in eye distances; 0 = frontal.
        embedding: mean of dlib's vectors.
    """

    person: int
    quads: dict[int, np.ndarray] = field(default_factory=dict)
    turned: dict[int, float] = field(default_factory=dict)
    vectors: list[np.ndarray] = field(default_factory=list)

    @property
    def embedding(self) -> np.ndarray:
        return np.mean(self.vectors, axis=0)


@dataclass(frozen=True, eq=False)
class Sight:
    """A face in one frame: its quad, the landmarks network's score, and how far it is turned (see `Track`)."""

    quad: np.ndarray
    score: float
    turned: float


def look(image: Image.Image, quad: np.ndarray, looks: int = 2) -> Sight | None:
    """The face at about ``quad`` ``[4, 2]``; None if there is none, or its square would leap or be tiny."""
    side = _side(quad)
    if side < SMALLEST:
        return None
    try:
        mesh = face_mesh(crop(image, quad, CROP), looks=looks)
    except ToonError:  # it has left the picture
        return None
    points = mesh.points
    five = np.stack([points[[33, 133]].mean(0), points[[362, 263]].mean(0), points[NOSE_TIP], points[61], points[291]])
    found = ffhq_quad(quad[0] + five / CROP @ np.stack([quad[3] - quad[0], quad[1] - quad[0]]))
    x, y, centre = found[3] - found[0], found[1] - found[0], found.mean(0)
    found = centre - MESH_SHIFT[0] * x - MESH_SHIFT[1] * y + (found - centre) / MESH_SIZE
    size = _side(found)
    leap = np.hypot(*(found.mean(0) - quad.mean(0))) / side
    if mesh.score < SCORE or size < SMALLEST or not 0.6 < size / side < 1.6 or leap > 0.5:
        return None
    return Sight(found, mesh.score, turned(mesh))


def embed(image: Image.Image, quad: np.ndarray, network: DlibFaces) -> np.ndarray:
    """dlib's vector ``[128]`` of the face at ``quad``."""
    with torch.no_grad():
        return network.raw(to_tensor(crop(image, quad, 256)))[0].double().numpy()


class Tracker:
    """Finds and follows the faces of a film, frame by frame; `shots` has the result.

    Args:
        every: frames from one look of the detector to the next.

    Attributes:
        shots: for each shot, its first frame's index and its tracks, in the order in which they appear.
        people: embeddings of the people, by their number.
    """

    def __init__(self, every: int = EVERY) -> None:
        self.every = every
        self.shots: list[tuple[int, list[Track]]] = []
        self.people: list[list[np.ndarray]] = []
        self._network = DlibFaces().eval().requires_grad_(False)
        self._recent: deque[tuple[int, Image.Image]] = deque(maxlen=every)
        self._live: list[Track] = []

    def __call__(self, index: int, image: Image.Image, cut: bool = False) -> None:
        """Take the frame number ``index``; ``cut`` if it begins a shot."""
        if cut or not self.shots:
            self.shots.append((index, []))
            self._live, begin = [], True
            self._recent.clear()
        else:
            begin = False
        lost = self._follow(index, image)
        if begin or lost or (index - self.shots[-1][0]) % self.every == 0:
            self._detect(index, image)
            self._recent.clear()
        self._recent.append((index, image))

    def _follow(self, index: int, image: Image.Image) -> bool:
        """Move every live track to this frame; whether one was lost."""
        before = len(self._live)
        still: list[Track] = []
        for track in self._live:
            sight = look(image, _expected(track, index))
            if sight is not None and not any(_near(sight.quad, other.quads[index]) for other in still):
                _add(track, index, sight)
                still.append(track)
        self._live = still
        return len(still) < before

    def _detect(self, index: int, image: Image.Image) -> None:
        small = shrink(image, SEARCH_SIDE)
        scale = image.width / small.width
        faces = sorted(_detect(small, "cpu", smallest=20), key=lambda face: face.landmarks[:, 0].mean())
        for face in faces:
            if face.confidence < CONFIDENCE:
                continue
            sight = look(image, ffhq_quad(_transformed(face, scale, 0.0).landmarks), looks=3)
            if sight is None or any(_near(sight.quad, track.quads[index]) for track in self._live):
                continue
            track = self._recognised(embed(image, sight.quad, self._network))
            _add(track, index, sight)
            self._live.append(track)
            self._backwards(track, sight)

    def _recognised(self, vector: np.ndarray) -> Track:
        """The track of this shot, not seen at present, that shows the person; or a new one."""
        tracks = self.shots[-1][1]
        busy = {track.person for track in self._live}
        apart = [
            np.inf if person in busy else float(np.linalg.norm(np.mean(seen, axis=0) - vector))
            for person, seen in enumerate(self.people)
        ]
        if apart and min(apart) < SAME_PERSON:
            person = int(np.argmin(apart))
        else:
            person = len(self.people)
            self.people.append([])
        self.people[person].append(vector)
        for track in tracks:
            if track.person == person:
                track.vectors.append(vector)
                return track
        tracks.append(Track(person, vectors=[vector]))
        return tracks[-1]

    def _backwards(self, track: Track, sight: Sight) -> None:
        """Follow a face that was just found into the frames that the detector has not seen."""
        quad = sight.quad
        for index, image in reversed(self._recent):
            others = [one.quads[index] for one in self.shots[-1][1] if one is not track and index in one.quads]
            earlier = None if index in track.quads else look(image, quad)
            if earlier is None or any(_near(earlier.quad, other) for other in others):
                return
            _add(track, index, earlier)
            quad = earlier.quad


def _side(quad: np.ndarray) -> float:
    return float(np.hypot(*(quad[3] - quad[0])))


def _add(track: Track, index: int, sight: Sight) -> None:
    track.quads[index], track.turned[index] = sight.quad, sight.turned


def _expected(track: Track, index: int) -> np.ndarray:
    """Where the face is if it goes on as it did."""
    last = track.quads[index - 1]
    before = track.quads.get(index - 2)
    return last if before is None else last + 0.5 * (last - before).mean(0)


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two squares are those of one face."""
    return bool(np.hypot(*(a.mean(0) - b.mean(0))) < 0.35 * max(_side(a), _side(b)))

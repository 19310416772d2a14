"""Faces of which no good cartoon can be expected: tiny, cut off, turned away, drawn already, or covered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy import ndimage

from ..errors import ToonError
from .align import Aligned, affine, crop
from .mask import FACE, grid
from .mesh import face_mesh, turned
from .photo import Photo

VIEW = 256  # pixels: side of the crop that is looked at
SMALLEST = 64  # pixels: side of the square of a face; its eyes are 16 px apart
MOST_CUT = 0.2  # share of the face that may lie outside the photo
# How far the nose may be from between the eyes, in eye distances: at most 0.32 on 68 portraits. Of faces of a network
# that were turned step by step, both eyes are seen up to 0.56, and from 0.64 on it is a profile.
MOST_TURNED = 0.6
SCORE = 0.5  # of the landmarks network
# A drawing is flat between sharp lines: a share of its small windows has no more grain than FLAT_STD levels, and its
# strongest slopes are many times its usual ones. On 10 portraits the share is at most 0.002 and the ratio at most 13;
# on drawings of them in `comic`, `ink` and `pop` they are at least 0.1 and 25 for faces of more than 128 px.
FLAT_STD, FLAT_SHARE, SLOPES, DRAWN_SIDE = 1.0, 0.05, 20.0, 128
MIDDLE = ((0.35, 0.8), (0.28, 0.72))  # of the crop, in which its grain is measured (rows, columns)


def doubt(photo: Photo, index: int, covered: Callable[[Aligned], bool] | None = None) -> str | None:
    """Why no good cartoon of a face can be expected, as the end of a sentence that says what to do; None = it can.

    A crop that was given as aligned is not doubted.

    Args:
        photo: as opened.
        index: of the face in ``photo.faces``.
        covered: whether something lies before a face. The landmarks network is as sure of the landmarks behind it, so
            this takes a network that draws faces, see `pipelines.covered`; None = it is not asked.
    """
    if photo.aligned:
        return None
    face = photo.faces[index]
    if face.side < SMALLEST:
        return f"is tiny ({face.side:.0f} pixels, of {SMALLEST} that are needed): use a larger copy of the photo"
    if (share := cut_off(face, photo.image.size)) > MOST_CUT:
        return f"is cut off by the edge of the photo ({share:.0%} of it): use a photo that shows all of it"
    view = crop(photo.image, face.quad, VIEW)
    mesh = face_mesh(view, looks=2)
    if mesh.score < SCORE:
        return "is hardly to be seen: use a photo in which it is seen from the front, with nothing before it"
    if abs(turned(mesh)) > MOST_TURNED:
        return "is turned away: use a photo in which it is seen more from the front"
    drawn, hidden = looks_drawn(view, face.side), covered is not None and covered(face)
    if drawn and hidden:  # a flat thing before it looks like a drawing, and a drawing like no bare face
        return "is drawn already, or covered in part: use a photo with nothing before the face"
    if drawn:
        return "looks as if it were drawn already: use a photo"
    if hidden:
        return "is covered in part, or not a bare face: use a photo with nothing before it"
    return None


def without_doubtful(photo: Photo, covered: Callable[[Aligned], bool] | None = None) -> tuple[Photo, list[str]]:
    """A photo with the faces that `doubt` leaves, and a sentence for each of the others.

    Args:
        photo: as opened.
        covered: see `doubt`.

    Raises:
        ToonError: none is left.
    """
    doubts = [doubt(photo, index, covered) for index in range(len(photo.faces))]
    kept = [index for index, why in enumerate(doubts) if why is None]
    if len(kept) == len(doubts):
        return photo, []
    which = ["The face" if photo.found == 1 else f"Face {number} from the left" for number in photo.numbers]
    remarks = [f"{which[i]} in {photo.name} {why}, or add --force." for i, why in enumerate(doubts) if why is not None]
    if not kept:
        raise ToonError(remarks[int(np.argmax([face.side for face in photo.faces]))])
    faces, numbers = [photo.faces[i] for i in kept], tuple(photo.numbers[i] for i in kept)
    return replace(photo, faces=faces, numbers=numbers), [f"Left out: {remark}" for remark in remarks]


def cut_off(face: Aligned, size: tuple[int, int]) -> float:
    """Share of a face, without hair and neck, that lies outside a photo of this width and height."""
    x, y = grid()
    inside = ((x - FACE[0]) / FACE[2]) ** 2 + ((y - FACE[1]) / FACE[3]) ** 2 < 1
    at = np.stack([x[inside], y[inside], np.ones(int(inside.sum()), np.float32)]).T @ affine(face.quad, 1).T
    return float(((at < 0) | (at > np.asarray(size))).any(1).mean())


def looks_drawn(face: Image.Image, side: float) -> bool:
    """Whether a face is flat between sharp lines, as line drawings are; renderings like those of films are not told.

    Args:
        face: FFHQ-aligned square crop.
        side: of its square in the photo, in pixels: enlarged photos are flat, too.
    """
    size = min(face.width, round(side), VIEW)
    if size < DRAWN_SIDE:
        return False
    grey = np.asarray(face.resize((size, size), Image.Resampling.LANCZOS).convert("L")).astype(np.float64)
    rows, columns = (slice(round(first * size), round(last * size)) for first, last in MIDDLE)
    variance = ndimage.uniform_filter(grey**2, 5) - ndimage.uniform_filter(grey, 5) ** 2
    slopes = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))[rows, columns] / 8
    flat = float((variance[rows, columns] < FLAT_STD**2).mean())
    return flat > FLAT_SHARE and float(np.percentile(slopes, 98)) > SLOPES * (float(np.percentile(slopes, 40)) + 0.3)

"""Find faces and cut them out as FFHQ does; `paste` puts a result back into the photo.

Positions are in pixels of the photo with the origin at the outer corner of its first pixel, so the centre of
that pixel is (0.5, 0.5); "left" is the picture's left, not the person's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFilter, ImageOps, ImageStat

from ..data.images import shrink
from ..errors import ToonError
from .mtcnn import mtcnn

SMALLEST_PHOTO = 32
# FFHQ was aligned with 68 landmarks; MTCNN gives five. On crops that are FFHQ-aligned already, the quad computed from
# these five is too large by this factor and shifted by this part of its side (x, y); `align` corrects for both.
# Measured on synthetic FFHQ faces that were pasted into larger pictures, turned and scaled.
MTCNN_SIZE = 1.0196
MTCNN_SHIFT = (0.0, -0.0043)


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face.

    Attributes:
        box: left, top, right, bottom.
        landmarks: float64 ``[5, 2]``: left eye, right eye, nose, left and right mouth corner, each (x, y).
        confidence: the detector's, 0 to 1.
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    confidence: float

    @property
    def side(self) -> float:
        """Side in pixels of the square that FFHQ would cut out."""
        return _side(ffhq_quad(self.landmarks))


@dataclass(frozen=True, eq=False)
class Aligned:
    """A square face crop and where it came from.

    Attributes:
        image: the crop, RGB.
        quad: float64 ``[4, 2]``: where its corners lie in the photo: upper left, lower left, lower right,
            upper right. Always a square, turned as the head is.
    """

    image: Image.Image
    quad: np.ndarray

    @property
    def side(self) -> float:
        """Side of the square in pixels of the photo."""
        return _side(self.quad)


AnyFace = TypeVar("AnyFace", Face, Aligned)


def largest(faces: Iterable[AnyFace]) -> AnyFace:
    """The face whose square has the longest side; a tilted head counts as an upright one."""
    return max(faces, key=lambda face: face.side)


def detect_faces(
    photo: Image.Image,
    *,
    name: str = "the photo",
    confidence: float = 0.9,
    max_side: int = 1280,
    device: str = "cpu",
) -> list[Face]:
    """Faces of a photo, from left to right.

    MTCNN (Zhang et al. 2016, arXiv 1604.02878, with the weights inside facenet-pytorch) runs on a copy reduced to
    ``max_side`` and detects faces of about 24 px and more. It runs again on an upright close-up of each face, which
    makes the landmarks more exact. Heads may be tilted by up to about 40 degrees.

    Args:
        photo: RGB.
        name: of the photo, in messages.
        confidence: detections below it are dropped, 0 to 1.
        max_side: longer side in pixels of the copy that is searched.
        device: of the detector.

    Raises:
        ToonError: no face, or a photo smaller than 32 px.
    """
    if min(photo.size) < SMALLEST_PHOTO:
        raise ToonError(
            f"{name} is only {photo.width}x{photo.height} pixels: use a photo of at least "
            f"{SMALLEST_PHOTO}x{SMALLEST_PHOTO}, better 256x256."
        )
    small = shrink(photo, max_side)
    scale = photo.width / small.width
    faces = []
    for face in _detect(small, device, smallest=24):
        if face.confidence < confidence:
            continue
        faces.append(_refined(photo, _transformed(face, scale, 0.0), device))
    if not faces:
        raise ToonError(f"No face was found in {name}: use a photo in which a face is seen from the front.")
    return sorted(faces, key=lambda face: face.landmarks[:, 0].mean())


def has_face(picture: Image.Image, *, confidence: float = 0.9, device: str = "cpu") -> bool:
    """Whether `detect_faces` would find a face, without refining its landmarks: faster, for counting.

    Pictures smaller than 256 px are enlarged to that first, since the detector misses small faces.
    """
    scale = max(1.0, 256 / min(picture.size))
    large = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    return any(face.confidence >= confidence for face in _detect(large, device, smallest=24))


def _detect(image: Image.Image, device: str, smallest: int) -> list[Face]:
    # The detector clips boxes at the edge of the picture and misplaces their landmarks: a grey frame prevents that.
    frame = math.ceil(max(image.size) / 8)
    framed = ImageOps.expand(image, frame, (128, 128, 128))
    faces = [Face(tuple(f.box), f.landmarks.astype(np.float64), f.confidence) for f in mtcnn(device, smallest)(framed)]
    return [_transformed(face, 1.0, -frame) for face in faces]


def _transformed(face: Face, scale: float, shift: float) -> Face:
    left, top, right, bottom = (scale * float(edge) + shift for edge in face.box)
    return Face((left, top, right, bottom), scale * face.landmarks + shift, face.confidence)


def _refined(photo: Image.Image, face: Face, device: str) -> Face:
    """Detect again in an upright close-up and its mirror image, each at two sizes; the average has half the error."""
    quad = ffhq_quad(face.landmarks)
    wide = quad.mean(0) + 1.3 * (quad - quad.mean(0))
    estimates = []
    for size in (256, 352):
        close = crop(photo, wide, size)
        back = affine(wide, size)  # crop -> photo
        for mirrored in (False, True):
            for again in _detect(ImageOps.mirror(close) if mirrored else close, device, smallest=size // 4):
                points = again.landmarks
                if mirrored:
                    points = np.stack([size - points[:, 0], points[:, 1]], 1)[[1, 0, 2, 4, 3]]
                points = points @ back[:, :2].T + back[:, 2]
                # Another face may reach into the close-up: keep only this one.
                if np.hypot(*(points.mean(0) - face.landmarks.mean(0))) < 0.1 * _side(wide):
                    estimates.append(points)
                    break
    return Face(face.box, np.mean(estimates, axis=0), face.confidence) if estimates else face


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """Corners ``[4, 2]`` of the FFHQ crop (Karras et al. 2019, appendix A) from landmarks ``[5, 2]``.

    Its x axis lies between the line through the eyes and the normal of the line from eyes to mouth; its side is
    4 eye distances or 3.6 eye-mouth distances, whichever is more; its centre is a tenth of the way to the mouth.
    """
    left, right, _, mouth_left, mouth_right = np.asarray(landmarks, np.float64)
    eyes, mouth = (left + right) / 2, (mouth_left + mouth_right) / 2
    across, down = right - left, mouth - eyes
    x = across + np.array([down[1], -down[0]])
    x *= max(2 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * down
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def align(photo: Image.Image, face: Face, size: int = 256) -> Aligned:
    """Cut out a face as the pictures of FFHQ are cut, ``size`` x ``size``.

    Raises:
        ToonError: all landmarks lie on one spot.
    """
    quad = ffhq_quad(face.landmarks)
    side = _side(quad)
    if not side >= 1:
        raise ToonError("The landmarks of the face lie on one spot: choose another face or photo.")
    x, y = quad[3] - quad[0], quad[1] - quad[0]
    centre = quad.mean(0) - MTCNN_SHIFT[0] * x - MTCNN_SHIFT[1] * y
    quad = centre + (quad - quad.mean(0)) / MTCNN_SIZE
    return Aligned(crop(photo, quad, size), quad)


def crop(photo: Image.Image, quad: np.ndarray, size: int) -> Image.Image:
    """The square ``quad`` of an RGB photo as a picture of ``size`` x ``size``, antialiased.

    What lies outside the photo is filled as FFHQ does: mirrored, blurred, and faded to the median colour.
    Needs little memory beyond the result, however large the photo.
    """
    # Whole blocks of pixels are averaged first, which is exact and fast; the rest of the reduction follows below.
    side = _side(quad)
    block = max(1, math.floor(side / size / 2))
    margin = 0.1 * side
    low = np.floor(quad.min(0) - margin).astype(int)
    high = np.ceil(quad.max(0) + margin).astype(int)
    width, height = photo.size
    box = (max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ToonError("The face lies outside the photo: choose another face.")
    region = photo.crop(box) if block == 1 else photo.reduce(block, box)
    quad = (quad - box[:2]) / block
    side /= block

    over = [*(-np.minimum(low, 0) / block), *(np.maximum(high - photo.size, 0) / block)]
    if max(over) > margin / block:  # the quad itself sticks out, not just its margin
        pads = [math.ceil(max(o, 0.3 * side)) for o in over]
        region = _extend(region, pads, 0.02 * side)
        quad = quad + pads[:2]

    finer = min(4, max(1, math.ceil(side / size)))
    matrix = affine(quad, size * finer)
    fine = region.transform(
        (size * finer, size * finer), Image.Transform.AFFINE, matrix.ravel().tolist(), Image.Resampling.BICUBIC
    )
    return fine if finer == 1 else fine.resize((size, size), Image.Resampling.LANCZOS)


def _extend(image: Image.Image, pads: list[int], sigma: float) -> Image.Image:
    """Extend by ``pads`` (left, top, right, bottom): mirrored, more and more blurred, fading to the median colour."""
    left, top, right, bottom = pads
    padded = Image.fromarray(np.pad(np.asarray(image), ((top, bottom), (left, right), (0, 0)), mode="symmetric"))
    width, height = padded.size
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    # Negative inside the photo, 0 on its edge, 1 on the outermost pixel.
    inside_x = np.minimum(x / left, (width - 1 - x) / right)
    inside_y = np.minimum(y / top, (height - 1 - y) / bottom)
    depth = 1 - np.minimum(inside_x, inside_y)

    def mask(strength: np.ndarray) -> Image.Image:
        return Image.fromarray((255 * np.clip(strength, 0, 1)).astype(np.uint8))

    padded.paste(padded.filter(ImageFilter.GaussianBlur(sigma)), mask=mask(3 * depth + 1))
    padded.paste(tuple(ImageStat.Stat(padded).median), (0, 0, width, height), mask(depth))
    return padded


def _side(quad: np.ndarray) -> float:
    return float(np.hypot(*(quad[3] - quad[0])))


def affine(quad: np.ndarray, size: int) -> np.ndarray:
    """``[2, 3]``: crop position -> photo position."""
    return np.column_stack([(quad[3] - quad[0]) / size, (quad[1] - quad[0]) / size, quad[0]])

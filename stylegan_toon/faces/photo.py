"""Open a photo and cut out the aligned faces in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..data.images import read_image, to_rgb
from ..data.metadata import PLAIN, Metadata, metadata_of
from ..errors import ToonError
from .align import SMALLEST_PHOTO, Aligned, AnyFace, align, detect_faces, largest

# A face whose square has a shorter side than this share of the largest's is taken for a mistake: a picture on the
# wall, a passer-by, a pattern in which the detector sees a face. Two rows of a group photo differ by less.
FAR_SMALLER = 0.25


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo and the faces found in it.

    Attributes:
        image: upright RGB.
        faces: aligned crops in sRGB, from left to right.
        name: for messages and file names.
        numbers: of ``faces``, counted from 1 from the left over all faces that were found.
        found: how many faces that are.
        left_out: the numbers of faces that are far smaller than the largest.
        metadata: EXIF and colours of ``image``.
        aligned: the photo is an aligned crop, and no face was looked for.
    """

    image: Image.Image
    faces: list[Aligned]
    name: str
    numbers: tuple[int, ...] = (1,)
    found: int = 1
    left_out: tuple[int, ...] = ()
    metadata: Metadata = PLAIN
    aligned: bool = False

    @property
    def about_faces(self) -> str:
        """How many faces were found, and which of them are left out, in one sentence."""
        words = f"{self.name}: {self.found} {'face' if self.found == 1 else 'faces'}"
        if self.left_out:
            which = ", ".join(map(str, self.left_out))
            words += (
                f", of which {which} from the left {'is' if len(self.left_out) == 1 else 'are'} far smaller than the "
                "largest and left out (--face N or --all-faces takes them)"
            )
        return words + "."


def far_smaller(faces: Sequence[AnyFace]) -> list[bool]:
    """For each face of a photo, whether it is so much smaller than the largest that it is taken for a mistake."""
    if not faces:
        return []
    least = FAR_SMALLER * largest(faces).side
    return [face.side < least for face in faces]


def open_photo(
    photo: str | Path | Image.Image,
    size: int,
    *,
    aligned: bool = False,
    face: int | None = None,
    all_faces: bool = False,
    device: str = "cpu",
) -> Photo:
    """Read a photo, find its faces and cut them out as FFHQ does.

    The photo keeps the numbers that its ICC profile gives a meaning to; crops are sRGB.

    Args:
        photo: a path or a picture.
        size: side of the crops in pixels.
        aligned: the photo is a square, aligned crop already; no face is looked for.
        face: keep only this one, counted from 1, left to right. None = all but those of `far_smaller`.
        all_faces: keep those, too.
        device: of the face detector.

    Raises:
        ToonError: the file cannot be read, it shows no face or not the one asked for, or ``aligned`` and it is not a
            square of at least 32 pixels.
    """
    name = "the photo" if isinstance(photo, Image.Image) else Path(photo).name
    image = to_rgb(ImageOps.exif_transpose(photo)) if isinstance(photo, Image.Image) else read_image(photo)
    metadata = metadata_of(photo)
    if aligned:
        if image.width != image.height or image.width < SMALLEST_PHOTO:
            raise ToonError(
                f"{name} is {image.width}x{image.height} pixels, but an aligned crop is a square of at least "
                f"{SMALLEST_PHOTO}: leave out --aligned."
            )
        side = image.width
        whole = np.array([[0, 0], [0, side], [side, side], [side, 0]], np.float64)
        small = image if side == size else image.resize((size, size), Image.Resampling.LANCZOS)
        crop = Aligned(metadata.to_srgb(small), whole)
        return Photo(image, [crop], name, metadata=metadata, aligned=True)
    faces = detect_faces(image, name=name, device=device)
    numbers, left_out = tuple(range(1, len(faces) + 1)), ()
    if face is not None:
        if not 1 <= face <= len(faces):
            raise ToonError(f"{name} shows {len(faces)} face(s): choose --face from 1 to {len(faces)}.")
        numbers = (face,)
    elif not all_faces:
        small = far_smaller(faces)
        left_out = tuple(number for number in numbers if small[number - 1])
        numbers = tuple(number for number in numbers if not small[number - 1])
    crops = [align(image, faces[number - 1], size) for number in numbers]
    crops = [Aligned(metadata.to_srgb(crop.image), crop.quad) for crop in crops]
    return Photo(image, crops, name, numbers, len(faces), left_out, metadata)

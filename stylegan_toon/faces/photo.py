"""Open a photo and cut out the aligned faces in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..data.images import read_image, to_rgb
from ..errors import ToonError
from .align import SMALLEST_PHOTO, Aligned, align, detect_faces


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo and the faces found in it.

    Attributes:
        image: upright RGB.
        faces: aligned crops, from left to right.
        name: for messages and file names.
    """

    image: Image.Image
    faces: list[Aligned]
    name: str


def open_photo(
    photo: str | Path | Image.Image,
    size: int,
    *,
    aligned: bool = False,
    face: int | None = None,
    device: str = "cpu",
) -> Photo:
    """Read a photo, find its faces and cut them out as FFHQ does.

    Args:
        photo: a path or a picture.
        size: side of the crops in pixels.
        aligned: the photo is a square, aligned crop already; no face is looked for.
        face: keep only this one, counted from 1, left to right. None = all.
        device: of the face detector.

    Raises:
        ToonError: the file cannot be read, it shows no face or not the one asked for, or ``aligned`` and it is not a
            square of at least 32 pixels.
    """
    name = "the photo" if isinstance(photo, Image.Image) else Path(photo).name
    image = to_rgb(ImageOps.exif_transpose(photo)) if isinstance(photo, Image.Image) else read_image(photo)
    if aligned:
        if image.width != image.height or image.width < SMALLEST_PHOTO:
            raise ToonError(
                f"{name} is {image.width}x{image.height} pixels, but an aligned crop is a square of at least "
                f"{SMALLEST_PHOTO}: leave out --aligned."
            )
        side = image.width
        whole = np.array([[0, 0], [0, side], [side, side], [side, 0]], np.float64)
        small = image if side == size else image.resize((size, size), Image.Resampling.LANCZOS)
        return Photo(image, [Aligned(small, whole)], name)
    faces = detect_faces(image, name=name, device=device)
    if face is not None:
        if not 1 <= face <= len(faces):
            raise ToonError(f"{name} shows {len(faces)} face(s): choose --face from 1 to {len(faces)}.")
        faces = [faces[face - 1]]
    return Photo(image, [align(image, one, size) for one in faces], name)

"""A cartoon in its photo's colours: the low frequencies of skin, hair and background, and the irises."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import ToonError
from ..faces.mesh import face_mesh
from ..faces.person import person_mask
from .colour import edge_guide, from_oklab, to_oklab
from .eye_colour import SIDE, iris_shift
from .filters import enlarge, guided_filter, resized

WORK = 256  # side of the grid on which colours are compared
REACH = 8  # radius in pixels of that grid within which colours are averaged
FLAT = 1e-3  # variance of the cartoon below which an area counts as one
LEAST = 0.15  # share of comparable pixels below which the shift fades out
FACE = 0.5  # least probability that a picture shows a face, for its irises to be looked at
LIGHTNESS = 0.5  # how much of the difference of lightness is taken over, by default


def keep_colour(photo: Image.Image, cartoon: Image.Image, *, lightness: float = LIGHTNESS) -> Image.Image:
    """The cartoon with the photo's colours: all of their hue and chroma, and a part of their lightness.

    The difference of the two pictures is smoothed by a guided filter (He, Sun and Tang 2010) whose guide is the
    cartoon, so that it changes where the cartoon's colours do: at the edge of the hair, not at that of the photo's.
    Pixels that show the person in one picture and the background in the other are left out. Irises are too small for
    this and follow by themselves, see `keep_eyes`.

    Args:
        photo: aligned crop, square RGB.
        cartoon: of this crop, square RGB, any size.
        lightness: share of the difference of lightness that is taken over, 0 to 1.

    Returns:
        RGB picture of the cartoon's size.

    Raises:
        ToonError: one of the pictures is not square.
    """
    for picture in (photo, cartoon):
        if picture.width != picture.height:
            raise ToonError(f"Colours are kept in square crops, not {picture.width}x{picture.height}: align the photo.")
    small = [picture.convert("RGB").resize((WORK, WORK), Image.Resampling.BOX) for picture in (photo, cartoon)]
    wanted, drawn = (to_oklab(np.asarray(picture)) for picture in small)
    before, after = (person_mask(picture) for picture in small)
    alike = (before * after + (1 - before) * (1 - after))[..., None]
    averages = guided_filter(edge_guide(drawn), np.concatenate([alike * (wanted - drawn), alike], -1), REACH, FLAT)
    shift = averages[..., :3] / np.maximum(averages[..., 3:], LEAST) * np.array((lightness, 1, 1), np.float32)
    result = to_oklab(np.asarray(cartoon.convert("RGB"))) + enlarge(shift, cartoon.width)
    kept = Image.fromarray(from_oklab(result.astype(np.float32)))
    return keep_eyes(photo, kept)


def keep_eyes(photo: Image.Image, cartoon: Image.Image) -> Image.Image:
    """The cartoon with irises of the photo's colour, where both show eyes."""
    pair = [picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for picture in (photo, cartoon)]
    meshes = [face_mesh(picture, looks=2) for picture in pair]
    if min(mesh.score for mesh in meshes) < FACE:
        return cartoon
    wanted, drawn = (to_oklab(np.asarray(picture)) for picture in pair)
    shift = iris_shift(wanted, drawn, *meshes)
    if not shift.any():
        return cartoon
    result = to_oklab(np.asarray(cartoon.convert("RGB"))) + resized(shift, cartoon.width, Image.Resampling.BILINEAR)
    return Image.fromarray(from_oklab(result.astype(np.float32)))

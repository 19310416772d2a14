"""How far a toon shifts the colour of a person's skin, measured on the cheeks in CIELAB.

CIELAB (CIE 15:2004) of sRGB (IEC 61966-2-1) under D65, 2 degree observer: lightness L* from 0 to 100, and two colour
axes a* (green to red) and b* (blue to yellow), whose length is the chroma and whose angle is the hue. Skin has hues of
about 30 (pink) to 75 degrees (yellow); a difference of 1 in L*, a* or b* is just visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import ToonError
from ..faces.mesh import Mesh, face_mesh

# Corners of a patch of each cheek (points of the mesh): below glasses, beside the fold from nose to mouth, above most
# beards, and where hair rarely covers the face.
LEFT_CHEEK = (50, 36, 206, 207, 187)
RIGHT_CHEEK = (280, 266, 426, 427, 411)
LEAST_SHARE = 0.4  # a patch smaller than this share of the other one is turned away, and hair may cover it: left out
_TO_XYZ = np.array(
    [
        [0.4123907993, 0.3575843394, 0.1804807884],
        [0.2126390059, 0.7151686788, 0.0721923154],
        [0.0193308187, 0.1191947798, 0.9505321522],
    ]
)


@dataclass(frozen=True)
class SkinShift:
    """How a toon's cheeks differ from the photo's: toon minus photo.

    Attributes:
        lightness: in L*.
        hue: in degrees, -180 to 180; positive turns red towards yellow.
        chroma: in units of a* and b*.
        photo, toon: (L*, a*, b*) of the cheeks.
    """

    lightness: float
    hue: float
    chroma: float
    photo: tuple[float, float, float]
    toon: tuple[float, float, float]


def to_cielab(rgb: np.ndarray) -> np.ndarray:
    """uint8 sRGB ``[..., 3]`` -> float64 (L*, a*, b*) ``[..., 3]``."""
    level = np.asarray(rgb, np.float64) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    t = linear @ _TO_XYZ.T / _TO_XYZ.sum(1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def cheeks_lab(image: Image.Image, mesh: Mesh) -> tuple[float, float, float]:
    """(L*, a*, b*) of the skin of both cheeks: the mean over cheeks of the median over a patch of each.

    Args:
        image: RGB face.
        mesh: its landmarks, in pixels of this picture.

    Raises:
        ToonError: the cheeks lie outside the picture.
    """
    pixels = np.asarray(image.convert("RGB"))
    patches = [pixels[_inside(mesh.points[list(corners)], image.size)] for corners in (LEFT_CHEEK, RIGHT_CHEEK)]
    largest = max(len(patch) for patch in patches)
    if not largest:
        raise ToonError("The cheeks lie outside the picture: give the landmarks of this picture.")
    medians = [np.median(to_cielab(patch), axis=0) for patch in patches if len(patch) >= LEAST_SHARE * largest]
    lightness, a, b = np.mean(medians, axis=0)
    return float(lightness), float(a), float(b)


def skin_shift(photo: Image.Image, toon: Image.Image, *, mesh: Mesh | None = None) -> SkinShift:
    """How a toon shifts the colour of the cheeks, which are located in the photo.

    Args:
        photo: FFHQ-aligned square crop.
        toon: the same face in the same place, except for mild warps; square, of any size.
        mesh: landmarks of ``photo``; None = they are computed.

    Raises:
        ToonError: one of the pictures is not square, or too small for `face_mesh`.
    """
    if toon.width != toon.height:
        raise ToonError(f"The toon is {toon.width}x{toon.height}, not square: give the crop's toon.")
    mesh = mesh or face_mesh(photo)
    before = cheeks_lab(photo, mesh)
    after = cheeks_lab(toon, mesh.scaled(toon.width / photo.width))
    turn = math.degrees(math.atan2(after[2], after[1]) - math.atan2(before[2], before[1]))
    chroma = math.hypot(*after[1:]) - math.hypot(*before[1:])
    return SkinShift(after[0] - before[0], (turn + 180) % 360 - 180, chroma, before, after)


def _inside(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool ``[H, W]``: pixels whose centres lie in the polygon ``[N, 2]`` (even-odd rule)."""
    x, y = np.arange(size[0]) + 0.5, (np.arange(size[1]) + 0.5)[:, None]
    inside = np.zeros((size[1], size[0]), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0)):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside

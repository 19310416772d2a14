"""Measures by which pictures are chosen for a training set (pose, glasses, blur, duplicates), and their backgrounds.

`recipe` compares the measures with the thresholds of a recipe. They use no trained network but the face detector that
gives the landmarks; where their accuracy was measured, the docstring gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from ..drawing.colour import to_oklab
from ..drawing.face import person_mask
from ..errors import ToonError

# A generic head in mm, x to the picture's right, y down, z away from the camera: the centres of the eyes, the tip of
# the nose, the corners of the mouth. Pupils 63 mm apart (Dodgson 2004); the rest fits the landmarks of upright faces.
HEAD = np.array([[-31.5, 0, 0], [31.5, 0, 0], [0, 39, -25], [-28, 65, 0], [28, 65, 0]], np.float64)

GLASSES = 0.042  # see `glasses`
BLUR = 0.55  # see `blur`
DUPLICATE = 24  # bits of 256, see `perceptual_hash`


def head_pose(landmarks: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees of a head with these landmarks ``[5, 2]`` (order of `align.Face`).

    Yaw is positive when the nose points to the picture's right, pitch when it points down, roll when the
    picture's right eye is lower. A generic head under scaled orthographic projection (as in POS; DeMenthon and
    Davis 1995) is fitted by least squares, so yaw and pitch are estimates: heads differ, and so do landmarks.
    """
    model = HEAD - HEAD.mean(0)
    points = np.asarray(landmarks, np.float64)
    camera = np.linalg.lstsq(model, points - points.mean(0), rcond=None)[0].T  # [2, 3], scaled rows of a rotation
    u, scale, vt = np.linalg.svd(camera, full_matrices=False)
    if not scale[1] > 0:
        return 90.0, 90.0, 0.0
    x, y = u @ vt  # the nearest pair of orthonormal rows
    z = np.cross(x, y)
    yaw, pitch, roll = np.arctan2(z[0], z[2]), np.arcsin(np.clip(z[1], -1, 1)), np.arctan2(-x[1], y[1])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


def glasses(face: Image.Image) -> float:
    """How much a line across the bridge of the nose stands out, in Oklab lightness; above `GLASSES`: glasses.

    Args:
        face: FFHQ-aligned square face, RGB; it is resized to 256 px.

    The bridge of a frame crosses the nose where bare skin is smooth from brow to tip. Measured on
    pictures labelled by eye (``benchmarks/glasses.py``): of 272 official portraits, on which the threshold was
    chosen, 52 with glasses, precision 0.86 and recall 0.96; of 250 synthetic faces, 35 with glasses, precision 1.00
    and recall 0.83. It misses rimless and incomplete bridges and mistakes deep creases between the brows for glasses.
    """
    lightness = to_oklab(np.asarray(_resized(face, 256)))[..., 0]
    line = ndimage.gaussian_filter1d(lightness, 1.5, axis=0, order=2) * 1.5**2
    line = ndimage.gaussian_filter1d(line, 1.5, axis=1)
    return float(np.median(np.abs(line[98:130, 120:137]).max(0)))


def blur(image: Image.Image) -> float:
    """Blur from 0 (sharp) to 1: the share of the differences between neighbours that remains after another blur.

    Crete et al. 2007 ("The blur effect"), 9-tap mean; it does not depend on contrast. Defocus, enlargement and heavy
    compression all count, and a picture without detail counts as blurred.
    """
    grey = np.asarray(image.convert("L"), np.float64)
    worst = 0.0
    for axis in (0, 1):
        sharp = np.abs(np.diff(grey, axis=axis))
        soft = np.abs(np.diff(ndimage.uniform_filter1d(grey, 9, axis=axis, mode="nearest"), axis=axis))
        lost = np.maximum(sharp - soft, 0).sum()
        worst = max(worst, 1 - lost / max(sharp.sum(), 1e-9))
    return worst


def perceptual_hash(image: Image.Image) -> int:
    """256 bits that hardly change with size, compression, brightness and contrast.

    The signs of the lowest 16 x 16 DCT coefficients of a 64 px grey copy, about their median (Zauner 2010, as
    the package imagehash has it; 64 bits are too few for faces that are all aligned alike).
    """
    grey = np.asarray(_resized(image.convert("L"), 64), np.float64)
    low = np.asarray(fft.dctn(grey, norm="ortho"))[:16, :16].ravel()
    low[0] = 0  # brightness
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def duplicates(hashes: Sequence[int], distance: int = DUPLICATE) -> dict[int, int]:
    """Index of each picture that nearly equals an earlier one that is kept -> index of that one.

    Two are alike if their `perceptual_hash` differ in at most ``distance`` of 256 bits.
    """
    # Of distance + 1 parts of the hashes, two such pictures have at least one in common: only those are compared.
    parts = distance + 1
    width = 256 // parts
    buckets: dict[tuple[int, int], list[int]] = {}
    copies = {}
    for index, value in enumerate(hashes):
        keys = [(part, value >> part * width & (1 << width) - 1) for part in range(parts)]
        near = {kept for key in keys for kept in buckets.get(key, ()) if (hashes[kept] ^ value).bit_count() <= distance}
        if near:
            copies[index] = min(near)
            continue
        for key in keys:
            buckets.setdefault(key, []).append(index)
    return copies


def remove_background(face: Image.Image, matting: str = "walker") -> Image.Image:
    """The person of an aligned face with alpha, RGBA.

    Args:
        matting: "walker" segments by colour and by where the head lies in an aligned picture (`drawing.foreground`:
            no network, soft edges of hair, errors where clothes look like the background); "rembg" uses the package
            rembg (U^2-Net, which it downloads at first use), which is better.

    Raises:
        ToonError: rembg is not installed.
    """
    if matting == "rembg":
        try:
            rembg = import_module("rembg")  # an optional package
        except ImportError:
            raise ToonError("--matting rembg needs another package: pip install 'rembg[cpu]'.") from None
        return rembg.remove(face).convert("RGBA")
    mask = person_mask(np.asarray(face))
    alpha = Image.fromarray(np.rint(255 * mask).astype(np.uint8))
    cut = face.convert("RGB")
    cut.putalpha(alpha)
    return cut


def _resized(image: Image.Image, side: int) -> Image.Image:
    return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.LANCZOS)

"""Put a cartoon back where its face was found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..data.images import shrink
from .align import Aligned, affine, crop
from .mask import HeadMask, head_mask
from .seam import seam_shift, shifted

BAND = 256  # rows that are pasted at a time, to save memory on huge photos
FINER = 1.1  # pixels in which a picture is turned, for one of its own


def paste_back(
    photo: Image.Image,
    aligned: Aligned,
    cartoon: Image.Image,
    *,
    mask: HeadMask | None = None,
    others: Sequence[Aligned] = (),
    in_place: bool = False,
    device: str = "cpu",
) -> Image.Image:
    """The photo with a cartoon in place of the aligned head.

    Args:
        photo: RGB; what the face was cut from, or a picture of the same size such as a drawing of it.
        aligned: the crop of the photo.
        cartoon: of this crop, square, any size.
        mask: what of the cartoon is shown; None = `mask.head_mask`.
        others: the other faces of the photo, whose heads are left out of the mask.
        in_place: paste into ``photo`` itself, which saves the memory of a copy.
        device: of the network that finds the head.

    Returns:
        RGB picture of the photo's size, a new one unless ``in_place``. What lies outside the mask is unchanged.
    """
    result = photo if in_place else photo.copy()
    cartoon = shrink(cartoon.convert("RGB"), max(8, math.ceil(aligned.side)))
    mask = mask or head_mask(aligned, cartoon, photo.size, others=others, device=device)
    levels = shifted(cartoon, seam_shift(crop(photo, aligned.quad, 128), cartoon, mask))
    _paste(result, aligned.quad, levels, 255 * mask.alpha)
    return result


def _paste(photo: Image.Image, quad: np.ndarray, picture: np.ndarray, alpha: np.ndarray) -> None:
    """Composite a picture ``[n, n, 3]`` into the square ``quad`` of a photo, in place; ``alpha [m, m]`` is 0 to 255."""
    rows, columns = (np.flatnonzero(alpha.any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    corners = [(x, y, 1) for x in (columns[0], columns[-1] + 1) for y in (rows[0], rows[-1] + 1)]
    corners = np.array(corners) @ affine(quad, len(alpha)).T
    left, top = (int(v) for v in np.maximum(np.floor(corners.min(0)) - 2, 0))
    right, bottom = (int(v) for v in np.minimum(np.ceil(corners.max(0)) + 2, photo.size))
    if left >= right or top >= bottom:
        return
    layers = [_Turned(layer, quad, (left, top, right, bottom)) for layer in (picture, alpha)]
    for start in range(0, bottom - top, BAND):
        seen, mask = (layer.rows(start, min(start + BAND, bottom - top)) for layer in layers)
        photo.paste(seen, (left, top + start), mask)


class _Turned:
    """A square picture, turned into its place in a photo band by band.

    Pillow turns slowly and enlarges fast: a picture that grows is turned in cells of several pixels first, of which
    there are still more than the picture has pixels. It turns floats, because Pillow does not round turned bytes.

    Args:
        picture: levels of 8 bits as floats, ``[n, n]`` or ``[n, n, 3]``.
        quad: the square.
        box: left, top, right and bottom of what will be asked for.
    """

    def __init__(self, picture: np.ndarray, quad: np.ndarray, box: tuple[int, int, int, int]) -> None:
        left, top, right, bottom = box
        side = len(picture)
        self.planes = [
            Image.fromarray(np.ascontiguousarray(plane)) for plane in np.atleast_3d(picture).transpose(2, 0, 1)
        ]
        self.width = right - left
        self.cell = max(1, math.floor(np.hypot(*(quad[3] - quad[0])) / (FINER * side)))
        to_photo = np.vstack([affine(quad, side), (0, 0, 1)])
        self.matrix = np.linalg.inv(to_photo) @ [[self.cell, 0, left], [0, self.cell, top], [0, 0, 1]]
        height = bottom - top
        self.coarse = self._turn(0, -(-self.width // self.cell), -(-height // self.cell)) if self.cell > 1 else None

    def _turn(self, start: int, width: int, height: int) -> Image.Image:
        matrix = (self.matrix @ [[1, 0, 0], [0, 1, start], [0, 0, 1]])[:2].ravel().tolist()
        turned = [
            plane.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
            for plane in self.planes
        ]
        bands = [Image.fromarray(np.rint(np.asarray(plane)).clip(0, 255).astype(np.uint8)) for plane in turned]
        return Image.merge("RGB", bands) if len(bands) == 3 else bands[0]

    def rows(self, start: int, stop: int) -> Image.Image:
        """Rows of the photo from ``start`` to before ``stop``, counted from the top of the box: RGB or grey."""
        if self.coarse is None:
            return self._turn(start, self.width, stop - start)
        box = (0, start / self.cell, self.width / self.cell, stop / self.cell)
        return self.coarse.resize((self.width, stop - start), Image.Resampling.BICUBIC, box)

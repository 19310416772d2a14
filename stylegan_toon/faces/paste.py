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
    cartoon = shifted(cartoon, seam_shift(crop(photo, aligned.quad, 128), cartoon, mask))
    alpha = Image.fromarray(np.rint(255 * mask.alpha).astype(np.uint8))
    _paste(result, aligned.quad, cartoon, alpha)
    return result


def _paste(photo: Image.Image, quad: np.ndarray, picture: Image.Image, alpha: Image.Image) -> None:
    """Composite a square ``picture`` into the square ``quad`` of a photo, in place, where ``alpha`` is not 0."""
    box = alpha.getbbox()
    if box is None:
        return
    corners = np.array([(x, y, 1) for x in box[::2] for y in box[1::2]]) @ affine(quad, alpha.width).T
    left, top = (int(v) for v in np.maximum(np.floor(corners.min(0)) - 2, 0))
    right, bottom = (int(v) for v in np.minimum(np.ceil(corners.max(0)) + 2, photo.size))
    if left >= right or top >= bottom:
        return
    layers = [_Turned(layer, quad, (left, top, right, bottom)) for layer in (picture, alpha)]
    for start in range(0, bottom - top, BAND):
        seen, mask = (layer.rows(start, min(start + BAND, bottom - top)) for layer in layers)
        photo.paste(seen, (left, top + start), mask)


class _Turned:
    """A square picture turned into its place in a photo, in bands of rows.

    Pillow turns slowly and enlarges fast: a picture that grows is turned in cells of several pixels first, of which
    there are still more than the picture has pixels.
    """

    def __init__(self, picture: Image.Image, quad: np.ndarray, box: tuple[int, int, int, int]) -> None:
        left, top, right, bottom = box
        self.picture, self.width = picture, right - left
        self.cell = max(1, math.floor(np.hypot(*(quad[3] - quad[0])) / (FINER * picture.width)))
        to_photo = np.vstack([affine(quad, picture.width), (0, 0, 1)])
        self.matrix = np.linalg.inv(to_photo) @ [[self.cell, 0, left], [0, self.cell, top], [0, 0, 1]]
        if self.cell > 1:
            self.picture = self._turn(0, -(-self.width // self.cell), -(-(bottom - top) // self.cell))

    def _turn(self, start: int, width: int, height: int) -> Image.Image:
        shift = np.array([[1, 0, 0], [0, 1, start], [0, 0, 1]])
        matrix = (self.matrix @ shift)[:2].ravel().tolist()
        return self.picture.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)

    def rows(self, start: int, stop: int) -> Image.Image:
        """Rows of the photo from ``start`` to before ``stop``, counted from the top of the box."""
        if self.cell == 1:
            return self._turn(start, self.width, stop - start)
        box = (0, start / self.cell, self.width / self.cell, stop / self.cell)
        return self.picture.resize((self.width, stop - start), Image.Resampling.BICUBIC, box)

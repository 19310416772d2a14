"""Where a cartoon replaces the photo: the head with its hair or hat, down to the neck, with soft edges.

Fields are float32 ``[SIDE, SIDE]`` over an aligned crop; lengths are shares of the crop's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from .align import Aligned
from .person import person_mask
from .person_network import SIDE

MARGIN = 0.012  # how far the mask reaches beyond hair, so that its edge lies in the background
BORDERS = (0.12, 0.14, 0.12, 0.08)  # width of the soft edge where the crop cuts off: left, bottom, right, top
CHIN = 0.78  # from here on downwards the photo's own person is no longer covered
FACE = (0.5, 0.56, 0.25, 0.31)  # an ellipse that every aligned face fills: centre and half axes (x, y)


@dataclass(frozen=True, eq=False)
class HeadMask:
    """What of a cartoon is shown.

    Attributes:
        alpha: 1 where the cartoon is seen, 0 where the photo is.
        kept: 1 inside the crop, falling to 0 where it cuts off while the photo goes on, and towards other heads.
        photo, cartoon: probability of a person in each of the two.
    """

    alpha: np.ndarray
    kept: np.ndarray
    photo: np.ndarray
    cartoon: np.ndarray


def head_mask(
    aligned: Aligned,
    cartoon: Image.Image,
    photo_size: tuple[int, int],
    *,
    others: Sequence[Aligned] = (),
    device: str = "cpu",
) -> HeadMask:
    """The mask of a head that was found in a photo.

    The person is looked for in the crop and in the cartoon, and the mask covers both: hair of the photo would
    otherwise show beside the cartoon's. Below the chin it covers the cartoon's person only.

    Args:
        aligned: the crop of the photo.
        cartoon: of this crop.
        photo_size: width and height of the photo; there is no soft edge where the crop ends with it.
        others: the other faces of the photo, whose heads are left out.
        device: of the network.
    """
    x, y = grid()
    away = ((x - FACE[0]) / FACE[2]) ** 2 + ((y - FACE[1]) / FACE[3]) ** 2
    face = ramp(1.35 - away, 0.7)  # also of statues and paintings, in which the network may see no person
    photo, drawn = (np.maximum(person_mask(picture, device=device), face) for picture in (aligned.image, cartoon))
    # Below the chin, clothes and hair of the photo stay where the cartoon shows background instead.
    person = np.maximum(drawn, photo * (1 - ramp(y - CHIN, 0.1)))
    # A maximum filter and two blurs move the edge outwards and make it soft.
    grown = ndimage.maximum_filter(smooth(person, 0.004), size=2 * round(MARGIN * SIDE) + 1)
    head = ramp(smooth(grown, 0.006) - 0.15, 0.75)
    kept = soft_border(aligned.quad, photo_size) * _own(aligned, others)
    return HeadMask(head * kept, kept, photo, drawn)


def soft_border(quad: np.ndarray, photo_size: tuple[int, int]) -> np.ndarray:
    """1 in the crop's middle, falling to 0 towards those of its sides beyond which there is more photo."""
    x, y = grid()
    result = np.ones((SIDE, SIDE), np.float32)
    corners = np.roll(np.asarray(quad, np.float64), -1, axis=0)  # each after the one it follows in `quad`
    for first, last, away, width in zip(quad, corners, (x, 1 - y, 1 - x, y), BORDERS):
        if not _outside(first, last, photo_size):
            result = result * ramp(away, width)
    return result


def _outside(first: np.ndarray, last: np.ndarray, photo_size: tuple[int, int]) -> bool:
    """Whether a side of a quad lies on or beyond one edge of the photo, within half a pixel."""
    ends = np.stack([first, last])
    return bool((ends <= 0.5).all(0).any() or (ends >= np.asarray(photo_size) - 0.5).all(0).any())


def _own(aligned: Aligned, others: Sequence[Aligned]) -> np.ndarray:
    """1 nearer to this face, 0 nearer to one of the others; distances are in sides of each face's own square."""
    x, y = grid()
    quad = aligned.quad
    at = quad[0] + x[..., None] * (quad[3] - quad[0]) + y[..., None] * (quad[1] - quad[0])
    result = np.ones((SIDE, SIDE), np.float32)
    for other in others:
        if other is not aligned:
            gap = _distance(at, other) - _distance(at, aligned)
            result = result * ramp(gap + 0.06, 0.12)
    return result


def _distance(at: np.ndarray, face: Aligned) -> np.ndarray:
    return (np.hypot(*(at - face.quad.mean(0)).transpose(2, 0, 1)) / face.side).astype(np.float32)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Centres of pixels as shares of the side, x ``[1, SIDE]`` and y ``[SIDE, 1]``, broadcast to ``[SIDE, SIDE]``."""
    at = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    return np.broadcast_to(at, (SIDE, SIDE)), np.broadcast_to(at[:, None], (SIDE, SIDE))


def ramp(x: np.ndarray, width: float) -> np.ndarray:
    """The cubic from 0 at and below x = 0 to 1 at and beyond ``width``."""
    t = np.clip(x / width, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def smooth(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of ``[n, n]`` or ``[n, n, C]``; ``sigma`` is a share of the side."""
    sigma = sigma * len(x)
    return ndimage.gaussian_filter(x, (sigma, sigma, 0)[: x.ndim], truncate=3.0, mode="nearest")

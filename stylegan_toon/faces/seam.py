"""Colours that meet at a seam: the cartoon's low frequencies are moved to the photo's around the edge of its mask."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .mask import HeadMask, ramp, smooth

GRID = 64  # side of the grid on which colours are compared
LOW = 0.02  # blur before the comparison; Gaussians are in shares of the crop's side
UNSEEN = 1.0  # levels: smaller differences are rounding, since Pillow cuts off the fractions of turned pictures


def seam_shift(photo: Image.Image, cartoon: Image.Image, mask: HeadMask) -> np.ndarray:
    """What to add to a cartoon so that no step of colour shows where it ends.

    Around the head that is the difference of the backgrounds, which is carried on under the cartoon's hair.
    Where the crop cuts through hair, neck or clothes, it is the difference there, and it fades out towards the face.

    Args:
        photo: the crop of what the cartoon is pasted into, square.
        cartoon: square.
        mask: of the head.

    Returns:
        float32 ``[GRID, GRID, 3]`` in levels of 8 bits.
    """
    before, after = (
        np.asarray(picture.convert("RGB").resize((GRID, GRID), Image.Resampling.BOX), np.float32)
        for picture in (photo, cartoon)
    )
    was, drawn, kept = (_reduced(field) for field in (mask.photo, mask.cartoon, mask.kept))
    difference = smooth(before - after, LOW)
    around = ((1 - was) * (1 - drawn)) ** 2
    cut = was * drawn * (1 - kept)
    ground = _carried(difference, around, (0.03, 0.09, 0.3), rest=1e-3)
    person = _carried(difference, cut, (0.05, 0.10), rest=0.08)
    shift = ground + drawn[..., None] * (person - ground)
    return shift * ramp(np.abs(shift).max(-1, keepdims=True) - UNSEEN, 1)


def _carried(x: np.ndarray, weight: np.ndarray, sigmas: tuple[float, ...], rest: float) -> np.ndarray:
    """``x`` where it has a weight, elsewhere the Gaussian average of what lies near; 0 far from all weights.

    The widest Gaussian fills what the narrower ones do not reach (normalised convolution; Knutsson and Westin 1993).
    """
    weight = weight[..., None]
    filled = np.zeros_like(x)
    for number, sigma in enumerate(reversed(sigmas)):
        least = rest if number == 0 else 0.05
        filled = (smooth(x * weight, sigma) + least * filled) / (smooth(weight, sigma) + least)
    return filled


def _reduced(field: np.ndarray) -> np.ndarray:
    times = len(field) // GRID
    return field.reshape(GRID, times, GRID, times).mean((1, 3))


def shifted(cartoon: Image.Image, shift: np.ndarray) -> np.ndarray:
    """The levels of a cartoon, float32 ``[n, n, 3]``, with a smooth shift ``[m, m, 3]`` added."""
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(shift[..., k])).resize(cartoon.size, Image.Resampling.BICUBIC))
        for k in range(3)
    ]
    return (np.asarray(cartoon, np.float32) + np.stack(planes, -1)).clip(0, 255)

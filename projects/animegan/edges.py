"""Drawings with smoothed edges, as negative examples for the discriminator, so that the generator draws clear lines.

CartoonGAN's idea (Chen, Lai and Liu 2018, section 3.2.1), which AnimeGAN took over: find edges, widen them, blur the
picture there.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

LOW, HIGH = 100.0, 200.0  # thresholds on the Sobel gradient of grey levels 0..255
SPREAD = 5  # pixels: size of the widening and of the blur
_SIGMA = 0.3 * ((SPREAD - 1) * 0.5 - 1) + 0.8  # OpenCV's default for a kernel of that size


def canny(grey: np.ndarray, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """Edges of a picture (Canny 1986): float ``[H, W]`` in 0..255 -> bool ``[H, W]``.

    Sobel gradients in L1 norm, thinned to their ridges across the edge, kept above ``high`` and, where connected to
    such, above ``low``.
    """
    gx, gy = (ndimage.sobel(grey, axis, mode="nearest") for axis in (1, 0))
    size = np.abs(gx) + np.abs(gy)
    padded = np.pad(size, 1)
    height, width = size.shape

    def shifted(dy: int, dx: int) -> np.ndarray:
        return padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    sector = np.rint(np.arctan2(gy, gx) / (np.pi / 4)).astype(int) % 4
    ridge = np.zeros(size.shape, bool)
    neighbours: list[tuple[int, int]] = [(0, 1), (1, 1), (1, 0), (1, -1)]
    for k, (dy, dx) in enumerate(neighbours):
        # Of two equal neighbours one stays.
        ridge |= (sector == k) & (size > shifted(-dy, -dx)) & (size >= shifted(dy, dx))
    labels, _ = ndimage.label(ridge & (size > low), np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    strong = np.unique(labels[ridge & (size > high)])
    return np.isin(labels, strong[strong > 0])


def smooth_edges(picture: np.ndarray) -> np.ndarray:
    """A copy, blurred (5x5 Gaussian) within two pixels of an edge: uint8 ``[H, W, 3]`` -> the same."""
    grey = picture @ np.array([0.299, 0.587, 0.114])
    near = ndimage.binary_dilation(canny(grey), np.ones((SPREAD, SPREAD)))
    soft = ndimage.gaussian_filter(picture.astype(np.float32), (_SIGMA, _SIGMA, 0), radius=(2, 2, 0), mode="mirror")
    return np.where(near[..., None], np.rint(soft), picture).astype(np.uint8)

"""Crisper lines: an unsharp mask, in proportion to the size of the picture, after the network's grid is taken away."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import correlate1d

RADIUS = 1.5 / 512  # standard deviation of the blur that is taken away, as a share of the side
GRID_SIGMA = 2.5  # pixels over which a pattern has to repeat to be taken for the network's grid


def sharpen(cartoon: Image.Image, amount: float) -> Image.Image:
    """A cartoon with crisper lines; flat areas stay as they are.

    The networks draw photos softer than the renderers that they learned from do: pretrained/recipes/README.md has the
    energies of the finest Haar bands.

    Args:
        cartoon: RGB picture, of the size that the network made.
        amount: how much of the difference to the blurred picture is added; 0 = the cartoon as it is.
    """
    if amount <= 0:
        return cartoon
    mask = ImageFilter.UnsharpMask(RADIUS * cartoon.width, percent=round(100 * amount), threshold=0)
    return without_grid(cartoon).filter(mask)


def without_grid(cartoon: Image.Image) -> Image.Image:
    """A picture without patterns that repeat every two pixels, which Haar upsampling leaves in dark areas.

    Patterns are looked for across, down and along both, each by a band-pass at half the sampling rate whose envelope is
    Gaussian (`GRID_SIGMA`). Lines and edges stay where they are smooth over two pixels, as networks draw them.

    Args:
        cartoon: RGB picture, of the size that the network made.
    """
    picture = np.asarray(cartoon.convert("RGB"), np.float32)
    reach = round(3 * GRID_SIGMA)
    offsets = np.arange(-reach, reach + 1)
    smooth = np.exp(-0.5 * (offsets / GRID_SIGMA) ** 2)
    smooth /= smooth.sum()
    alternating = smooth * (-1.0) ** offsets

    def along(x: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
        return correlate1d(x, taps, axis=axis, mode="mirror")  # a mirrored pattern goes on, as period 2 is symmetric

    columns, means = along(picture, alternating, 1), along(picture, smooth, 1)
    grid = along(columns, smooth, 0) + along(means + columns, alternating, 0)
    return Image.fromarray(np.clip((picture - grid).round(), 0, 255).astype(np.uint8))

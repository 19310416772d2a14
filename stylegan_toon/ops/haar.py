"""The Haar transform of pictures: four bands of half the side, and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def haar_up(x: Tensor) -> Tensor:
    """Inverse transform ``[N, 4C, H, W]`` -> ``[N, C, 2H, 2W]``.

    Channels: the C low bands, then for each of the C its three detail bands.
    """
    n, c4, h, w = x.shape
    c = c4 // 4
    low, detail = x[:, :c], x[:, c:].reshape(n, c, 3, h, w)
    lh, hl, hh = detail.unbind(dim=2)
    p, q, u, v = low + lh, low - lh, hl + hh, hl - hh
    pixels = torch.stack([p + u, p - u, q + v, q - v], dim=2) * 0.5
    return F.pixel_shuffle(pixels.reshape(n, c4, h, w), 2)


def haar_down(y: Tensor) -> Tensor:
    """The transform, inverse and adjoint of `haar_up`: ``[N, C, 2H, 2W]`` -> ``[N, 4C, H, W]``."""
    a, b = y[:, :, ::2, ::2], y[:, :, ::2, 1::2]
    c, d = y[:, :, 1::2, ::2], y[:, :, 1::2, 1::2]
    detail = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=2)
    return torch.cat([a + b + c + d, detail.flatten(1, 2)], dim=1) * 0.5

"""Filtering by frequency bands, noise and cutout (ADA, appendix B)."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from .geometry import fold

# Symlet-2 low-pass (4 taps) in closed form: (1 -+ sqrt 3, 3 -+ sqrt 3) / (4 sqrt 2).
_ROOT = np.sqrt(3)
SYM2 = np.array([1 - _ROOT, 3 - _ROOT, 3 + _ROOT, 1 + _ROOT]) / np.sqrt(32)
POWER = torch.tensor([10, 1, 1, 1], dtype=torch.float64) / 13  # share of each band in a natural picture (1 / f)


@functools.cache
def filter_bank() -> Tensor:
    """Four zero-phase filters, lowest octave first, which add up to the identity: ``[4, 43]`` float64.

    With ``L(z) = H(z) H(1/z) / 2`` and ``K(z) = L(-z)``, for which ``L + K = 1``, the bands are
    ``L(z^4) L(z^2) L(z)``, ``K(z^4) L(z^2) L(z)``, ``K(z^2) L(z)`` and ``K(z)``.
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = low * (-1.0) ** np.arange(-3, 4)

    def spread(f: np.ndarray, step: int) -> np.ndarray:
        out = np.zeros((len(f) - 1) * step + 1)
        out[::step] = f
        return out

    below = np.ones(1)
    bands = []
    for step in (1, 2, 4):
        bands.append(np.convolve(below, spread(high, step)))
        below = np.convolve(below, spread(low, step))
    bands.append(below)
    size = len(below)
    return torch.from_numpy(np.stack([np.pad(b, (size - len(b)) // 2) for b in reversed(bands)]))


def balanced_gains(log2_gain: Tensor) -> Tensor:
    """Amplify each band in turn and bring the expected power back to 1 each time: ``[n, 4] -> [n, 4]``."""
    gain = torch.exp2(log2_gain)
    return gain / (1 + POWER * (gain.square() - 1)).sqrt().prod(dim=1, keepdim=True)


@functools.lru_cache(maxsize=8)
def _bank_matrices(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The bank on a line of ``size`` pixels with reflected ends, as matrices ``[4, size, size]``."""
    bank = filter_bank()
    taps = bank.shape[1]
    pixel, tap = torch.arange(size), torch.arange(taps)
    source = fold(pixel[:, None] + tap - taps // 2, size)  # [size, taps]
    matrices = torch.zeros(len(bank), size, size, dtype=torch.float64)
    matrices.scatter_add_(2, source.expand(len(bank), -1, -1), bank[:, None].expand(-1, size, -1).contiguous())
    return matrices.to(device, dtype)


def amplify(images: Tensor, gains: Tensor) -> Tensor:
    """Amplify the bands of ``[N, C, H, W]`` along both axes by ``gains`` ``[N, 4]``; reflected outside.

    Filter and reflection together are a matrix for each picture and axis, so this is two batched matrix products.
    """

    def along_width(x: Tensor) -> Tensor:
        bank = _bank_matrices(x.shape[3], x.dtype, x.device)
        matrix = (gains[:, :, None, None] * bank).sum(dim=1)  # [N, W, W]
        return (x.flatten(1, 2) @ matrix.mT).view_as(x)

    return along_width(along_width(images).mT.contiguous()).mT.contiguous()


def white_noise(like: Tensor, seeds: Tensor) -> Tensor:
    """Standard normal pixels in the shape of ``like`` ``[N, C, H, W]``, each picture from its seed ``[N]``."""
    options = {"dtype": like.dtype, "device": like.device}
    sources = (torch.Generator(like.device).manual_seed(int(seed)) for seed in seeds.tolist())
    return torch.stack([torch.randn(like.shape[1:], generator=source, **options) for source in sources])


def cut_out(images: Tensor, center: Tensor, size: Tensor) -> Tensor:
    """Set a box of ``[N, C, H, W]`` to 0; its ``center`` and ``size`` ``[N, 2]``, (x, y), are shares of the sides."""
    height, width = images.shape[2:]
    far = [
        ((torch.arange(pixels, device=images.device) + 0.5) / pixels - center[:, axis, None]).abs()
        >= size[:, axis, None] / 2
        for axis, pixels in enumerate((width, height))
    ]  # [N, W], [N, H]
    return images * (far[0][:, None, None, :] | far[1][:, None, :, None])

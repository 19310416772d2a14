"""The orthonormal Haar transform of 2x2 pixels, up and down, and a head that makes colours of it.

    [ out(0,0) ]         [ 1  1  1  1 ]   [ lo ]
    [ out(0,1) ] = 1/2 * [ 1  1 -1 -1 ] * [ lh ]
    [ out(1,0) ]         [ 1 -1  1 -1 ]   [ hl ]
    [ out(1,1) ]         [ 1 -1 -1  1 ]   [ hh ]

The matrix is symmetric and orthonormal, so up and down are each other's inverse, adjoint and gradient. Of 4 C channels
the first C are ``lo``; channel ``C + 3 c + k`` is the k-th of ``lh``, ``hl``, ``hh`` for c.
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from . import library, workspace

_PARAMS = struct.Struct("2P6q")  # ToonHaar of csrc/api.h


def haar_up(x: Tensor) -> Tensor:
    """The inverse transform: four bands become a picture of twice the size.

    Args:
        x: ``[N, 4 C, H, W]``, floating point; contiguous and channels_last memory are kept as they are.

    Returns:
        ``[N, C, 2 H, 2 W]``, any number of times differentiable.

    Raises:
        ValueError: the channels are not a multiple of 4.

    Source: Belousov 2021, "MobileStyleGAN", section 3.1, where networks make the bands instead of the picture.
    """
    if x.ndim != 4 or x.shape[1] % 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {list(x.shape)}, but must be floating point [N, 4 C, H, W]")
    return reference(x, True) if library.reference_wanted() else _HAAR(x, True)


def haar_down(x: Tensor) -> Tensor:
    """The transform: ``[N, C, 2 H, 2 W]`` becomes ``[N, 4 C, H, W]``; the rest as for `haar_up`."""
    if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {list(x.shape)}, but must be floating point [N, C, 2 H, 2 W]")
    return reference(x, False) if library.reference_wanted() else _HAAR(x, False)


# ---------------------------------------------------------------- reference


def _sums(lo: Tensor, lh: Tensor, hl: Tensor, hh: Tensor) -> list[Tensor]:
    return [(lo + lh + hl + hh) / 2, (lo + lh - hl - hh) / 2, (lo - lh + hl - hh) / 2, (lo - lh - hl + hh) / 2]


def reference(x: Tensor, up: bool) -> Tensor:
    """Plain PyTorch; the layout of ``x``."""
    n, channels, height, width = x.shape
    if up:
        c = channels // 4
        bands = x[:, :c], *x[:, c:].reshape(n, c, 3, height, width).unbind(2)
        y = torch.stack(_sums(*bands), -1).unflatten(-1, (2, 2))  # [N, C, H, W, row, column]
        y = y.permute(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * height, 2 * width)
    else:
        lo, *rest = _sums(x[:, :, ::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, ::2], x[:, :, 1::2, 1::2])
        y = torch.cat([lo, torch.stack(rest, 2).flatten(1, 2)], 1)
    return y.contiguous(memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if library.is_channels_last(x) else torch.contiguous_format


# ---------------------------------------------------------------- compiled


def _empty(x: Tensor, up: bool) -> Tensor:
    n, c, h, w = x.shape
    shape = (n, c // 4, 2 * h, 2 * w) if up else (n, 4 * c, h // 2, w // 2)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _forward(x: Tensor, up: bool) -> Tensor:
    x = library.dense(x)
    if x.dtype != torch.float32 or not x.is_cpu or not library.usable(x) or x.numel() == 0:
        return reference(x, up)
    out = workspace.lent(_empty(x, up))
    n, c, h, w = (x if not up else out).shape
    channels_last = library.is_channels_last(x)
    library.launch("haar", out, _PARAMS.pack(out.data_ptr(), x.data_ptr(), n, c, h // 2, w // 2, up, channels_last))
    return out


class _Haar(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, up):
        ctx.up = up
        return library.below_autograd(_HAAR, x, up)

    @staticmethod
    def backward(ctx, dy):
        return _HAAR(dy, not ctx.up), None


_HAAR = library.define("haar(Tensor x, bool up) -> Tensor", _forward, lambda x, up: _empty(library.dense(x), up), _Haar)

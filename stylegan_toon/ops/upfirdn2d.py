"""Upsample, FIR filter and downsample in one op (StyleGAN2-ADA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def setup_filter(taps, *, normalize: bool = True, gain: float = 1.0, device=None) -> Tensor:
    """[1, 3, 3, 1] -> float32 filter, 2-D [4, 4] when short (placeholder)."""
    f = torch.as_tensor(taps, dtype=torch.float32, device=device)
    if f.ndim == 0:
        f = f[None]
    if f.ndim == 1 and f.numel() < 8:
        f = f.outer(f)
    if normalize:
        f = f / f.sum()
    return f * gain ** (f.ndim / 2)


def upfirdn2d(x: Tensor, f: Tensor, *, up=1, down=1, padding=0, flip_filter=False, gain=1) -> Tensor:
    upx, upy = (up, up) if isinstance(up, int) else up
    dx, dy = (down, down) if isinstance(down, int) else down
    p = [padding] * 4 if isinstance(padding, int) else (list(padding) if len(padding) == 4 else
        [padding[0], padding[0], padding[1], padding[1]])
    n, c, h, w = x.shape
    if upx > 1 or upy > 1:
        z = x.new_zeros(n, c, h * upy, w * upx, ).contiguous(memory_format=torch.channels_last)
        z[:, :, ::upy, ::upx] = x
        x = z
    x = F.pad(x, [max(v, 0) for v in p])
    x = x[:, :, max(-p[2], 0): x.shape[2] - max(-p[3], 0), max(-p[0], 0): x.shape[3] - max(-p[1], 0)]
    f = (f * gain ** (f.ndim / 2)).to(x.dtype)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    if f.ndim == 2:
        x = F.conv2d(x, f[None, None].expand(c, 1, -1, -1), groups=c)
    else:
        x = F.conv2d(x, f[None, None, None].expand(c, 1, 1, -1), groups=c)
        x = F.conv2d(x, f[None, None, :, None].expand(c, 1, -1, 1), groups=c)
    return x[:, :, ::dy, ::dx]

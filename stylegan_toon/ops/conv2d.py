"""Convolutions with resampling and with style modulation, built on :mod:`upfirdn2d` and torch's convolution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .upfirdn2d import upfirdn2d


def conv2d_resample(
    x: Tensor, w: Tensor, f: Tensor | None = None, *, up: int = 1, down: int = 1, padding: int = 0
) -> Tensor:
    """2-D correlation that first upsamples or afterwards downsamples its input through a FIR filter.

    The result equals: insert ``up - 1`` zeros between samples, pad, filter with ``f * up**2``, correlate with
    ``w``, filter with ``f``, keep every ``down``-th sample; but no inserted zero is ever multiplied.
    Upsampling uses the transposed convolution, whose kernel is *not* flipped: the weights of published
    networks mean that (StyleGAN2, Karras et al. 2020, appendix B).

    Args:
        x: ``[N, C_in, H, W]``.
        w: ``[C_out, C_in, kh, kw]``, same dtype as ``x``.
        f: float32 filter from :func:`setup_filter`, 1-D (separable) or 2-D. None = no filtering.
        up, down: integer factors; not both above 1.
        padding: zeros on each side, measured in upsampled samples.

    Returns:
        ``[N, C_out, H * up // down, W * up // down]`` when ``padding = kernel // 2``.
    """
    if up > 1 and down > 1:
        raise ValueError("conv2d_resample: up and down cannot both be above 1.")
    kh, kw = w.shape[2:]
    if up == 1 and down == 1:
        return F.conv2d(x, w, padding=padding)
    fw, fh = (f.shape[-1], f.shape[0]) if f is not None else (1, 1)
    if down > 1:
        pad = [
            padding + (fw - down + 1) // 2, padding + (fw - down) // 2,
            padding + (fh - down + 1) // 2, padding + (fh - down) // 2,
        ]  # fmt: skip
        if kh == 1 and kw == 1:  # a 1x1 convolution commutes with dropping samples
            return F.conv2d(upfirdn2d(x, f, down=down, padding=pad), w)
        return F.conv2d(upfirdn2d(x, f, padding=pad), w, stride=down)
    pad = [
        padding + (fw + up - 1) // 2, padding + (fw - up) // 2,
        padding + (fh + up - 1) // 2, padding + (fh - up) // 2,
    ]  # fmt: skip
    if kh == 1 and kw == 1:  # ... and with inserting zeros
        return upfirdn2d(F.conv2d(x, w), f, up=up, padding=pad, gain=up**2)
    # What the transposed convolution has already padded comes off the filter's padding.
    pad = [pad[0] - (kw - 1), pad[1] - (kw - up), pad[2] - (kh - 1), pad[3] - (kh - up)]
    crop_y, crop_x = max(min(-pad[2], -pad[3]), 0), max(min(-pad[0], -pad[1]), 0)
    x = F.conv_transpose2d(x, w.transpose(0, 1), stride=up, padding=(crop_y, crop_x))
    pad = [pad[0] + crop_x, pad[1] + crop_x, pad[2] + crop_y, pad[3] + crop_y]
    return upfirdn2d(x, f, padding=pad, gain=up**2)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    noise: Tensor | None = None,
    f: Tensor | None = None,
    up: int = 1,
    padding: int = 0,
    demodulate: bool = True,
) -> Tensor:
    """Convolution whose input channels are scaled per sample and whose output is brought back to unit variance.

    StyleGAN2 (Karras et al. 2020), section 2.2, equations 1 and 3, in the form that scales activations instead
    of weights: ``conv(x * s) * d`` with ``d = rsqrt(sum_ik (w s)^2 + 1e-8)``. Both forms are equal; this one
    needs no per-sample weights and so no grouped convolution.

    Args:
        x: ``[N, C_in, H, W]``.
        weight: ``[C_out, C_in, k, k]``.
        styles: ``[N, C_in]`` float32.
        noise: added after demodulation, broadcastable to the output. None = no noise.
        f, up, padding: as in :func:`conv2d_resample`.
        demodulate: False for ``torgb`` layers.

    Returns:
        ``[N, C_out, H * up, W * up]``, dtype of ``x``.
    """
    if x.dtype == torch.float16 and demodulate:
        # Half precision overflows at 65504: bring both factors below 1; demodulation cancels the scale exactly.
        fan_in = weight[0].numel()
        weight = weight / (math.sqrt(fan_in) * weight.abs().amax(dim=(1, 2, 3), keepdim=True))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    x = x * styles.to(x.dtype)[:, :, None, None]
    x = conv2d_resample(x, weight.to(x.dtype), f, up=up, padding=padding)
    if demodulate:
        power = styles.square() @ weight.square().sum(dim=(2, 3)).t()  # [N, C_out]
        d = (power + 1e-8).rsqrt().to(x.dtype)[:, :, None, None]
        return torch.addcmul(noise.to(x.dtype), x, d) if noise is not None else x * d
    return x + noise.to(x.dtype) if noise is not None else x

"""Convolutions with resampling and with style modulation, built on :mod:`upfirdn2d` and torch's convolution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import library
from .bias_act import ACTIVATIONS, bias_act
from .conv3x3 import conv3x3, kind_of, layer3x3, remember
from .upfirdn2d import upfirdn2d
from .workspace import take


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
    if kind := kind_of(x, w, f, up, down, padding):
        return conv3x3(x, w, kind)
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
    keep: bool = False,
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
        demodulate: False leaves the variance as it comes.
        keep: the weights will be used again: keep what can be computed from them alone.

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
        d = _demodulation(weight, styles, keep)[:, :, None, None].to(x.dtype)
        return torch.addcmul(noise.to(x.dtype), x, d) if noise is not None else x * d
    return x + noise.to(x.dtype) if noise is not None else x


def _demodulation(weight: Tensor, styles: Tensor, keep: bool) -> Tensor:
    """The factors ``d`` of :func:`modulated_conv2d`, ``[N, C_out]``."""

    def energy() -> Tensor:
        return weight.square().sum(dim=(2, 3)).t()

    if torch.is_grad_enabled() and weight.requires_grad:
        power = styles.square() @ energy()
    else:
        power = styles.square() @ remember(weight, "energy", energy, keep)
    return (power + 1e-8).rsqrt()


def modulated_1x1(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """1x1 convolution with per-sample styles and no demodulation, as a matrix product: the ``torgb`` layer.

    ``conv(x * s) = conv(x)`` with weights ``w * s``, of which a sample has few: no scaled copy of ``x`` is made.

    Args:
        x: ``[N, C_in, H, W]``, contiguous or channels_last.
        weight: ``[C_out, C_in, 1, 1]``.
        styles: ``[N, C_in]`` float32.

    Returns:
        ``[N, C_out, H, W]``, dtype and layout of ``x``.
    """
    n, _, height, width = x.shape
    w = (weight[:, :, 0, 0] * styles[:, None, :]).to(x.dtype)  # [N, C_out, C_in]
    if library.is_channels_last(x):
        return (x.permute(0, 2, 3, 1).flatten(1, 2) @ w.mT).unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return (w @ x.flatten(2)).unflatten(2, (height, width))


def conv_layer(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    weight_gain: float = 1.0,
    styles: Tensor | None = None,
    noise: Tensor | None = None,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    act: str = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
    keep: bool = False,
) -> Tensor:
    """A whole layer: (modulated, resampled) convolution, noise, bias, activation, gain and clamp.

    ``bias_act(conv + noise, b, act=act, gain=gain, clamp=clamp)``, conv being :func:`modulated_conv2d` of ``w`` if
    there are styles, else :func:`conv2d_resample` of ``w * weight_gain``, padded by half the kernel. Where no gradient
    is wanted and the compiled convolution takes it, all of that is one pass over memory.

    Args:
        x: ``[N, C_in, H, W]``.
        w, b: ``[C_out, C_in, k, k]`` and ``[C_out]``, any floating dtype.
        styles, noise, f, up: as in :func:`modulated_conv2d`; without styles there is no noise.
        down: as in :func:`conv2d_resample`; without styles.
        act, gain, clamp: as in :func:`bias_act`.
        keep: the weights will be used again: keep them rearranged.

    Returns:
        ``[N, C_out, H * up // down, W * up // down]``, dtype of ``x``.
    """
    padding = w.shape[-1] // 2
    kind = kind_of(x, w, f, up, down, padding) if act in _SLOPES else None
    if kind is None or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, w, b, styles))):
        if styles is None:
            x = conv2d_resample(x, (w * weight_gain).to(x.dtype), f, up=up, down=down, padding=padding)
        else:
            x = modulated_conv2d(x, w, styles, noise=noise, f=f, up=up, padding=padding, keep=keep)
        return bias_act(x, b.to(x.dtype) if b is not None else None, act=act, gain=gain, clamp=clamp)
    if styles is None:
        scale = torch.full((1, w.shape[0]), weight_gain)
    else:
        scale = _demodulation(w, styles, keep)
    n, _, height, width = x.shape
    out = take((n, w.shape[0], height * up // down, width * up // down))
    return layer3x3(
        x, w, kind, styles=styles, scale=scale, noise=noise, b=b, alpha=_SLOPES[act], gain=gain, clamp=clamp, keep=keep, out=out
    )  # fmt: skip


_SLOPES = {"linear": 1.0, "relu": 0.0, "lrelu": ACTIVATIONS["lrelu"].default_alpha}  # below zero

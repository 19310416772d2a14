"""Convolutions with resampling and with style modulation, built on :mod:`upfirdn2d` and torch's convolution."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import library
from .bias_act import ACTIVATIONS, bias_act
from .conv3x3 import conv3x3, kind_of
from .epilogue import epilogue
from .layer3x3 import demodulation, layer3x3, weight_energy
from .upfirdn2d import upfirdn2d
from .workspace import empty_flat


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
        up, down: Integer factors; not both above 1.
        padding: Zeros on each side, in samples of the upsampled image.

    Returns:
        ``[N, C_out, H * up // down, W * up // down]`` when ``padding = kernel // 2``.

    Raises:
        ValueError: both ``up`` and ``down`` are above 1.
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
    if kh == 1 and kw == 1:  # and with inserting zeros
        return upfirdn2d(F.conv2d(x, w), f, up=up, padding=_up_padding(f, up, padding), gain=up**2)
    x, pad = _transposed(x, w, f, up, padding)
    return upfirdn2d(x, f, padding=pad, gain=up**2)


def _up_padding(f: Tensor | None, up: int, padding: int) -> list[int]:
    fw, fh = (f.shape[-1], f.shape[0]) if f is not None else (1, 1)
    return [
        padding + (fw + up - 1) // 2, padding + (fw - up) // 2,
        padding + (fh + up - 1) // 2, padding + (fh - up) // 2,
    ]  # fmt: skip


def _transposed(x: Tensor, w: Tensor, f: Tensor | None, up: int, padding: int) -> tuple[Tensor, list[int]]:
    """The transposed convolution of an upsampling layer, and the padding that its filter still has to add."""
    kh, kw = w.shape[2:]
    pad = _up_padding(f, up, padding)
    # The transposed convolution pads by its kernel: subtract that from the padding of the filter.
    pad = [pad[0] - (kw - 1), pad[1] - (kw - up), pad[2] - (kh - 1), pad[3] - (kh - up)]
    crop_y, crop_x = max(min(-pad[2], -pad[3]), 0), max(min(-pad[0], -pad[1]), 0)
    x = F.conv_transpose2d(x, w.transpose(0, 1), stride=up, padding=(crop_y, crop_x))
    return x, [pad[0] + crop_x, pad[1] + crop_x, pad[2] + crop_y, pad[3] + crop_y]


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

    ``bias_act(conv2d_resample(x * s, w * weight_gain, f, up=up, down=down) * d + noise, b, act=act, gain=gain,
    clamp=clamp)``, padded by half the kernel. With styles ``s``, ``d = rsqrt(sum_ik (w s)^2 + 1e-8)`` brings the output
    back to unit variance: StyleGAN2 (Karras et al. 2020), section 2.2, equations 1 and 3, in the form that scales
    activations instead of weights. Both forms are equal; this one needs no weights for each sample and so no grouped
    convolution. Where the compiled kernel takes the convolution, the layer is one pass over memory; otherwise the
    convolution is one and the rest another.

    Args:
        x: ``[N, C_in, H, W]``.
        w, b: ``[C_out, C_in, k, k]`` and ``[C_out]``, any floating dtype.
        weight_gain: Factor on ``w``; only without styles, whose demodulation would cancel it.
        styles: ``[N, C_in]`` float32, or None: neither scaling nor demodulation.
        noise: ``[N or 1, 1, H', W']`` or ``[H', W']``, added after demodulation; or None.
        f, up, down: as in :func:`conv2d_resample`.
        act, gain, clamp: as in :func:`bias_act`.
        keep: Keep what is computed from the weights alone until they change: they will be used again.

    Returns:
        ``[N, C_out, H * up // down, W * up // down]``, dtype of ``x``.
    """
    padding = w.shape[-1] // 2
    kind = kind_of(x, w, f, up, down, padding, keep) if act in _SLOPES else None
    if kind:
        return layer3x3(
            x, w, kind, styles=styles, weight_gain=weight_gain, noise=noise, b=b, alpha=_SLOPES[act], gain=gain,
            clamp=clamp, keep=keep,
        )  # fmt: skip
    few = _few(x, w, padding) and down == 1 and (up == 1 or (up == 2 and f is not None and f.shape == (4, 4)))
    scale = None
    if styles is None and weight_gain != 1:
        if w.shape[-1] > 1 and x.dtype == torch.float32:
            scale = x.new_full((len(x), len(w)), weight_gain)  # no pass over the weights
        else:
            w = w * weight_gain
    if styles is not None:
        if x.dtype == torch.float16:
            # It overflows at 65504: bring both factors below 1; demodulation cancels the scale exactly.
            w = w / (math.sqrt(w[0].numel()) * w.abs().amax(dim=(1, 2, 3), keepdim=True))
            styles = styles / styles.abs().amax(dim=1, keepdim=True)
        if not few:
            energy = w.square().sum(dim=(2, 3)).t() if library.reference_wanted() else weight_energy(w, keep)
            scale = demodulation(styles, energy)
        x = x * styles.to(x.dtype)[:, :, None, None]
    w = w.to(x.dtype)
    if few:
        # The filter commutes with the weights and comes first.
        wide = upfirdn2d(x, f, up=2, padding=[3, 2, 3, 2], gain=4) if up == 2 else F.pad(x, [1] * 4)
        x, energy = _matrix_product(wide, w, flip=up == 2, keep=keep, modulated=styles is not None)
        if styles is not None and energy is not None:
            scale = demodulation(styles, energy)
    elif up > 1 and w.shape[-1] > 1:
        x, pad = _transposed(x, w, f, up, padding)
        return epilogue(
            x, b, scale=scale, noise=noise, f=f, padding=pad, fir_gain=up**2, act=act, gain=gain, clamp=clamp
        )
    else:
        x = conv2d_resample(x, w, f, up=up, down=down, padding=padding)
    if scale is None and noise is None and b is None:
        return bias_act(x, act=act, gain=gain, clamp=clamp)
    return epilogue(x, b, scale=scale, noise=noise, act=act, gain=gain, clamp=clamp)


_SLOPES = {"linear": 1.0, "relu": 0.0, "lrelu": ACTIVATIONS["lrelu"].default_alpha}  # below zero


def _few(x: Tensor, w: Tensor, padding: int) -> bool:
    """Whether a 3x3 convolution on the CPU has so few pixels that it spends most of its time reading the weights."""
    few = x.shape[2] * x.shape[3] <= 64 and x.is_cpu and x.dtype == torch.float32 and padding == 1
    return few and w.shape[2:] == (3, 3) and not library.reference_wanted()


def _matrix_product(x: Tensor, w: Tensor, flip: bool, keep: bool, modulated: bool) -> tuple[Tensor, Tensor | None]:
    """``F.conv2d(x, w)`` for few pixels, with flipped taps if ``flip``; and `weight_energy` if ``modulated``.

    It reads the weights in place; torch's convolution rearranges them first, forwards and twice backwards.
    """
    n, c, height, width = x.shape
    columns = F.unfold(x, 3)  # [N, 9 C, pixels]
    if flip:
        columns = columns.unflatten(1, (c, 9)).flip(2).flatten(1, 2)
    columns = columns.transpose(0, 1).flatten(1)
    if modulated and torch.is_grad_enabled() and w.requires_grad and not torch.compiler.is_compiling():
        y, energy = _Product.apply(columns, w)
    else:
        y, energy = w.flatten(1) @ columns, weight_energy(w, keep) if modulated else None
    y = y.unflatten(1, (n, height - 2, width - 2)).transpose(0, 1)
    return y.contiguous(memory_format=torch.channels_last), energy


class _Product(torch.autograd.Function):
    """``w.flatten(1) @ columns`` and `weight_energy`, together so that both gradients by w are summed in one tensor."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(columns, w)
        square = torch.mul(w, w, out=empty_flat(w.numel()).view_as(w))
        return w.flatten(1) @ columns, square.sum(dim=(2, 3)).t()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        dy, d_energy = grad_outputs
        columns, w = ctx.saved_tensors
        d_columns = w.flatten(1).t() @ dy if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_columns, None
        e = (2 * d_energy.t())[:, :, None, None]
        if torch.is_grad_enabled():
            return d_columns, (dy @ columns.t()).view_as(w) + w * e
        dw = torch.mul(w, e, out=library.on_huge_pages(torch.empty(w.shape)))
        dw.flatten(1).addmm_(dy, columns.t())
        return d_columns, dw


def modulated_1x1(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """1x1 convolution with per-sample styles and no demodulation, as a matrix product: the ``torgb`` layer.

    ``conv(x * s, w) = conv(x, w * s)``, and ``w * s`` is small: no scaled copy of ``x`` is made.

    Args:
        x: ``[N, C_in, H, W]``, contiguous or channels_last.
        weight: ``[C_out, C_in, 1, 1]``.
        styles: ``[N, C_in]`` float32.

    Returns:
        ``[N, C_out, H, W]``, dtype and layout of ``x``.
    """
    height, width = x.shape[2:]
    w = (weight[:, :, 0, 0] * styles[:, None, :]).to(x.dtype)  # [N, C_out, C_in]
    if library.is_channels_last(x):
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        y = pixels @ w.transpose(-1, -2) if library.reference_wanted() else _Narrow.apply(pixels, w)
        return y.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return (w @ x.flatten(2)).unflatten(2, (height, width))


class _Narrow(torch.autograd.Function):
    """``x @ w^T`` of ``x [N, P, C]`` and ``w [N, 3, C]``.

    torch's own gradient by w, ``(x^T dy)^T``, is a product with a narrow right side, for which BLAS is slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.transpose(-1, -2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (dy,) = grad_outputs
        x, w = ctx.saved_tensors
        dw = dy.transpose(-1, -2) @ x if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, dw
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or not x.is_cpu or x.dtype != torch.float32
        return dy @ w if plain else torch.matmul(dy, w, out=empty_flat(x.numel()).view(x.shape)), dw

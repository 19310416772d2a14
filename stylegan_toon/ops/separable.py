"""A whole depthwise-separable layer in one pass over memory, forwards, and backwards in another.

    y = lrelu(pointwise(depthwise3x3(h * style)) + noise + bias),    h = x  or  h = haar_up(x * up_style)

The backward pass keeps x and y, both of which the neighbours have anyway; what the depthwise convolution and the Haar
transform made is made again. It is one op where nobody will differentiate it again, else made of ops that can be.

The kernels take float32 on the CPU, with channel counts that are multiples of 16. Elsewhere a layer is PyTorch's
convolutions between our Haar transform and, on other devices, our `epilogue`.
"""

from __future__ import annotations

import ctypes
import struct
import threading

import torch
import torch.nn.functional as F
from torch import Tensor

from . import haar, library, workspace
from .conv3x3 import empty, remember
from .epilogue import epilogue


def separable_layer(
    x: Tensor,
    style: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor,
    noise: Tensor | None = None,
    *,
    slope: float = 0.2,
    keep: bool = False,
) -> Tensor:
    """``lrelu(conv1x1(conv3x3(x * style, depthwise), pointwise) + noise + bias)``, twice differentiable.

    Args:
        x: ``[N, C, H, W]``.
        style: ``[N, C]``.
        depthwise: ``[C, 1, 3, 3]``; one tap table a channel, correlated with padding 1.
        pointwise: ``[O, C, 1, 1]``.
        bias: ``[O]``.
        noise: ``[H, W]`` or ``[N or 1, 1, H, W]``, or None.
        slope: of the activation below zero; not negative.
        keep: Keep the rearranged ``pointwise`` until it changes or dies.

    Returns:
        ``[N, O, H, W]``; channels_last where the compiled kernels take it, else the layout of ``x``.

    Raises:
        ValueError: a tensor does not fit.

    Source: Belousov 2021, "MobileStyleGAN", sections 3.2 and 3.3.
    """
    return _checked(x, style, depthwise, pointwise, bias, noise, None, slope, keep)


def separable_up_layer(
    x: Tensor,
    up_style: Tensor,
    style: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor,
    noise: Tensor | None = None,
    *,
    slope: float = 0.2,
    keep: bool = False,
) -> Tensor:
    """``separable_layer(haar_up(x * up_style), ...)``, whose input is never written to memory.

    Args:
        x: ``[N, 4 C, H, W]``.
        up_style: ``[N, 4 C]``.
        style, depthwise, pointwise, bias, noise, slope, keep: as for `separable_layer`, at the size of the result.

    Returns:
        ``[N, O, 2 H, 2 W]``; the rest as for `separable_layer`.
    """
    return _checked(x, style, depthwise, pointwise, bias, noise, up_style, slope, keep)


def _checked(x, style, depthwise, pointwise, bias, noise, up_style, slope: float, keep: bool) -> Tensor:
    if x.ndim != 4 or not x.is_floating_point() or (up_style is not None and x.shape[1] % 4):
        raise ValueError(f"x is {x.dtype} {list(x.shape)}, but must be floating point [N, C or 4 C, H, W]")
    if slope < 0:
        raise ValueError(f"slope is {slope}, but must not be negative (the output would not tell it)")
    if pointwise.ndim != 4:
        raise ValueError(f"pointwise is {list(pointwise.shape)}, but must be [O, C, 1, 1]")
    n, o, height, width = _output_size(x, pointwise, up_style)
    c = x.shape[1] if up_style is None else x.shape[1] // 4
    if noise is not None and noise.ndim == 2:
        noise = noise[None, None]
    for name, t, shapes in (
        ("style", style, [(n, c)]),
        ("depthwise", depthwise, [(c, 1, 3, 3)]),
        ("pointwise", pointwise, [(o, c, 1, 1)]),
        ("bias", bias, [(o,)]),
        ("noise", noise, [(n, 1, height, width), (1, 1, height, width)]),
        ("up_style", up_style, [(n, 4 * c)]),
    ):
        if t is not None:
            library.check_operand(name, t, x.device, x.dtype)
            if tuple(t.shape) not in shapes:
                raise ValueError(f"{name} is {list(t.shape)}, but must be {' or '.join(str(list(s)) for s in shapes)}")
    tensors = (x, style, depthwise, pointwise, bias, noise, up_style)
    if library.reference_wanted():
        return _reference(*tensors, slope)
    return _LAYER(*tensors, slope, keep, True)


def _taken(x: Tensor, pointwise: Tensor) -> bool:
    """Whether the compiled kernels take a layer."""
    fits = pointwise.shape[0] % 16 == 0 and pointwise.shape[1] % 16 == 0
    return x.dtype == torch.float32 and x.is_cpu and fits and library.usable(x)


def _output_size(x: Tensor, pointwise: Tensor, up_style: Tensor | None) -> tuple[int, int, int, int]:
    times = 1 if up_style is None else 2
    return x.shape[0], pointwise.shape[0], x.shape[2] * times, x.shape[3] * times


def _layout(x: Tensor, pointwise: Tensor) -> torch.memory_format:
    """Of a result."""
    channels_last = _taken(x, pointwise) or library.is_channels_last(x)
    return torch.channels_last if channels_last else torch.contiguous_format


# ---------------------------------------------------------------- reference


def _before_style(x: Tensor, up_style: Tensor | None) -> Tensor:
    return x if up_style is None else haar.haar_up(x * up_style[:, :, None, None])


def _reference(
    x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor, noise: Tensor | None,
    up_style: Tensor | None, slope: float,
) -> Tensor:  # fmt: skip
    u = _convolved(x, style, depthwise, pointwise, up_style) + bias[:, None, None]
    u = u if noise is None else u + noise
    return F.leaky_relu(u, slope).contiguous(memory_format=_layout(x, pointwise))


def _convolved(x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, up_style: Tensor | None) -> Tensor:
    scaled = _before_style(x, up_style) * style[:, :, None, None]
    return F.conv2d(F.conv2d(scaled, depthwise, padding=1, groups=scaled.shape[1]), pointwise)


def _reference_grad(
    dy: Tensor, y: Tensor, x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, noise: Tensor | None,
    up_style: Tensor | None, slope: float, wanted: list[bool],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients by the seven tensors; differentiable, since y only tells on which side of zero it was."""
    for_x, for_style, for_depthwise, for_pointwise, for_bias, for_noise, for_up = wanted
    du = torch.where(y > 0, dy, dy * slope)
    h = _before_style(x, up_style) if for_style or for_depthwise or for_pointwise else None
    dx = d_style = d_depthwise = d_pointwise = d_bias = d_noise = d_up = scaled = dv = None
    if h is not None:
        scaled = h * style[:, :, None, None]
    if for_x or for_style or for_depthwise or for_up:
        dv = F.conv2d(du, pointwise.transpose(0, 1))
    groups = depthwise.shape[0]
    if for_x or for_style or for_up:
        d_scaled = F.conv2d(dv, depthwise.flip(2, 3), padding=1, groups=groups)
        if for_style:
            d_style = (d_scaled * h).sum((2, 3))
        dx = d_scaled * style[:, :, None, None]
        if up_style is not None:
            dx = haar.haar_down(dx)
            d_up = (dx * x).sum((2, 3)) if for_up else None
            dx = dx * up_style[:, :, None, None]
    if for_depthwise:
        d_depthwise = torch.nn.grad.conv2d_weight(scaled, depthwise.shape, dv, padding=1, groups=groups)
    if for_pointwise:
        v = F.conv2d(scaled, depthwise, padding=1, groups=groups)
        d_pointwise = (du.flatten(2) @ v.flatten(2).mT).sum(0)[:, :, None, None]
    if for_bias:
        d_bias = du.sum((0, 2, 3))
    if for_noise:
        d_noise = _like_noise(du.sum(1, keepdim=True), noise)
    return [dx, d_style, d_depthwise, d_pointwise, d_bias, d_noise, d_up]


def _like_noise(sums: Tensor, noise: Tensor) -> Tensor:
    """Sums over the channels, ``[N, 1, H, W]``, as the gradient by ``noise``."""
    return sums if sums.shape[0] == noise.shape[0] else sums.sum(0, keepdim=True)


# ---------------------------------------------------------------- compiled

_PARAMS = struct.Struct("8P6qd")  # ToonSeparable of csrc/api.h
_GRAD_PARAMS = struct.Struct("16P6qd")  # ToonSeparableGrad
_PACK = struct.Struct("2P4q")  # ToonSeparablePack


class _Buffer(threading.local):
    """Of each thread: where weights are packed that are not kept."""

    u = torch.empty(0)


_buffer = _Buffer()


def packed(pointwise: Tensor, back: bool, keep: bool) -> Tensor:
    """The matrix as the kernels read it, or (``back``) the one of the way back from outputs to inputs.

    What is not kept lasts until the next call in this thread.
    """
    kernels = library.kernels()

    def make() -> Tensor:
        w = pointwise.contiguous()
        o, c = w.shape[:2]
        depth, columns, *steps = (o, c, c, 1) if back else (c, o, 1, c)
        size = kernels.toon_separable_packed_cpu
        size.restype, size.argtypes = ctypes.c_int64, [ctypes.c_int64] * 2
        numel = size(depth, columns)
        if keep:
            u = torch.empty(numel)
        else:
            if _buffer.u.numel() < numel:
                _buffer.u = torch.empty(numel)
            u = _buffer.u
        library.launch("separable_pack", u, _PACK.pack(u.data_ptr(), w.data_ptr(), depth, columns, *steps))
        return u

    # Each instruction set has a layout of its own.
    return remember(pointwise, f"separable {back} {kernels.toon_cpu_isa()}", make, keep)


def _empty(x: Tensor, style, depthwise, pointwise: Tensor, bias, noise, up_style: Tensor | None, *_) -> Tensor:
    shape = _output_size(x, pointwise, up_style)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x, pointwise))


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if t is None else t.data_ptr() for t in tensors]


def _forward(
    x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor, noise: Tensor | None,
    up_style: Tensor | None, slope: float, keep: bool, brief: bool,
) -> Tensor:  # fmt: skip
    if not _taken(x, pointwise) or x.numel() == 0:
        if x.is_cpu:
            return _reference(x, style, depthwise, pointwise, bias, noise, up_style, slope)
        u = _convolved(x, style, depthwise, pointwise, up_style).contiguous(memory_format=_layout(x, pointwise))
        return epilogue(u, bias, noise=noise, act="lrelu", alpha=slope, gain=1.0)  # one pass
    x = x.contiguous(memory_format=torch.channels_last)
    style, depthwise, bias, noise, up_style = (
        None if t is None else t.contiguous() for t in (style, depthwise, bias, noise, up_style)
    )
    n, c_out, h, w = shape = _output_size(x, pointwise, up_style)
    out = workspace.take(shape) if brief else empty(shape)
    u = packed(pointwise, False, keep)
    pointers = _addresses(out, x, up_style, style, depthwise, u, bias, noise)
    noise_step = 0 if noise is None or noise.shape[0] == 1 else h * w
    params = _PARAMS.pack(*pointers, n, pointwise.shape[1], c_out, h, w, noise_step, slope)
    library.launch("separable", out, params)
    return out


def _grad(
    dy: Tensor, y: Tensor, x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, noise: Tensor | None,
    up_style: Tensor | None, slope: float, keep: bool, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Seven gradients; those not wanted are empty, but the kernel may have made one on the way to another."""
    if not _taken(x, pointwise) or x.numel() == 0:
        found = _reference_grad(dy, y, x, style, depthwise, pointwise, noise, up_style, slope, wanted)
        return tuple(
            x.new_empty(0) if not want else d.contiguous(memory_format=_layout(x, pointwise)) if d.ndim == 4 else d
            for d, want in zip(found, wanted)
        )
    dy, y, x = (t.contiguous(memory_format=torch.channels_last) for t in (dy, y, x))
    style, depthwise, up_style = (None if t is None else t.contiguous() for t in (style, depthwise, up_style))
    n, c_out, h, w = y.shape
    c_in, parts = pointwise.shape[1], torch.get_num_threads()
    for_x, for_style, for_depthwise, for_pointwise, for_bias, for_noise, for_up = wanted
    through_x = for_x or for_up or (for_style and not for_depthwise)  # the sums by the styles are made on the way
    dx = workspace.take(x.shape) if through_x else None
    d_style = torch.empty_like(style) if for_style else None
    d_depthwise = torch.empty_like(depthwise) if for_depthwise else None
    d_pointwise = torch.empty_like(pointwise, memory_format=torch.contiguous_format) if for_pointwise else None
    d_bias = x.new_empty(c_out) if for_bias else None
    d_noise = x.new_empty(n, 1, h, w) if for_noise else None
    d_up = torch.empty_like(up_style) if for_up else None
    u = packed(pointwise, True, keep) if through_x or for_depthwise else None
    sums = x.new_empty(parts, 14 * n * c_in + c_out)  # toon_separable_sums
    pointwise_parts = workspace.numbers((parts - 1) * pointwise.numel()) if for_pointwise and parts > 1 else None
    results = (dx, d_up, d_style, d_depthwise, d_pointwise, d_bias, d_noise)
    pointers = _addresses(*results, sums, pointwise_parts, dy, y, x, up_style, style, depthwise, u)
    library.launch("separable_grad", y, _GRAD_PARAMS.pack(*pointers, n, c_in, c_out, h, w, parts, slope))
    if for_noise:
        d_noise = _like_noise(d_noise, noise)
    results = (dx if for_x else None, d_style, d_depthwise, d_pointwise, d_bias, d_noise, d_up)
    return tuple(x.new_empty(0) if d is None else d for d in results)


def _fake_grad(
    dy, y, x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, noise, up_style, slope, keep,
    wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    layout = _layout(x, pointwise)
    tensors = (x, style, depthwise, pointwise, x.new_empty(pointwise.shape[0]), noise, up_style)
    plain = _taken(x, pointwise)  # small gradients are contiguous then
    return tuple(
        torch.empty(
            t.shape if want else 0,
            dtype=x.dtype,
            device=x.device,
            memory_format=layout if want and t.ndim == 4 and (t is x or not plain) else torch.contiguous_format,
        )
        for t, want in zip(tensors, wanted)
    )


# ---------------------------------------------------------------- autograd


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, style, depthwise, pointwise, bias, noise, up_style, slope, keep, brief):
        tensors = (style, depthwise, pointwise, bias, noise, up_style)
        y = library.below_autograd(_LAYER, x, *tensors, slope, keep, False)
        ctx.save_for_backward(y, x, style, depthwise, pointwise, noise, up_style)
        ctx.options = slope, keep
        return y

    @staticmethod
    def backward(ctx, dy):
        wanted = list(ctx.needs_input_grad[:7])
        slope, keep = ctx.options
        if torch.is_grad_enabled():
            found = _reference_grad(dy, *ctx.saved_tensors, slope, wanted)
        else:
            found = _GRAD(dy, *ctx.saved_tensors, slope, keep, wanted)
        return *(d if want else None for d, want in zip(found, wanted)), None, None, None


_OPERANDS = "Tensor x, Tensor style, Tensor depthwise, Tensor pointwise"
# `brief`: the result does not live long, so it may lie in lent memory. Ignored where a gradient is recorded.
_LAYER = library.define(
    f"separable({_OPERANDS}, Tensor bias, Tensor? noise, Tensor? up_style, float slope, bool keep, bool brief)"
    " -> Tensor",
    _forward,
    _empty,
    _Layer,
)
_GRAD = library.define_constant(
    f"separable_grad(Tensor dy, Tensor y, {_OPERANDS}, Tensor? noise, Tensor? up_style, float slope, bool keep,"
    " bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _grad,
    _fake_grad,
)

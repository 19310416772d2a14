"""A whole depthwise-separable layer: one pass over memory forwards, one backwards.

    y = lrelu(pointwise(depthwise3x3(h * style)) + noise + bias),    h = x  or  h = haar_up(x * up_style)

The backward pass keeps x and y, both of which the neighbouring layers keep anyway, and computes the results of the
depthwise convolution and of the Haar transform again. It is one op if it will not be differentiated again; otherwise it
is made of ops that have gradients of their own.

The kernels take float32 on the CPU, with channel counts that are multiples of 16. Otherwise a layer is the Haar
transform of `haar`, torch's convolutions and, on devices other than the CPU, `epilogue`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from . import haar, library, workspace
from .conv3x3 import cached, new_output
from .epilogue import epilogue
from .registration import define, gradient_wanted
from .structs import Separable, SeparableGrad, SeparablePack, address


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
        depthwise: ``[C, 1, 3, 3]``; a 3x3 filter for each channel, correlated with padding 1.
        pointwise: ``[O, C, 1, 1]``.
        bias: ``[O]``.
        noise: ``[H, W]`` or ``[N or 1, 1, H, W]``, or None.
        slope: Slope of the activation below zero; not negative.
        keep: Keep the rearranged ``pointwise`` until it changes or is freed.

    Returns:
        ``[N, O, H, W]``; channels_last where the compiled kernels take it, else the layout of ``x``.

    Raises:
        ValueError: a shape, dtype or device does not fit that of ``x``.

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
    """``separable_layer(haar_up(x * up_style), ...)``, without the upsampled image in memory.

    Args:
        x: ``[N, 4 C, H, W]``.
        up_style: ``[N, 4 C]``.
        style, depthwise, pointwise, bias, noise, slope, keep: as for `separable_layer`, at the size of the result.

    Returns:
        ``[N, O, 2 H, 2 W]``; layout and derivatives as for `separable_layer`.

    Raises:
        ValueError: a shape, dtype or device does not fit that of ``x``.
    """
    return _checked(x, style, depthwise, pointwise, bias, noise, up_style, slope, keep)


def _checked(
    x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor, noise: Tensor | None,
    up_style: Tensor | None, slope: float, keep: bool,
) -> Tensor:  # fmt: skip
    if x.ndim != 4 or not x.is_floating_point() or (up_style is not None and x.shape[1] % 4):
        raise ValueError(f"x is {x.dtype} {list(x.shape)}, but must be floating point [N, C or 4 C, H, W]")
    if slope < 0:
        raise ValueError(f"slope is {slope}, but must not be negative: the sign of the output tells it")
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
    return _LAYER(*tensors, slope, keep, not gradient_wanted(*tensors))


def _taken(x: Tensor, pointwise: Tensor) -> bool:
    """Whether the compiled kernels take a layer."""
    fits = pointwise.shape[0] % 16 == 0 and pointwise.shape[1] % 16 == 0
    return x.dtype == torch.float32 and x.is_cpu and fits and library.usable(x)


def _output_size(x: Tensor, pointwise: Tensor, up_style: Tensor | None) -> tuple[int, int, int, int]:
    factor = 1 if up_style is None else 2
    return x.shape[0], pointwise.shape[0], x.shape[2] * factor, x.shape[3] * factor


def _layout(x: Tensor, pointwise: Tensor) -> torch.memory_format:
    """The memory layout of a result."""
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
    """The gradients by the seven tensors, in the order of `_LAYER`; None where not ``wanted``.

    Differentiable: ``y`` counts only by its sign, so it needs no gradient.
    """
    for_x, for_style, for_depthwise, for_pointwise, for_bias, for_noise, for_up = wanted
    du = torch.where(y > 0, dy, dy * slope)
    dv = F.conv2d(du, pointwise.transpose(0, 1))
    h = _before_style(x, up_style)
    scaled = h * style[:, :, None, None]
    groups = depthwise.shape[0]
    dx = d_style = d_depthwise = d_pointwise = d_bias = d_noise = d_up = None
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
        d_depthwise = conv2d_weight(scaled, depthwise.shape, dv, padding=1, groups=groups)
    if for_pointwise:
        v = F.conv2d(scaled, depthwise, padding=1, groups=groups)
        d_pointwise = (du.flatten(2) @ v.flatten(2).transpose(-1, -2)).sum(0)[:, :, None, None]
    if for_bias:
        d_bias = du.sum((0, 2, 3))
    if for_noise and noise is not None:
        d_noise = _like_noise(du.sum(1, keepdim=True), noise)
    return [dx, d_style, d_depthwise, d_pointwise, d_bias, d_noise, d_up]


def _like_noise(sums: Tensor, noise: Tensor) -> Tensor:
    """Sums over the channels, ``[N, 1, H, W]``, as the gradient by ``noise``."""
    return sums if sums.shape[0] == noise.shape[0] else sums.sum(0, keepdim=True)


# ---------------------------------------------------------------- compiled


def packed(pointwise: Tensor, back: bool, keep: bool) -> Tensor:
    """The matrix ``pointwise`` as the forward kernel reads it, or (``back``) its transpose as the gradient kernel does.

    If not kept, it is valid until the next call in this thread.
    """
    kernels = library.kernels()

    def make() -> Tensor:
        w = pointwise.contiguous()
        o, c = w.shape[:2]
        depth, columns, k_step, column_step = (o, c, c, 1) if back else (c, o, 1, c)
        numel = kernels.toon_separable_packed_cpu(depth, columns)
        u = torch.empty(numel) if keep else workspace.packing_buffer(numel)
        params = SeparablePack(
            u=address(u), w=address(w), depth=depth, columns=columns, k_step=k_step, column_step=column_step
        )
        library.launch("separable_pack", u, params)
        return u

    # Each instruction set has a layout of its own.
    return cached(pointwise, f"separable {back} {kernels.toon_cpu_isa()}", make, keep)


def _empty(
    x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor, noise: Tensor | None,
    up_style: Tensor | None, *_: object,
) -> Tensor:  # fmt: skip
    shape = _output_size(x, pointwise, up_style)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x, pointwise))


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
    style, depthwise, bias = (t.contiguous() for t in (style, depthwise, bias))
    noise, up_style = (None if t is None else t.contiguous() for t in (noise, up_style))
    n, c_out, h, w = shape = _output_size(x, pointwise, up_style)
    out = workspace.empty(shape) if brief else new_output(shape)
    params = Separable(
        out=address(out), x=address(x), up_style=address(up_style), style=address(style), depthwise=address(depthwise),
        u=address(packed(pointwise, False, keep)), b=address(bias), noise=address(noise), n=n, c_in=pointwise.shape[1],
        c_out=c_out, h=h, w=w, noise_step=0 if noise is None or noise.shape[0] == 1 else h * w, slope=slope,
    )  # fmt: skip
    library.launch("separable", out, params)
    return out


def _grad(
    dy: Tensor, y: Tensor, x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, noise: Tensor | None,
    up_style: Tensor | None, slope: float, keep: bool, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The seven gradients; those that are not wanted are empty tensors."""
    if not _taken(x, pointwise) or x.numel() == 0:
        gradients = _reference_grad(dy, y, x, style, depthwise, pointwise, noise, up_style, slope, wanted)
        return tuple(
            x.new_empty(0)
            if d is None or not want
            else d.contiguous(memory_format=_layout(x, pointwise))
            if d.ndim == 4
            else d
            for d, want in zip(gradients, wanted)
        )
    dy, y, x = (t.contiguous(memory_format=torch.channels_last) for t in (dy, y, x))
    style, depthwise = style.contiguous(), depthwise.contiguous()
    up_style = None if up_style is None else up_style.contiguous()
    n, c_out, h, w = y.shape
    c_in, parts = pointwise.shape[1], torch.get_num_threads()
    for_x, for_style, for_depthwise, for_pointwise, for_bias, for_noise, for_up = wanted
    through_x = for_x or for_up or (for_style and not for_depthwise)  # its pass sums up d_style
    dx = workspace.empty(x.shape) if through_x else None
    d_style = torch.empty_like(style) if for_style else None
    d_depthwise = torch.empty_like(depthwise) if for_depthwise else None
    d_pointwise = torch.empty_like(pointwise, memory_format=torch.contiguous_format) if for_pointwise else None
    d_bias = x.new_empty(c_out) if for_bias else None
    d_noise = x.new_empty(n, 1, h, w) if for_noise else None
    d_up = torch.empty_like(up_style) if for_up and up_style is not None else None
    u = packed(pointwise, True, keep) if through_x or for_depthwise else None
    sums = x.new_empty(parts, 14 * n * c_in + c_out)  # toon_separable_sums
    pointwise_parts = workspace.empty_flat((parts - 1) * pointwise.numel()) if for_pointwise and parts > 1 else None
    params = SeparableGrad(
        dx=address(dx), d_up_style=address(d_up), d_style=address(d_style), d_depthwise=address(d_depthwise),
        d_pointwise=address(d_pointwise), d_b=address(d_bias), d_noise=address(d_noise), sums=address(sums),
        pointwise_parts=address(pointwise_parts), dy=address(dy), y=address(y), x=address(x),
        up_style=address(up_style), style=address(style), depthwise=address(depthwise), u=address(u),
        n=n, c_in=c_in, c_out=c_out, h=h, w=w, parts=parts, slope=slope,
    )  # fmt: skip
    library.launch("separable_grad", y, params)
    if d_noise is not None and noise is not None:
        d_noise = _like_noise(d_noise, noise)
    results = (dx if for_x else None, d_style, d_depthwise, d_pointwise, d_bias, d_noise, d_up)
    return tuple(x.new_empty(0) if d is None else d for d in results)


def _fake_grad(
    dy: Tensor, y: Tensor, x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, noise: Tensor | None,
    up_style: Tensor | None, slope: float, keep: bool, wanted: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    layout = _layout(x, pointwise)
    tensors = (x, style, depthwise, pointwise, x.new_empty(pointwise.shape[0]), noise, up_style)
    compiled = _taken(x, pointwise)  # the compiled kernels make all but dx contiguous

    def like(t: Tensor | None, want: bool) -> Tensor:
        if t is None or not want:
            return x.new_empty(0)
        keeps_layout = t.ndim == 4 and (t is x or not compiled)
        return x.new_empty(t.shape).contiguous(memory_format=layout if keeps_layout else torch.contiguous_format)

    return tuple(like(t, want) for t, want in zip(tensors, wanted))


# ---------------------------------------------------------------- autograd


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, style, depthwise, pointwise, _, noise, up_style, *options, _ = inputs
    ctx.save_for_backward(output, x, style, depthwise, pointwise, noise, up_style)
    ctx.options = options


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:7])
    slope, keep = ctx.options
    y, x, style, depthwise, pointwise, noise, up_style = ctx.saved_tensors
    if torch.is_grad_enabled():
        gradients = _reference_grad(dy, y, x, style, depthwise, pointwise, noise, up_style, slope, wanted)
    else:
        gradients = _GRAD(dy, y, x, style, depthwise, pointwise, noise, up_style, slope, keep, wanted)
    return *(d if want else None for d, want in zip(gradients, wanted)), None, None, None


_OPERANDS = "Tensor x, Tensor style, Tensor depthwise, Tensor pointwise"
# `brief`: the result is not kept for a backward pass, so it may lie in the workspace.
_LAYER = define(
    f"separable({_OPERANDS}, Tensor bias, Tensor? noise, Tensor? up_style, float slope, bool keep, bool brief)"
    " -> Tensor",
    _forward,
    _empty,
    setup_context=_setup,
    backward=_backward,
)
_GRAD = define(
    f"separable_grad(Tensor dy, Tensor y, {_OPERANDS}, Tensor? noise, Tensor? up_style, float slope, bool keep,"
    " bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _grad,
    _fake_grad,
)

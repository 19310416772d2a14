"""What a synthesis layer does after its convolution, in one pass over memory.

    y = clamp(gain * act(v * scale + noise + b)),    v = fir(x)

v is x after the FIR filter of an upsampling layer (or x itself), and ``scale`` is the demodulation. Done separately,
these are five passes: filter, scale, noise, bias and activation.

The backward pass keeps y, which the next layer keeps anyway, and neither x nor v. For linear, relu and lrelu,
y = m * u with a slope m that follows from the sign of y; so the gradient by the scale, the sum of du * v, is that of
(dy * y - du * (noise + b)) / scale. One pass over dy and y gives du * scale, from which the flipped filter makes the
gradient by x, and all the sums. It is an op itself, ``epilogue_grad``, and differentiable, for path length
regularisation.

Half types are computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import library, workspace
from .bias_act import ACTIVATIONS, bias_act
from .registration import define, define_out, refuse_gradient
from .structs import Epilogue, EpilogueGrad, address
from .upfirdn2d import MAX_TAPS, padding_of, upfirdn2d

_BELOW = {"linear": 1.0, "relu": 0.0}  # slope below zero of the piecewise linear activations; lrelu: alpha


def epilogue(
    x: Tensor,
    b: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    f: Tensor | None = None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    fir_gain: float = 1.0,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Filter, scale, add noise and bias, activate, amplify and clamp.

    ``upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=fir_gain)``, times ``scale``, plus ``noise``,
    through ``bias_act(..., b, act=act, alpha=alpha, gain=gain, clamp=clamp)``. One pass for linear, relu and lrelu;
    two for the other activations.

    Args:
        x: [N, C, H, W], floating point; contiguous and channels_last memory are kept as they are.
        b: Bias [C], or None.
        scale: [N, C], the demodulation, or None. Its gradient is computed from the result and divided by the scale,
            so it is NaN where the scale is 0.
        noise: [N, 1, H', W'], or [1, 1, H', W'] or [H', W'] for the same noise in every image; or None.
        f: [taps] (both axes) or [height, width], up to 32 taps an axis, a constant; None = no filter.
        padding: int, [x, y] or [x0, x1, y0, y1]; negative crops. Only with a filter.
        flip_filter, fir_gain: ``flip_filter`` and ``gain`` of ``upfirdn2d``.
        act, alpha, gain, clamp: as in ``bias_act``.
        out: Where to write the result: its shape, dtype and layout; without a filter also ``x`` itself, to work in
            place. Only where no gradient is recorded.

    Returns:
        ``out``, or [N, C, H', W'] = [N, C, H + y0 + y1 - height + 1, likewise W], dtype and layout of ``x``. Twice
        differentiable by ``x``, ``scale``, ``noise`` and ``b``; these last three are used in float32 (float64 for
        float64 ``x``).

    Raises:
        ValueError: arguments of the wrong kind or shape, an image smaller than the filter, an ``out`` that does not
            fit the result, overlaps an input or would have to be recorded for a gradient.

    Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", figure 2 (c) and (d).
    """
    spec = ACTIVATIONS.get(act)
    if spec is None:
        raise ValueError(f"unknown activation {act!r}: choose from {', '.join(ACTIVATIONS)}")
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {list(x.shape)}, but must be floating point [N, C, H, W]")
    alpha = spec.default_alpha if alpha is None else float(alpha)
    if alpha < 0:
        raise ValueError(f"alpha is {alpha}, but must not be negative: the sign of the output tells the slope")
    gain = spec.default_gain if gain is None else float(gain)
    clamp = -1.0 if clamp is None else float(clamp)
    dtype = library.compute_dtype(x.dtype)
    pad = padding_of(padding)
    if f is None and pad != [0, 0, 0, 0]:
        raise ValueError(f"padding is {pad}, but there is no filter")
    if f is not None:
        if f.ndim not in (1, 2) or not 1 <= f.shape[0] <= MAX_TAPS or not 1 <= f.shape[-1] <= MAX_TAPS:
            raise ValueError(f"f is {list(f.shape)}, but must be [taps] or [height, width] with 1 to {MAX_TAPS} taps")
        if f.requires_grad:
            raise ValueError("f requires a gradient, but the filter is a constant: detach it")
        f = f.to(dtype)
    n, c, h, w = _output_size(x, f, pad)
    if h < 1 or w < 1:
        raise ValueError(f"the padded image is smaller than the filter: x is {list(x.shape)}, padding {pad}")
    if noise is not None and noise.ndim == 2:
        noise = noise[None, None]
    for name, operand, shapes in (
        ("b", b, [(c,)]), ("scale", scale, [(n, c)]), ("noise", noise, [(n, 1, h, w), (1, 1, h, w)])
    ):  # fmt: skip
        if operand is not None and tuple(operand.shape) not in shapes:
            raise ValueError(f"{name} is {list(operand.shape)}, but must be {list(shapes[0])}")
    b, scale, noise = (None if t is None else t.to(dtype) for t in (b, scale, noise))
    if act not in ("linear", "relu", "lrelu"):
        u = _before_bias(x, f, scale, noise, pad, flip_filter, float(fir_gain))
        y = bias_act(u, b, act=act, alpha=alpha, gain=gain, clamp=clamp).to(x.dtype)
        return y if out is None else _copy_out(y, x, f, scale, noise, b, pad, out=out)
    arguments = (x, f, scale, noise, b, pad, flip_filter, float(fir_gain), _BELOW.get(act, alpha), gain, clamp)
    if library.reference_wanted():
        y = _reference(*arguments)
        return y if out is None else _copy_out(y, *arguments, out=out)
    if out is None:
        return _EPILOGUE(*arguments)
    _EPILOGUE_OUT(*arguments, out=out)
    return out


def _output_size(x: Tensor, f: Tensor | None, padding: list[int]) -> tuple[int, int, int, int]:
    n, c, h, w = x.shape
    if f is None:
        return n, c, h, w
    return n, c, h + padding[2] + padding[3] - f.shape[0] + 1, w + padding[0] + padding[1] - f.shape[-1] + 1


def _empty_output(
    x: Tensor, f: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, padding: list[int],
    *_: object,
) -> Tensor:  # fmt: skip
    layout = torch.channels_last if library.is_channels_last(x) else torch.contiguous_format
    return torch.empty(_output_size(x, f, padding), dtype=x.dtype, device=x.device, memory_format=layout)


def _check_out(
    x: Tensor, f: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, padding: list[int],
    *_: object, out: Tensor,
) -> None:  # fmt: skip
    library.check_out(out, library.dense(x), _output_size(x, f, padding))


def _copy_out(
    y: Tensor, x: Tensor, f: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, *options: Any,
    out: Tensor,
) -> Tensor:  # fmt: skip
    refuse_gradient(x, scale, noise, b, out)
    _check_out(x, f, scale, noise, b, *options, out=out)
    return out.copy_(y)


# ---------------------------------------------------------------- reference


def _before_bias(
    x: Tensor, f: Tensor | None, scale: Tensor | None, noise: Tensor | None,
    padding: list[int], flip_filter: bool, fir_gain: float,
) -> Tensor:  # fmt: skip
    u = x.to(library.compute_dtype(x.dtype))
    if f is not None:
        u = upfirdn2d(u, f, padding=padding, flip_filter=flip_filter, gain=fir_gain)
    if scale is not None:
        u = u * scale[:, :, None, None]
    return u if noise is None else u + noise


def _reference(
    x: Tensor, f: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None,
    padding: list[int], flip_filter: bool, fir_gain: float, alpha: float, gain: float, clamp: float,
) -> Tensor:  # fmt: skip
    u = _before_bias(x, f, scale, noise, padding, flip_filter, fir_gain)
    if b is not None:
        u = u + b[:, None, None]
    y = (F.leaky_relu(u, alpha) if alpha > 0 else F.relu(u)) * gain
    if clamp >= 0:
        y = y.clamp(-clamp, clamp)
    layout = torch.channels_last if library.is_channels_last(x) else torch.contiguous_format
    return y.to(x.dtype).contiguous(memory_format=layout)


def _reference_grad(
    dy: Tensor, y: Tensor, scale: Tensor | None, noise: Tensor | None, alpha: float, gain: float, clamp: float
) -> tuple[Tensor, Tensor, Tensor]:
    flow, result = (t.to(library.compute_dtype(y.dtype)) for t in (dy, y))
    if clamp >= 0:
        limit = torch.tensor(clamp, dtype=y.dtype).item()  # rounded as y is
        flow = torch.where(result.abs() >= limit, 0.0, flow)
    du = torch.where(result * gain > 0, flow, flow * alpha) * gain
    du_v = flow * result if noise is None else flow * result - du * noise
    out = du if scale is None else du * scale[:, :, None, None]
    return out.to(y.dtype), torch.stack([du.sum((2, 3)), du_v.sum((2, 3))]), du.sum(1, keepdim=True)


# ---------------------------------------------------------------- compiled


def _checked(name: str, operand: Tensor | None, x: Tensor, sizes: Sequence[int]) -> int | None:
    """The address of a small operand of ``x``. Raises ValueError if it is not what a kernel expects."""
    if operand is None:
        return None
    library.check_operand(name, operand, x.device, library.compute_dtype(x.dtype))
    if operand.numel() not in sizes or not operand.is_contiguous():
        raise ValueError(f"{name} is {list(operand.shape)}, which does not fit {list(x.shape)}")
    return operand.data_ptr()


def _forward(
    x: Tensor, f: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None,
    padding: list[int], flip_filter: bool, fir_gain: float, alpha: float, gain: float, clamp: float,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    x = library.dense(x)
    if not library.usable(x) or x.shape[2] == 0 or x.shape[3] == 0:
        y = _reference(x, f, scale, noise, b, padding, flip_filter, fir_gain, alpha, gain, clamp)
        return y if out is None else out.copy_(y)
    if out is None:
        out = workspace.reused(_empty_output(x, f, scale, noise, b, padding))
    if out.numel() == 0:
        return out
    if f is not None and f.ndim == 1 and x.is_cuda:
        f = f.outer(f)
    f, scale, noise, b = (None if t is None else t.contiguous() for t in (f, scale, noise, b))
    n, c, h, w = out.shape
    f_h, f_w = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    params = Epilogue(
        out=address(out), x=address(x), f=_checked("f", f, x, [0 if f is None else f.numel()]),
        scale=_checked("scale", scale, x, [n * c]), noise=_checked("noise", noise, x, [n * h * w, h * w]),
        b=_checked("b", b, x, [c]),
        n=n, c=c, in_h=x.shape[2], in_w=x.shape[3], out_h=h, out_w=w, f_h=f_h, f_w=f_w,
        pad_x0=padding[0], pad_y0=padding[2], flip=flip_filter, separable=f is not None and f.ndim == 1,
        shared_noise=noise is not None and noise.shape[0] == 1, channels_last=library.is_channels_last(x),
        dtype=library.DTYPES[x.dtype], fir_gain=fir_gain, alpha=alpha, gain=gain, clamp=clamp,
    )  # fmt: skip
    library.launch("epilogue", out, params)
    return out


def _forward_out(
    x: Tensor, f: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, *options: Any,
    out: Tensor,
) -> None:  # fmt: skip
    _check_out(x, f, scale, noise, b, *options, out=out)
    x = library.dense(x)
    in_place = f is None and out.data_ptr() == x.data_ptr()
    library.check_apart(out, f, scale, noise, b, None if in_place else x)
    _forward(x, f, scale, noise, b, *options, out=out)


def _parts(y: Tensor, cuda: bool) -> tuple[int, int]:
    """(pixels, channels) in a partial sum of the gradient kernel: csrc/epilogue.cpp, csrc/epilogue_grad.cu."""
    channels_last, channels, pack = library.is_channels_last(y), y.shape[1], 16 // y.element_size()
    if not cuda:
        return 128 if channels_last else 2048, channels
    if not channels_last:
        return 32 * pack, 32
    lanes = 1
    while lanes < 32 and lanes * pack < channels:
        lanes *= 2
    return 128, lanes * pack


def gradient(
    dy: Tensor, y: Tensor, scale: Tensor | None, noise: Tensor | None, alpha: float, gain: float, clamp: float,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The results of ToonEpilogueGrad (csrc/api.h) with their partial sums added up.

    Returns:
        ``du * scale``, in ``out`` if given, which may be ``dy``; the channel sums [2, N, C]; the pixel sums
        [N, 1, H, W].
    """
    y = library.dense(y)
    dy = library.same_layout(dy, y)
    library.check_operand("dy", dy, y.device, y.dtype)
    if not library.usable(y) or y.numel() == 0:
        return _reference_grad(dy, y, scale, noise, alpha, gain, clamp)
    n, c, h, w = y.shape
    pixels = h * w
    chunk, group = _parts(y, y.is_cuda)
    dtype = library.compute_dtype(y.dtype)
    out = workspace.reused(torch.empty_like(y)) if out is None else out
    channel_sums = torch.empty([2, n, -(-pixels // chunk), c], dtype=dtype, device=y.device)
    pixel_sums = torch.empty([-(-c // group), n, 1, h, w], dtype=dtype, device=y.device)
    scale, noise = (None if t is None else t.contiguous() for t in (scale, noise))
    params = EpilogueGrad(
        out=address(out), channel_sums=address(channel_sums), pixel_sums=address(pixel_sums),
        dy=address(dy), y=address(y), scale=_checked("scale", scale, y, [n * c]),
        noise=_checked("noise", noise, y, [n * pixels, pixels]), n=n, c=c, pixels=pixels, chunk=chunk, group=group,
        shared_noise=noise is not None and noise.shape[0] == 1, channels_last=library.is_channels_last(y),
        dtype=library.DTYPES[y.dtype], alpha=alpha, gain=gain, clamp=clamp,
    )  # fmt: skip
    library.launch("epilogue_grad", out, params)
    return out, channel_sums.sum(2), pixel_sums.sum(0)


# ---------------------------------------------------------------- autograd


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, f, scale, noise, b, *ctx.options = inputs
    ctx.size = x.shape[2:]
    ctx.save_for_backward(output, f, scale, noise, b)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    y, f, scale, noise, b = ctx.saved_tensors
    padding, flip_filter, fir_gain, *pointwise = ctx.options
    dv, channel_sums, pixel_sums = _EPILOGUE_GRAD(dy, y, scale, noise, *pointwise)
    dx = None
    if ctx.needs_input_grad[0]:
        dx = dv if f is None else _to_input(dv, f, padding, flip_filter, fir_gain, ctx.size)
    small = small_gradients(channel_sums, pixel_sums, scale, noise, b, ctx.needs_input_grad[2:5])
    return dx, None, *small, None, None, None, None, None, None


def small_gradients(
    channel_sums: Tensor, pixel_sums: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients by scale, noise and b, from the sums of `gradient`; None where not ``wanted``."""
    du, du_v = channel_sums.unbind(0)  # [N, C], sums over the pixels: of du, and of du * (u - noise)
    d_scale = d_noise = d_b = None
    if wanted[0] and scale is not None:
        d_scale = (du_v if b is None else du_v - du * b) / scale
    if wanted[1] and noise is not None and pixel_sums is not None:
        d_noise = pixel_sums if noise.shape[0] == pixel_sums.shape[0] else pixel_sums.sum(0, keepdim=True)
    if wanted[2]:
        d_b = du.sum(0)
    return d_scale, d_noise, d_b


def _to_input(
    dv: Tensor, f: Tensor, padding: list[int], flip_filter: bool, fir_gain: float, size: Sequence[int]
) -> Tensor:
    """The adjoint of the filter: the flipped filter, padded so that the result has ``size``."""
    x0, y0 = f.shape[-1] - 1 - padding[0], f.shape[0] - 1 - padding[2]
    x1, y1 = size[1] - dv.shape[3] + padding[0], size[0] - dv.shape[2] + padding[2]
    return upfirdn2d(dv, f, padding=[x0, x1, y0, y1], flip_filter=not flip_filter, gain=fir_gain)


def _setup_grad(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, alpha, gain, clamp = inputs
    ctx.options = alpha, gain, clamp
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward_grad(
    ctx: Any, to_dv: Tensor | None, to_channel_sums: Tensor | None, to_pixel_sums: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The three results are linear in dy. With the slope m, and k = 0 where the clamp limits, else 1, they are

    m dy scale,    sums over pixels of m dy and of k dy y - m dy noise,    sums over channels of m dy;

    m and k are constant almost everywhere.
    """
    dy, y, scale, noise = ctx.saved_tensors
    alpha, gain, clamp = ctx.options

    def sloped(flow: Tensor) -> Tensor:  # m flow
        return _BIAS_ACT_GRAD(flow.to(y.dtype), y, None, 1, "lrelu", alpha, gain, clamp)

    def clipped(flow: Tensor) -> Tensor:  # k flow
        return flow if clamp < 0 else _BIAS_ACT_GRAD(flow.to(y.dtype), y, None, 1, "linear", 0.0, 1.0, clamp)

    to_sums, to_moments = (None, None) if to_channel_sums is None else to_channel_sums[..., None, None].unbind(0)
    along_m = to_pixel_sums
    if to_dv is not None:
        term = to_dv if scale is None else to_dv * scale[:, :, None, None]
        along_m = term if along_m is None else along_m + term
    if to_sums is not None:
        term = to_sums if noise is None else to_sums - to_moments * noise
        along_m = term if along_m is None else along_m + term
    d_dy = d_y = d_scale = d_noise = None
    if along_m is not None:
        d_dy = sloped(along_m.expand_as(y))
    if to_moments is not None:
        assert d_dy is not None  # to_sums, which comes with to_moments, has set it
        d_dy = d_dy + clipped(to_moments * y)
        d_y = clipped(to_moments * dy).to(y.dtype)
        if ctx.needs_input_grad[3] and noise is not None:
            d_noise = -(sloped(dy) * to_moments).sum(1, keepdim=True)
            d_noise = d_noise if noise.shape[0] == y.shape[0] else d_noise.sum(0, keepdim=True)
    if to_dv is not None and scale is not None and ctx.needs_input_grad[2]:
        d_scale = (sloped(dy) * to_dv).sum((2, 3), dtype=scale.dtype)
    return d_dy, d_y, d_scale, d_noise, None, None, None


def _empty_grad(dy: Tensor, y: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    y = library.dense(y)
    n, c, h, w = y.shape
    sums = y.new_empty([2, n, c], dtype=library.compute_dtype(y.dtype))
    return torch.empty_like(y), sums, sums.new_empty([n, 1, h, w])


_BIAS_ACT_GRAD = torch.ops.stylegan_toon.bias_act_grad.default
_OPERANDS = (
    "Tensor x, Tensor? f, Tensor? scale, Tensor? noise, Tensor? b, SymInt[] padding, bool flip_filter,"
    " float fir_gain, float alpha, float gain, float clamp"
)
_EPILOGUE = define(
    f"epilogue({_OPERANDS}) -> Tensor", _forward, _empty_output, setup_context=_setup, backward=_backward
)
_EPILOGUE_OUT = define_out(f"epilogue_out({_OPERANDS}, *, Tensor(a!) out) -> ()", _forward_out, _check_out)
_EPILOGUE_GRAD = define(
    "epilogue_grad(Tensor dy, Tensor y, Tensor? scale, Tensor? noise, float alpha, float gain, float clamp)"
    " -> (Tensor, Tensor, Tensor)",
    gradient,
    _empty_grad,
    setup_context=_setup_grad,
    backward=_backward_grad,
)

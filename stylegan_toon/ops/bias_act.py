"""Bias, activation, gain and clamp in one pass over memory (StyleGAN2-ADA's fused layer epilogue).

    y = clamp(gain * act(x + b))

Its slope dy/dx is a function of y alone (of x + b for swish, which is not monotonic). So the backward pass keeps only
y, which the next layer keeps anyway. It is an op itself, ``bias_act_grad``, and ``bias_act_grad2`` is the derivative of
that op by the tensor that tells the slope: R1 and path length regularisation, which differentiate twice, need no more.

Half types are computed in float32 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import library, workspace
from .registration import define, define_out, refuse_gradient
from .structs import BiasAct, address


def _elu_slope_derivative(t: Tensor, alpha: float) -> Tensor:
    """slope' of elu and selu: their slope below zero is t plus a constant."""
    return torch.where(t > 0, 0.0, torch.ones_like(t))


@dataclass(frozen=True)
class Activation:
    """An activation and its derivatives, each taking (tensor, alpha).

    ``slope`` = act' and ``slope_derivative`` = slope' take the output t = act(u), or the input u if ``from_input``;
    ``slope_derivative`` is None for piecewise linear activations.
    """

    func: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]
    slope_derivative: Callable[[Tensor, float], Tensor] | None
    default_alpha: float = 0.0
    default_gain: float = 1.0
    from_input: bool = False


def _swish_slope(u: Tensor, alpha: float) -> Tensor:
    s = torch.sigmoid(u)
    return s * (1 + u * (1 - s))


def _swish_slope_derivative(u: Tensor, alpha: float) -> Tensor:
    s = torch.sigmoid(u)
    return s * (1 - s) * (2 + u * (1 - 2 * s))


_SQRT2 = math.sqrt(2.0)
_SELU_SCALE = 1.0507009873554804934193349852946  # Klambauer et al. 2017
_SELU_SCALE_ALPHA = _SELU_SCALE * 1.6732632423543772848170429916717

# In the order of enum ToonActivation in csrc/api.h.
ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda u, a: u, lambda t, a: torch.ones_like(t), None),
    "relu": Activation(lambda u, a: F.relu(u), lambda t, a: (t > 0).to(t.dtype), None, 0.0, _SQRT2),
    "lrelu": Activation(
        lambda u, a: F.leaky_relu(u, a), lambda t, a: torch.where(t > 0, torch.ones_like(t), a), None, 0.2, _SQRT2
    ),
    "tanh": Activation(lambda u, a: torch.tanh(u), lambda t, a: 1 - t * t, lambda t, a: -2 * t),
    "sigmoid": Activation(lambda u, a: torch.sigmoid(u), lambda t, a: t * (1 - t), lambda t, a: 1 - 2 * t),
    "elu": Activation(lambda u, a: F.elu(u), lambda t, a: torch.where(t > 0, 1.0, t + 1), _elu_slope_derivative),
    "selu": Activation(
        lambda u, a: F.selu(u),
        lambda t, a: torch.where(t > 0, _SELU_SCALE, t + _SELU_SCALE_ALPHA),
        _elu_slope_derivative,
    ),
    "softplus": Activation(
        lambda u, a: F.relu(u) + torch.log1p(torch.exp(-u.abs())),
        lambda t, a: -torch.expm1(-t),
        lambda t, a: torch.exp(-t),
    ),
    "swish": Activation(
        lambda u, a: u * torch.sigmoid(u), _swish_slope, _swish_slope_derivative, 0.0, _SQRT2, from_input=True
    ),
}
_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Add a bias, apply an activation, scale and clamp: ``clamp(gain * act(x + b))``.

    Args:
        x: Any shape, floating point; contiguous and channels_last memory are kept as they are.
        b: Bias [x.shape[dim]], or None. Used in float32 (float64 for float64 ``x``), whatever its dtype.
        dim: The dimension of ``x`` that the bias runs along.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: Slope below zero of lrelu, >= 0 (default 0.2); the other activations have no parameter.
        gain: Factor on the activation; by default sqrt(2) for relu, lrelu and swish, else 1.
        clamp: Limit the result to [-clamp, clamp]; None or a negative number: no limit.
        out: Where to write the result, of the shape, dtype and layout of ``x``; ``x`` itself to work in place. Only
            where no gradient is recorded. Writing to memory that is in use already is several times faster than to
            new memory.

    Returns:
        ``out``, or a tensor of the shape, dtype and memory layout of ``x``; ``x`` itself if there is nothing to do.
        Twice differentiable by ``x`` and ``b``. Where the clamp limits, the gradient is zero.

    Raises:
        ValueError: unknown activation, negative alpha, a bias that does not fit ``x``, an ``out`` that does not fit
            the result, overlaps ``x`` in part or would have to be recorded for a gradient.

    Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (its layers).
    """
    spec = ACTIVATIONS.get(act)
    if spec is None:
        raise ValueError(f"unknown activation {act!r}: choose from {', '.join(ACTIVATIONS)}")
    alpha = spec.default_alpha if alpha is None else float(alpha)
    gain = spec.default_gain if gain is None else float(gain)
    clamp = -1.0 if clamp is None else float(clamp)
    if alpha < 0:
        raise ValueError(f"alpha is {alpha}, but must not be negative: the sign of the output tells the slope")
    if not x.is_floating_point():
        raise ValueError(f"x is {x.dtype}, but must be floating point")
    if b is not None:
        if b.ndim != 1 or not -x.ndim <= dim < x.ndim or b.shape[0] != x.shape[dim]:
            raise ValueError(f"bias of shape {tuple(b.shape)} does not fit dimension {dim} of x {tuple(x.shape)}")
        b = b.to(library.compute_dtype(x.dtype))
        dim %= x.ndim
    elif act == "linear" and gain == 1 and clamp < 0 and out is None:
        return x
    arguments = (x, b, dim, act, alpha, gain, clamp)
    if library.reference_wanted():
        return _reference(*arguments) if out is None else _reference_out(*arguments, out=out)
    if out is None:
        return _BIAS_ACT(*arguments)
    _BIAS_ACT_OUT(*arguments, out=out)
    return out


# ---------------------------------------------------------------- reference


def _biased(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    x = x.to(library.compute_dtype(x.dtype))
    return x if b is None else x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])


def _reference(x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    y = ACTIVATIONS[act].func(_biased(x, b, dim), alpha)
    if gain != 1:
        y = y * gain
    if clamp >= 0:
        y = y.clamp(-clamp, clamp)
    return y.to(x.dtype)


def _reference_out(x: Tensor, b: Tensor | None, *options, out: Tensor) -> Tensor:
    refuse_gradient(x, b, out)
    _check_out(x, b, *options, out=out)
    return out.copy_(_reference(x, b, *options))


def _reference_grad(
    order: int, ddx: Tensor | None, dy: Tensor, ref: Tensor, b: Tensor | None,
    dim: int, act: str, alpha: float, gain: float, clamp: float,
) -> Tensor:  # fmt: skip
    spec = ACTIVATIONS[act]
    flow = dy.to(library.compute_dtype(dy.dtype))
    if ddx is not None:
        flow = flow * ddx.to(flow.dtype)
    if spec.from_input:
        r = _biased(ref, b, dim)
        y = gain * spec.func(r, alpha)
    else:
        y = ref.to(flow.dtype)
        r = y / gain if gain != 0 else torch.zeros_like(y)
    if order == 1:
        flow = flow * spec.slope(r, alpha) * gain
    elif spec.slope_derivative is None:
        flow = torch.zeros_like(flow)
    else:
        flow = flow * spec.slope_derivative(r, alpha) * (gain if spec.from_input else 1.0)
    if clamp >= 0:
        limit = torch.tensor(clamp, dtype=ref.dtype).item()  # rounded as y is
        flow = torch.where(y.abs() >= limit, 0.0, flow)
    return flow.to(dy.dtype)


# ---------------------------------------------------------------- compiled


def _compiled(
    order: int, ddx: Tensor | None, dy: Tensor | None, ref: Tensor, b: Tensor | None,
    dim: int, act: str, alpha: float, gain: float, clamp: float, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    out = workspace.reused(torch.empty_like(ref)) if out is None else out
    numel = ref.numel()
    if numel == 0:
        return out
    size, step = 1, numel
    if b is not None:
        library.check_operand("b", b, ref.device, library.compute_dtype(ref.dtype))
        b = b.contiguous()
        if b.numel() > 1:
            size, step = b.numel(), ref.stride(dim)
    params = BiasAct(
        out=address(out), ref=address(ref), b=address(b), dy=address(dy), ddx=address(ddx),
        numel=numel, size_b=size, step_b=step, dtype=library.DTYPES[ref.dtype], act=_CODES[act], order=order,
        alpha=alpha, gain=gain, clamp=clamp,
    )  # fmt: skip
    library.launch("bias_act", out, params)
    return out


def _forward(x: Tensor, b: Tensor | None, *options) -> Tensor:
    x = library.dense(x)
    if library.usable(x):
        return _compiled(0, None, None, x, b, *options)
    y = _reference(x, b, *options)
    return y.clone() if y is x else y  # an op must not return its input


def _check_out(x: Tensor, b: Tensor | None, *_: object, out: Tensor) -> None:
    library.check_out(out, library.dense(x), x.shape)


def _forward_out(x: Tensor, b: Tensor | None, *options, out: Tensor) -> None:
    _check_out(x, b, out=out)
    x = library.dense(x)
    library.check_apart(out, b, None if out.data_ptr() == x.data_ptr() else x)
    if library.usable(x):
        _compiled(0, None, None, x, b, *options, out=out)
    else:
        out.copy_(_reference(x, b, *options))


def _grad(dy: Tensor, ref: Tensor, b: Tensor | None, *options) -> Tensor:
    return _slope_op(1, None, dy, ref, b, *options)


def _grad2(ddx: Tensor, dy: Tensor, ref: Tensor, b: Tensor | None, *options) -> Tensor:
    return _slope_op(2, ddx, dy, ref, b, *options)


def _slope_op(order: int, ddx: Tensor | None, dy: Tensor, ref: Tensor, b: Tensor | None, *options) -> Tensor:
    ref = library.dense(ref)
    dy = library.same_layout(dy, ref)
    library.check_operand("dy", dy, ref.device, ref.dtype)
    if ddx is not None:
        ddx = library.same_layout(ddx, ref)
        library.check_operand("ddx", ddx, ref.device, ref.dtype)
    return (_compiled if library.usable(ref) else _reference_grad)(order, ddx, dy, ref, b, *options)


# ---------------------------------------------------------------- autograd


def _sum_to_bias(dx: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    others = [i for i in range(dx.ndim) if i != dim]
    return dx.sum(others, dtype=dtype) if others else dx.to(dtype)


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, b, *ctx.options = inputs
    _, act, _, _, clamp = ctx.options
    ctx.bias_dtype = None if b is None else b.dtype
    if ACTIVATIONS[act].from_input:
        ctx.save_for_backward(x, b)
    elif act == "linear" and clamp < 0:
        ctx.save_for_backward(None, None)  # the slope is the gain
    else:
        ctx.save_for_backward(output, None)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    ref, b = ctx.saved_tensors
    dim, _, _, gain, _ = ctx.options
    if ref is not None:
        dx = _BIAS_ACT_GRAD(dy, ref, b, *ctx.options)
    else:
        dx = dy if gain == 1 else dy * gain
    db = _sum_to_bias(dx, dim, ctx.bias_dtype) if ctx.needs_input_grad[1] else None
    return dx, db, None, None, None, None, None


def _setup_grad(ctx: Any, inputs: tuple, output: Tensor) -> None:
    dy, ref, b, *ctx.options = inputs
    ctx.curved = ACTIVATIONS[ctx.options[1]].slope_derivative is not None
    ctx.save_for_backward(dy if ctx.curved else None, ref, b)


def _backward_grad(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    dy, ref, b = ctx.saved_tensors
    d_dy = _BIAS_ACT_GRAD(ddx, ref, b, *ctx.options) if ctx.needs_input_grad[0] else None
    d_ref = d_b = None
    if ctx.curved and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        d_ref = _BIAS_ACT_GRAD2(ddx, dy, ref, b, *ctx.options)
        if ctx.needs_input_grad[2]:
            d_b = _sum_to_bias(d_ref, ctx.options[0], b.dtype)
    return d_dy, d_ref, d_b, None, None, None, None, None


def _backward_grad2(ctx: Any, *_: Tensor) -> None:
    raise NotImplementedError("bias_act can be differentiated twice, not three times")


_OPTIONS = "Tensor? b, int dim, str act, float alpha, float gain, float clamp"
_BIAS_ACT = define(
    f"bias_act(Tensor x, {_OPTIONS}) -> Tensor",
    _forward,
    lambda x, *_: torch.empty_like(library.dense(x)),
    setup_context=_setup,
    backward=_backward,
)
_BIAS_ACT_OUT = define_out(f"bias_act_out(Tensor x, {_OPTIONS}, *, Tensor(a!) out) -> ()", _forward_out, _check_out)
_BIAS_ACT_GRAD = define(
    f"bias_act_grad(Tensor dy, Tensor ref, {_OPTIONS}) -> Tensor",
    _grad,
    lambda dy, ref, *_: torch.empty_like(library.dense(ref)),
    setup_context=_setup_grad,
    backward=_backward_grad,
)
_BIAS_ACT_GRAD2 = define(
    f"bias_act_grad2(Tensor ddx, Tensor dy, Tensor ref, {_OPTIONS}) -> Tensor",
    _grad2,
    lambda ddx, dy, ref, *_: torch.empty_like(library.dense(ref)),
    backward=_backward_grad2,
)

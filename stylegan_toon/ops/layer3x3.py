"""A whole 3x3 layer of the networks in one pass over memory, forwards, and backwards in few.

    y = clamp(gain * act(v * scale + noise + b)),    v = conv3x3(x * styles, w)

The backward pass keeps x and y, both of which the neighbours have anyway, and neither x * styles nor v (see
`epilogue`). It is one op where nobody will differentiate it again; for R1 and path length regularisation it is made of
ops that can be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import conv3x3 as conv
from . import library
from .epilogue import gradient, small_gradients
from .workspace import take


def layer3x3(
    x: Tensor,
    w: Tensor,
    kind: str,
    *,
    styles: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    alpha: float = 1.0,
    gain: float = 1.0,
    clamp: float | None = None,
    keep: bool = False,
) -> Tensor:
    """``clamp(gain * lrelu(conv3x3(x * styles, w) * scale + noise + b))``, twice differentiable by all six tensors.

    Args:
        x, w, kind, keep: as for `conv3x3.conv3x3`.
        styles: ``[N, C_in]``.
        scale: ``[N, C_out]``. Where it is 0 it has no gradient (NaN).
        noise: ``[H', W']`` or ``[N or 1, 1, H', W']``.
        b: ``[C_out]``.
        alpha: slope of the activation below zero: 1 is none, 0 is relu.
        clamp: None = no limit.

    Returns:
        ``[N, C_out, H', W']``, channels_last.

    Raises:
        ValueError: a tensor does not fit.
    """
    n, _, height, width = x.shape
    c_out, (height, width) = w.shape[0], conv.output_size(height, width, kind)
    if noise is not None and noise.ndim == 2:
        noise = noise[None, None]
    for name, t, shapes in (
        ("styles", styles, [(n, x.shape[1])]),
        ("scale", scale, [(n, c_out)]),
        ("noise", noise, [(n, 1, height, width), (1, 1, height, width)]),
        ("b", b, [(c_out,)]),
    ):
        if t is not None:
            library.check_operand(name, t, x.device, torch.float32)
            if tuple(t.shape) not in shapes:
                raise ValueError(f"{name} is {list(t.shape)}, but must be {' or '.join(str(list(s)) for s in shapes)}")
    return _LAYER(x, w, styles, scale, noise, b, kind, alpha, gain, -1.0 if clamp is None else clamp, keep, True)


def weight_energy(w: Tensor, keep: bool) -> Tensor:
    """Sum over the taps of ``w**2``, ``[C_in, C_out]``, from which demodulation is made.

    Args:
        w: ``[C_out, C_in, k, k]``.
        keep: see `conv3x3.remember`.
    """
    return _ENERGY(w, keep)


# ---------------------------------------------------------------- compiled


def _forward(
    x: Tensor, w: Tensor, styles: Tensor | None, scale: Tensor | None, noise: Tensor | None, b: Tensor | None,
    kind: str, alpha: float, gain: float, clamp: float, keep: bool, brief: bool,
) -> Tensor:  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    shape = (len(x), len(w), *conv.output_size(*x.shape[2:], kind))
    out = take(shape) if brief else conv.empty(shape)
    conv.run(x, w, kind, False, False, gain, keep, out, styles, scale, noise, b, alpha, clamp)
    return out


def _fake(x: Tensor, w: Tensor, styles, scale, noise, b, kind: str, *_) -> Tensor:
    shape = (x.shape[0], w.shape[0], *conv.output_size(*x.shape[2:], kind))
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last)


def _grad(
    dy: Tensor, y: Tensor, x: Tensor, w: Tensor, styles: Tensor | None, scale: Tensor | None, noise: Tensor | None,
    kind: str, alpha: float, gain: float, clamp: float, keep: bool, wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    dv, channel_sums, pixel_sums = gradient(dy, y, scale, noise, alpha, gain, clamp, take(y.shape))
    dx, dw, d_styles = (x.new_empty(0) for _ in range(3))
    if wanted[0] or wanted[2]:
        dx = take(x.shape)
        conv.run(dv, w, *conv.adjoint(kind, False, False, 1.0), keep, dx)
        if styles is not None:  # d_styles = sum of dx * x, dx *= styles: what the epilogue's gradient does, too
            dx, (_, d_styles), _ = gradient(dx, x, styles, None, 1.0, 1.0, -1.0, dx)
    if wanted[1] and kind == "up":  # <dv, up(x)> = <4 down(dv), x>
        fours = x.new_full(x.shape[:2], 4) if styles is None else 4 * styles
        dw = conv.weight(x, dv, "down", True, False, d=fours)
    elif wanted[1]:
        dw = conv.weight(dv, x, kind, False, False, styles=styles)
    return dx, dw, d_styles, channel_sums, pixel_sums


def _fake_grad(
    dy: Tensor, y: Tensor, x: Tensor, w: Tensor, styles, scale, noise, kind, alpha, gain, clamp, keep, wanted
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dx, dw, d_styles = (x.new_empty(0) for _ in range(3))
    if wanted[0] or wanted[2]:
        dx = x.new_empty(x.shape).contiguous(memory_format=torch.channels_last)
        d_styles = d_styles if styles is None else x.new_empty(x.shape[:2])
    dw = w.new_empty(w.shape) if wanted[1] else dw
    return dx, dw, d_styles, y.new_empty(2, *y.shape[:2]), y.new_empty(y.shape[0], 1, *y.shape[2:])


def _energy(w: Tensor, keep: bool) -> Tensor:
    return conv.remember(w, "energy", lambda: w.square().sum(dim=(2, 3)).t().contiguous(), keep)


# ---------------------------------------------------------------- autograd


class _Layer3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *args):
        *tensors, kind, alpha, gain, clamp, keep, _ = args
        y = library.below_autograd(_LAYER, *args[:-1], False)
        ctx.save_for_backward(y, *tensors)
        ctx.options = kind, alpha, gain, clamp, keep
        return y

    @staticmethod
    def backward(ctx, dy):
        y, x, w, styles, scale, noise, b = ctx.saved_tensors
        for_x, for_w, for_styles, *others = ctx.needs_input_grad[:6]
        for_w = for_w and conv.weight_gradients_wanted()
        if torch.is_grad_enabled():
            dx, dw, d_styles, channel_sums, pixel_sums = _differentiable(dy, y, x, w, styles, scale, noise, *ctx.options)
        else:
            dx, dw, d_styles, channel_sums, pixel_sums = _GRAD(
                dy, y, x, w, styles, scale, noise, *ctx.options, [for_x, for_w, for_styles]
            )
        small = small_gradients(channel_sums, pixel_sums, scale, noise, b, others)
        own = (dx if for_x else None, dw if for_w else None, d_styles if for_styles else None)
        return *own, *small, None, None, None, None, None, None


def _differentiable(
    dy: Tensor, y: Tensor, x: Tensor, w: Tensor, styles: Tensor | None, scale: Tensor | None, noise: Tensor | None,
    kind: str, alpha: float, gain: float, clamp: float, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What `_grad` computes, in ops that have gradients of their own."""
    dv, *sums = torch.ops.stylegan_toon.epilogue_grad(dy, y, scale, noise, alpha, gain, clamp)
    scaled = x if styles is None else x * styles[:, :, None, None]
    dx = conv.input_gradient(dv, w, kind, False, False, 1.0, keep)
    dw = conv.weight_gradient(dv, scaled, kind, False, False, 1.0) if conv.weight_gradients_wanted() else None
    if styles is None:
        return dx, dw, None, *sums
    return dx * styles[:, :, None, None], dw, (dx * x).sum((2, 3)), *sums


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, keep):
        ctx.save_for_backward(w)
        return library.below_autograd(_ENERGY, w, keep)

    @staticmethod
    def backward(ctx, d):
        (w,) = ctx.saved_tensors
        return w * (2 * d.t())[:, :, None, None], None


_OPERANDS = "Tensor x, Tensor w, Tensor? styles, Tensor? scale, Tensor? noise"
_OPTIONS = "str kind, float alpha, float gain, float clamp, bool keep"
# `brief`: the result does not live long, so it may lie in lent memory. Ignored where a gradient is recorded.
_LAYER = library.define(
    f"layer3x3({_OPERANDS}, Tensor? b, {_OPTIONS}, bool brief) -> Tensor", _forward, _fake, _Layer3x3
)
_GRAD = library.define_constant(
    f"layer3x3_grad(Tensor dy, Tensor y, {_OPERANDS}, {_OPTIONS}, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _grad,
    _fake_grad,
)
_ENERGY = library.define(
    "weight_energy(Tensor w, bool keep) -> Tensor",
    _energy,
    lambda w, keep: w.new_empty(w.shape[1], w.shape[0]),
    _Energy,
)

"""A whole 3x3 layer of the networks in one pass over memory, forwards, and backwards in few.

    y = clamp(gain * act(v * d + noise + b)),    v = conv3x3(x * styles, w),    d = rsqrt(sum_ik (w styles)^2 + 1e-8)

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
    weight_gain: float = 1.0,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    alpha: float = 1.0,
    gain: float = 1.0,
    clamp: float | None = None,
    keep: bool = False,
) -> Tensor:
    """``clamp(gain * lrelu(conv3x3(x * styles, w) * d + noise + b))``, twice differentiable by all five tensors.

    Args:
        x, w, kind, keep: as for `conv3x3.conv3x3`.
        styles: ``[N, C_in]``; ``d``, ``[N, C_out]``, is then what demodulates them.
        weight_gain: ``d`` without styles.
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
    height, width = conv.output_size(height, width, kind)
    if noise is not None and noise.ndim == 2:
        noise = noise[None, None]
    for name, t, shapes in (
        ("styles", styles, [(n, x.shape[1])]),
        ("noise", noise, [(n, 1, height, width), (1, 1, height, width)]),
        ("b", b, [(w.shape[0],)]),
    ):
        if t is not None:
            library.check_operand(name, t, x.device, torch.float32)
            if tuple(t.shape) not in shapes:
                raise ValueError(f"{name} is {list(t.shape)}, but must be {' or '.join(str(list(s)) for s in shapes)}")
    clamp = -1.0 if clamp is None else clamp
    return _LAYER(x, w, styles, noise, b, kind, weight_gain, alpha, gain, clamp, keep, True)[0]


def demodulation(styles: Tensor, energy: Tensor) -> Tensor:
    """``d``, ``[N, C_out]``: styles ``[N, C_in]``; energy ``[C_in, C_out]``, the sum over the taps of ``w**2``."""
    return (styles.square() @ energy + 1e-8).rsqrt()


def weight_energy(w: Tensor, keep: bool) -> Tensor:
    """The sum over the taps of ``w**2``, ``[C_in, C_out]``; differentiable.

    Args:
        w: ``[C_out, C_in, k, k]``.
        keep: see `conv3x3.remember`.
    """
    return _ENERGY(w, keep)


# ---------------------------------------------------------------- compiled


def _forward(
    x: Tensor, w: Tensor, styles: Tensor | None, noise: Tensor | None, b: Tensor | None,
    kind: str, weight_gain: float, alpha: float, gain: float, clamp: float, keep: bool, brief: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    shape = (len(x), len(w), *conv.output_size(*x.shape[2:], kind))
    if styles is None:
        u, d = conv.packed(w, kind, False, False, keep), x.new_full(shape[:2], weight_gain)
    else:
        energy = _energy(w, keep) if keep else x.new_empty(w.shape[1], w.shape[0])
        u = conv.packed(w, kind, False, False, keep, None if keep else energy)
        d = demodulation(styles, energy)
    out = take(shape) if brief else conv.empty(shape)
    conv.run(x, u, kind, gain, out, styles, d, noise, b, alpha, clamp)
    return out, d


def _fake(x: Tensor, w: Tensor, styles, noise, b, kind: str, *_) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], w.shape[0], *conv.output_size(*x.shape[2:], kind))
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last), x.new_empty(shape[:2])


def _grad(
    dy: Tensor, y: Tensor, d: Tensor, x: Tensor, w: Tensor, styles: Tensor | None, noise: Tensor | None,
    b: Tensor | None, kind: str, alpha: float, gain: float, clamp: float, keep: bool, wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    dv, channel_sums, pixel_sums = gradient(dy, y, d, noise, alpha, gain, clamp, take(y.shape))
    dx, dw, d_styles, energy = (x.new_empty(0) for _ in range(4))
    if wanted[0] or wanted[2]:
        dx, (*how, back_gain) = take(x.shape), conv.adjoint(kind, False, False, 1.0)
        if keep:
            u, energy = conv.packed(w, *how, keep), _energy(w, keep)
        else:
            by_output = x.new_empty(w.shape[:2])
            u, energy = conv.packed(w, *how, keep, by_output), by_output.t()
        conv.run(dv, u, how[0], back_gain, dx)
        if styles is not None:  # d_styles = sum of dx * x, dx *= styles: what the epilogue's gradient does, too
            dx, (_, d_styles), _ = gradient(dx, x, styles, None, 1.0, 1.0, -1.0, dx)
    energetic = {}
    if styles is not None and (wanted[1] or wanted[2]):
        d_energy, of_styles = _through_demodulation(channel_sums, b, d, styles, energy if wanted[2] else None)
        energetic = {"w": w.contiguous(), "e": 2 * d_energy.t()}
        d_styles = d_styles + of_styles if wanted[2] else d_styles
    if wanted[1] and kind == "up":  # <dv, up(x)> = <4 down(dv), x>
        fours = x.new_full(x.shape[:2], 4) if styles is None else 4 * styles
        dw = conv.weight(x, dv, "down", True, False, d=fours, **energetic)
    elif wanted[1]:
        dw = conv.weight(dv, x, kind, False, False, styles=styles, **energetic)
    return dx, dw, d_styles, channel_sums, pixel_sums


def _through_demodulation(
    channel_sums: Tensor, b: Tensor | None, d: Tensor, styles: Tensor, energy: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """From the sums of `gradient` to the gradients by the energy and, if that is given, by the styles."""
    d_d, _, _ = small_gradients(channel_sums, None, d, None, b, (True, False, False))
    d_power = -0.5 * d_d * d**3
    of_styles = None if energy is None else 2 * styles * (d_power @ energy.t())
    return styles.square().t() @ d_power, of_styles


def _fake_grad(
    dy: Tensor, y: Tensor, d: Tensor, x: Tensor, w: Tensor, styles, noise, b, kind, alpha, gain, clamp, keep, wanted
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
        *tensors, kind, _, alpha, gain, clamp, keep, _ = args
        y, d = library.below_autograd(_LAYER, *args[:-1], False)
        ctx.mark_non_differentiable(d)
        ctx.save_for_backward(y, d, *tensors)
        ctx.options = kind, alpha, gain, clamp, keep
        return y, d

    @staticmethod
    def backward(ctx, dy, _):
        y, d, x, w, styles, noise, b = ctx.saved_tensors
        for_x, for_w, for_styles, for_noise, for_b = ctx.needs_input_grad[:5]
        for_w = for_w and conv.weight_gradients_wanted()
        wanted = [for_x, for_w, for_styles]
        compute = _differentiable if torch.is_grad_enabled() else _GRAD
        *large, channel_sums, pixel_sums = compute(dy, y, d, x, w, styles, noise, b, *ctx.options, wanted)
        _, d_noise, d_b = small_gradients(channel_sums, pixel_sums, d, noise, b, (False, for_noise, for_b))
        return *(t if want else None for t, want in zip(large, wanted)), d_noise, d_b, *[None] * 7


def _differentiable(
    dy: Tensor, y: Tensor, d: Tensor, x: Tensor, w: Tensor, styles: Tensor | None, noise: Tensor | None,
    b: Tensor | None, kind: str, alpha: float, gain: float, clamp: float, keep: bool, wanted: list[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """What `_grad` computes, in ops that have gradients of their own."""
    energy = weight_energy(w, keep)
    d = d if styles is None else demodulation(styles, energy)  # now as a function of both
    dv, *sums = torch.ops.stylegan_toon.epilogue_grad(dy, y, d, noise, alpha, gain, clamp)
    dx, d_styles = conv.input_gradient(dv, w, kind, False, False, 1.0, keep), None
    scaled = x if styles is None else x * styles[:, :, None, None]
    dw = conv.weight_gradient(dv, scaled, kind, False, False, 1.0) if wanted[1] else None
    if styles is not None:
        d_energy, of_styles = _through_demodulation(sums[0], b, d, styles, energy)
        d_styles = (dx * x).sum((2, 3)) + of_styles
        dx = dx * styles[:, :, None, None]
        dw = dw + w * (2 * d_energy.t())[:, :, None, None] if wanted[1] else None
    return dx, dw, d_styles, *sums


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, keep):
        ctx.save_for_backward(w)
        return library.below_autograd(_ENERGY, w, keep)

    @staticmethod
    def backward(ctx, d):
        (w,) = ctx.saved_tensors
        return w * (2 * d.t())[:, :, None, None], None


_OPERANDS = "Tensor x, Tensor w, Tensor? styles, Tensor? noise, Tensor? b, str kind"
_OPTIONS = "float alpha, float gain, float clamp, bool keep"
# `brief`: the result does not live long, so it may lie in lent memory. Ignored where a gradient is recorded.
_LAYER = library.define(
    f"layer3x3({_OPERANDS}, float weight_gain, {_OPTIONS}, bool brief) -> (Tensor, Tensor)", _forward, _fake, _Layer3x3
)
_GRAD = library.define_constant(
    f"layer3x3_grad(Tensor dy, Tensor y, Tensor d, {_OPERANDS}, {_OPTIONS}, bool[] wanted)"
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

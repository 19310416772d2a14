"""A whole 3x3 layer of the networks: one pass over memory forwards, a few backwards.

    y = clamp(gain * act(v * d + noise + b)),    v = conv3x3(x * styles, w),    d = rsqrt(sum_ik (w styles)^2 + 1e-8)

The backward pass keeps x and y, both of which the neighbouring layers keep anyway, and neither x * styles nor v (see
`epilogue`). It is one op if it will not be differentiated again; for R1 and path length regularisation, which do, it is
made of ops that have gradients of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import conv3x3 as conv
from . import library, workspace
from .epilogue import gradient, small_gradients
from .registration import define, gradient_wanted


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
        styles: ``[N, C_in]``, or None. With styles, ``d`` is their demodulation ``[N, C_out]``.
        weight_gain: The value of ``d`` without styles.
        noise: ``[H', W']`` or ``[N or 1, 1, H', W']``, or None.
        b: ``[C_out]``, or None.
        alpha: Slope of the activation below zero: 1 for none, 0 for relu.
        gain: Factor on the activation.
        clamp: Limit the result to [-clamp, clamp]; None: no limit.

    Returns:
        ``[N, C_out, H', W']``, channels_last.

    Raises:
        ValueError: a shape, dtype or device does not fit that of ``x``.
    """
    n, (height, width) = x.shape[0], conv.output_size(x.shape[2:], kind)
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
    brief = not gradient_wanted(x, w, styles, noise, b)
    return _LAYER(x, w, styles, noise, b, kind, weight_gain, alpha, gain, clamp, keep, brief)[0]


def demodulation(styles: Tensor, energy: Tensor) -> Tensor:
    """The demodulation ``d``, ``[N, C_out]``.

    Args:
        styles: ``[N, C_in]``.
        energy: ``[C_in, C_out]``, the sum over the taps of ``w**2``: see `weight_energy`.
    """
    return (styles.square() @ energy + 1e-8).rsqrt()


def weight_energy(w: Tensor, keep: bool) -> Tensor:
    """The sum over the taps of ``w**2``, ``[C_in, C_out]``; differentiable.

    Args:
        w: ``[C_out, C_in, k, k]``.
        keep: Keep the result until ``w`` changes or is freed.
    """
    return _ENERGY(w, keep)


# ---------------------------------------------------------------- compiled


def _forward(
    x: Tensor, w: Tensor, styles: Tensor | None, noise: Tensor | None, b: Tensor | None,
    kind: str, weight_gain: float, alpha: float, gain: float, clamp: float, keep: bool, brief: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    shape = (len(x), len(w), *conv.output_size(x.shape[2:], kind))
    if styles is None:
        u, d = conv.packed(w, kind, False, False, keep), x.new_full(shape[:2], weight_gain)
    else:
        energy = _energy(w, keep) if keep else x.new_empty(w.shape[1], w.shape[0])
        u = conv.packed(w, kind, False, False, keep, None if keep else energy)
        d = demodulation(styles, energy)
    out = workspace.empty(shape) if brief else conv.new_output(shape)
    conv.run(x, u, kind, gain, out, styles, d, noise, b, alpha, clamp)
    return out, d


def _fake(
    x: Tensor, w: Tensor, styles: Tensor | None, noise: Tensor | None, b: Tensor | None, kind: str, *_: object
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], w.shape[0], *conv.output_size(x.shape[2:], kind))
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last), x.new_empty(shape[:2])


def _grad(
    dy: Tensor, y: Tensor, d: Tensor, x: Tensor, w: Tensor, styles: Tensor | None, noise: Tensor | None,
    b: Tensor | None, kind: str, alpha: float, gain: float, clamp: float, keep: bool, wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    dv, channel_sums, pixel_sums = gradient(dy, y, d, noise, alpha, gain, clamp, workspace.empty(y.shape))
    dx, dw, d_styles, energy = (x.new_empty(0) for _ in range(4))
    if wanted[0] or wanted[2]:
        dx = workspace.empty(x.shape)
        back_kind, swap, flip, back_gain = conv.adjoint(kind, False, False, 1.0)
        if keep:
            u, energy = conv.packed(w, back_kind, swap, flip, keep), _energy(w, keep)
        else:
            by_output = x.new_empty(w.shape[:2])
            u, energy = conv.packed(w, back_kind, swap, flip, keep, by_output), by_output.t()
        conv.run(dv, u, back_kind, back_gain, dx)
        if styles is not None:  # d_styles = sum of dx * x, then dx *= styles: a special case of the epilogue's gradient
            dx, (_, d_styles), _ = gradient(dx, x, styles, None, 1.0, 1.0, -1.0, dx)
    by_energy: dict[str, Tensor] = {}
    if styles is not None and (wanted[1] or wanted[2]):
        d_energy, of_styles = _through_demodulation(channel_sums, b, d, styles, energy if wanted[2] else None)
        by_energy = {"w": w.contiguous(), "e": 2 * d_energy.t()}
        d_styles = d_styles if of_styles is None else d_styles + of_styles
    if wanted[1] and kind == "up":  # <dv, up(x)> = <4 down(dv), x>
        fours = x.new_full(x.shape[:2], 4) if styles is None else 4 * styles
        dw = conv.weight(x, dv, "down", True, False, d=fours, **by_energy)
    elif wanted[1]:
        dw = conv.weight(dv, x, kind, False, False, styles=styles, **by_energy)
    return dx, dw, d_styles, channel_sums, pixel_sums


def _through_demodulation(
    channel_sums: Tensor, b: Tensor | None, d: Tensor, styles: Tensor, energy: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The gradients by the energy and, if ``energy`` is given, by the styles, from the sums of `gradient`.

    ``d = power^(-1/2)`` with ``power = styles^2 @ energy + 1e-8``, so ``d_power = -1/2 d_d d^3``.
    """
    d_d, _, _ = small_gradients(channel_sums, None, d, None, b, (True, False, False))
    assert d_d is not None
    d_power = -0.5 * d_d * d**3
    of_styles = None if energy is None else 2 * styles * (d_power @ energy.t())
    return styles.square().t() @ d_power, of_styles


def _fake_grad(
    dy: Tensor, y: Tensor, d: Tensor, x: Tensor, w: Tensor, styles: Tensor | None, noise: Tensor | None,
    b: Tensor | None, kind: str, alpha: float, gain: float, clamp: float, keep: bool, wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dx, dw, d_styles = (x.new_empty(0) for _ in range(3))
    if wanted[0] or wanted[2]:
        dx = x.new_empty(x.shape).contiguous(memory_format=torch.channels_last)
        d_styles = d_styles if styles is None else x.new_empty(x.shape[:2])
    dw = w.new_empty(w.shape) if wanted[1] else dw
    return dx, dw, d_styles, y.new_empty(2, *y.shape[:2]), y.new_empty(y.shape[0], 1, *y.shape[2:])


def _energy(w: Tensor, keep: bool) -> Tensor:
    return conv.cached(w, "energy", lambda: w.square().sum(dim=(2, 3)).t().contiguous(), keep)


# ---------------------------------------------------------------- autograd


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, kind, _, alpha, gain, clamp, keep, _ = inputs
    y, d = output
    ctx.mark_non_differentiable(d)
    ctx.save_for_backward(y, d, *tensors)
    ctx.options = kind, alpha, gain, clamp, keep


def _backward(ctx: Any, dy: Tensor, d_d: Tensor) -> tuple[Tensor | None, ...]:
    y, d, x, w, styles, noise, b = ctx.saved_tensors
    for_x, for_w, for_styles, for_noise, for_b = ctx.needs_input_grad[:5]
    for_w = for_w and conv.weight_gradients_wanted()
    wanted = [for_x, for_w, for_styles]
    compute: Callable[..., Any] = _differentiable if torch.is_grad_enabled() else _GRAD
    *large, channel_sums, pixel_sums = compute(dy, y, d, x, w, styles, noise, b, *ctx.options, wanted)
    _, d_noise, d_b = small_gradients(channel_sums, pixel_sums, d, noise, b, (False, for_noise, for_b))
    return *(t if want else None for t, want in zip(large, wanted)), d_noise, d_b, *[None] * 7


def _differentiable(
    dy: Tensor, y: Tensor, d: Tensor, x: Tensor, w: Tensor, styles: Tensor | None, noise: Tensor | None,
    b: Tensor | None, kind: str, alpha: float, gain: float, clamp: float, keep: bool, wanted: list[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The results of `_grad`, from ops that have gradients of their own; None where not ``wanted``."""
    energy = weight_energy(w, keep)
    d = d if styles is None else demodulation(styles, energy)  # again, recorded as a function of both
    dv, *sums = torch.ops.stylegan_toon.epilogue_grad(dy, y, d, noise, alpha, gain, clamp)
    dx, d_styles = conv.input_gradient(dv, w, kind, False, False, 1.0, keep), None
    scaled = x if styles is None else x * styles[:, :, None, None]
    dw = conv.weight_gradient(dv, scaled, kind, False, False, 1.0) if wanted[1] else None
    if styles is not None:
        d_energy, of_styles = _through_demodulation(sums[0], b, d, styles, energy)
        assert of_styles is not None
        d_styles = (dx * x).sum((2, 3)) + of_styles
        dx = dx * styles[:, :, None, None]
        dw = None if dw is None else dw + w * (2 * d_energy.t())[:, :, None, None]
    return dx, dw, d_styles, *sums


def _setup_energy(ctx: Any, inputs: tuple, output: Tensor) -> None:
    w, _ = inputs
    ctx.save_for_backward(w)


def _backward_energy(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
    (w,) = ctx.saved_tensors
    return w * (2 * d.t())[:, :, None, None], None


_OPERANDS = "Tensor x, Tensor w, Tensor? styles, Tensor? noise, Tensor? b, str kind"
_OPTIONS = "float alpha, float gain, float clamp, bool keep"
# `brief`: the result is not kept for a backward pass, so it may lie in the workspace.
_LAYER = define(
    f"layer3x3({_OPERANDS}, float weight_gain, {_OPTIONS}, bool brief) -> (Tensor, Tensor)",
    _forward,
    _fake,
    setup_context=_setup,
    backward=_backward,
)
_GRAD = define(
    f"layer3x3_grad(Tensor dy, Tensor y, Tensor d, {_OPERANDS}, {_OPTIONS}, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _grad,
    _fake_grad,
)
_ENERGY = define(
    "weight_energy(Tensor w, bool keep) -> Tensor",
    _energy,
    lambda w, keep: w.new_empty(w.shape[1], w.shape[0]),
    setup_context=_setup_energy,
    backward=_backward_energy,
)

"""The orthonormal Haar transform of 2x2 pixels, its inverse, and an output layer that ends in the inverse.

    [ out(0,0) ]         [ 1  1  1  1 ]   [ lo ]
    [ out(0,1) ] = 1/2 * [ 1  1 -1 -1 ] * [ lh ]
    [ out(1,0) ]         [ 1 -1  1 -1 ]   [ hl ]
    [ out(1,1) ]         [ 1 -1 -1  1 ]   [ hh ]

The matrix is symmetric and orthonormal, so the transform (down) and its inverse (up) are each other's adjoint and
gradient. Of 4 C channels the first C are ``lo``; channel ``C + 3 c + k`` is band k of ``lh``, ``hl``, ``hh`` for c.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import library, workspace
from .registration import define
from .structs import Corners, CornersGrad, Haar, address


def haar_up(x: Tensor) -> Tensor:
    """The inverse transform: four bands become an image of twice the side.

    Args:
        x: ``[N, 4 C, H, W]``, floating point; contiguous and channels_last memory are kept as they are.

    Returns:
        ``[N, C, 2 H, 2 W]``, any number of times differentiable.

    Raises:
        ValueError: the channels are not a multiple of 4.

    Source: Belousov 2021, "MobileStyleGAN", section 3.1, where networks make the bands instead of the pixels.
    """
    if x.ndim != 4 or x.shape[1] % 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {list(x.shape)}, but must be floating point [N, 4 C, H, W]")
    return reference(x, True) if library.reference_wanted() else _HAAR(x, True)


def haar_down(x: Tensor) -> Tensor:
    """The transform: an image becomes four bands of half the side. The inverse of `haar_up`.

    Args:
        x: ``[N, C, 2 H, 2 W]``, floating point; contiguous and channels_last memory are kept as they are.

    Returns:
        ``[N, 4 C, H, W]``, any number of times differentiable.

    Raises:
        ValueError: the height or the width is odd.
    """
    if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {list(x.shape)}, but must be floating point [N, C, 2 H, 2 W]")
    return reference(x, False) if library.reference_wanted() else _HAAR(x, False)


def haar_rgb(x: Tensor, style: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``haar_up(conv1x1(x * style, weight) + bias)`` in one pass over ``x``: the RGB layer of a mobile generator.

    The transform is linear, so it is applied to the few weights instead of the image; so is the style.

    Args:
        x: ``[N, C, H, W]``.
        style: ``[N, C]``.
        weight, bias: ``[4 K, C, 1, 1]`` and ``[4 K]``, for K colours.

    Returns:
        ``[N, K, 2 H, 2 W]``; channels_last where the compiled kernels take it (float32 on the CPU, C a multiple of 16,
        at most 4 colours), else the layout of ``x``. Any number of times differentiable by all four.

    Raises:
        ValueError: a shape, dtype or device does not fit that of ``x``.
    """
    n, c = x.shape[:2]
    if weight.ndim != 4 or weight.shape[0] % 4:
        raise ValueError(f"weight is {list(weight.shape)}, but must be [4 K, {c}, 1, 1]")
    k = weight.shape[0] // 4
    shapes = {"style": (n, c), "weight": (4 * k, c, 1, 1), "bias": (4 * k,)}
    for name, t in (("style", style), ("weight", weight), ("bias", bias)):
        library.check_operand(name, t, x.device, x.dtype)
        if tuple(t.shape) != shapes[name]:
            raise ValueError(f"{name} is {list(t.shape)}, but must be {list(shapes[name])}")
    # Weights and bias as an image of 1 x (C + 1) pixels: the transform makes 2 x 2 (C + 1) of it.
    table = torch.cat([weight[:, :, 0, 0], bias[:, None]], 1)[None, :, None]  # [1, 4 K, 1, C + 1]
    corners = haar_up(table).view(k, 2, c + 1, 2).permute(1, 3, 0, 2).flatten(0, 1)  # [4, K, C + 1]
    w, b = corners[..., :c] * style[:, None, None], corners[..., c]
    return _corners_reference(x, w, b) if library.reference_wanted() else _CORNERS_OP(x, w, b)


# ---------------------------------------------------------------- reference


def _sums(lo: Tensor, lh: Tensor, hl: Tensor, hh: Tensor) -> list[Tensor]:
    return [(lo + lh + hl + hh) / 2, (lo + lh - hl - hh) / 2, (lo - lh + hl - hh) / 2, (lo - lh - hl + hh) / 2]


def reference(x: Tensor, up: bool) -> Tensor:
    """`haar_up` or `haar_down` in plain PyTorch."""
    n, channels, height, width = x.shape
    if up:
        c = channels // 4
        bands = x[:, :c], *x[:, c:].reshape(n, c, 3, height, width).unbind(2)
        y = torch.stack(_sums(*bands), -1).unflatten(-1, (2, 2))  # [N, C, H, W, row, column]
        y = y.permute(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * height, 2 * width)
    else:
        lo, *rest = _sums(x[:, :, ::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, ::2], x[:, :, 1::2, 1::2])
        y = torch.cat([lo, torch.stack(rest, 2).flatten(1, 2)], 1)
    return y.contiguous(memory_format=_layout(x))


def _corners_reference(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x ``[N, C, H, W]``, w ``[N, 4, K, C]``, b ``[4, K]`` to ``[N, K, 2 H, 2 W]``: ToonCorners in csrc/api.h."""
    n, _, height, width = x.shape
    y = w.flatten(1, 2) @ x.flatten(2) + b.flatten()[:, None]  # [N, 4 K, pixels]
    y = y.view(n, 2, 2, w.shape[2], height, width).permute(0, 3, 4, 1, 5, 2)  # n can be 0, so no side is left open
    return y.reshape(n, w.shape[2], 2 * height, 2 * width).contiguous(memory_format=_corners_layout(x, w))


def _corners_reference_grad(
    dy: Tensor, x: Tensor, w: Tensor, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients by x, w and b, in ops that have gradients of their own; None where not ``wanted``."""
    n, _, height, width = x.shape
    du = dy.unflatten(3, (width, 2)).unflatten(2, (height, 2)).permute(0, 3, 5, 1, 2, 4)  # [N, 2, 2, K, H, W]
    du = du.reshape(n, 4 * w.shape[2], height * width)
    dx = (w.flatten(1, 2).transpose(-1, -2) @ du).view(x.shape) if wanted[0] else None
    dw = (du @ x.flatten(2).transpose(-1, -2)).view(w.shape) if wanted[1] else None
    return dx, dw, du.sum((0, 2)).view(w.shape[1:3]) if wanted[2] else None


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if library.is_channels_last(x) else torch.contiguous_format


# ---------------------------------------------------------------- compiled


def _empty(x: Tensor, up: bool) -> Tensor:
    n, c, h, w = x.shape
    shape = (n, c // 4, 2 * h, 2 * w) if up else (n, 4 * c, h // 2, w // 2)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _taken(x: Tensor) -> bool:
    """Whether the compiled kernels take the transform: the one for the CPU takes float32."""
    return (x.dtype == torch.float32 or not x.is_cpu) and library.usable(x)


def _forward(x: Tensor, up: bool) -> Tensor:
    x = library.dense(x)
    if not _taken(x) or x.numel() == 0:
        return reference(x, up)
    out = workspace.reused(_empty(x, up))
    n, c, h, w = (x if not up else out).shape
    params = Haar(
        out=address(out), x=address(x), n=n, c=c, h=h // 2, w=w // 2, up=up,
        channels_last=library.is_channels_last(x), dtype=library.DTYPES[x.dtype],
    )  # fmt: skip
    library.launch("haar", out, params)
    return out


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, ctx.up = inputs


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
    return _HAAR(dy, not ctx.up), None


_HAAR = define(
    "haar(Tensor x, bool up) -> Tensor",
    _forward,
    lambda x, up: _empty(library.dense(x), up),
    setup_context=_setup,
    backward=_backward,
)


def _corners_taken(x: Tensor, w: Tensor) -> bool:
    fits = x.shape[1] % 16 == 0 and w.shape[2] <= 4
    return fits and x.dtype == torch.float32 and x.is_cpu and library.usable(x)


def _corners_layout(x: Tensor, w: Tensor) -> torch.memory_format:
    return torch.channels_last if _corners_taken(x, w) else _layout(x)


def _corners_empty(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    shape = (x.shape[0], w.shape[2], 2 * x.shape[2], 2 * x.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_corners_layout(x, w))


def _corners(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    if not _corners_taken(x, w) or x.numel() == 0:
        return _corners_reference(x, w, b)
    x, w, b = x.contiguous(memory_format=torch.channels_last), w.contiguous(), b.contiguous()
    out = workspace.reused(_corners_empty(x, w, b))
    n, c, height, width = x.shape
    params = Corners(
        out=address(out), x=address(x), weight=address(w), b=address(b), n=n, c=c, h=height, w=width, colours=w.shape[2]
    )
    library.launch("corners", out, params)
    return out


def _corners_grad(dy: Tensor, x: Tensor, w: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    if not _corners_taken(x, w) or x.numel() == 0:
        dx, dw, db = _corners_reference_grad(dy, x, w, wanted)
        dx = None if dx is None else dx.contiguous(memory_format=_corners_layout(x, w))
    else:
        dy, x, w = *(t.contiguous(memory_format=torch.channels_last) for t in (dy, x)), w.contiguous()
        parts = torch.get_num_threads()
        dx = workspace.empty(x.shape) if wanted[0] else None
        dw = torch.empty_like(w) if wanted[1] else None
        db = torch.empty_like(w[0, :, :, 0]) if wanted[2] else None
        n, c, height, width = x.shape
        sums = x.new_empty(parts, 4 * w.shape[2] * (n * c + 1))
        params = CornersGrad(
            dx=address(dx), d_weight=address(dw), d_b=address(db), sums=address(sums), dy=address(dy), x=address(x),
            weight=address(w), n=n, c=c, h=height, w=width, colours=w.shape[2], parts=parts,
        )  # fmt: skip
        library.launch("corners_grad", x, params)
    # Results of an op must not share memory, so each that is not wanted is an empty tensor of its own.
    dx, dw, db = (x.new_empty(0) if d is None else d for d in (dx, dw, db))
    return dx, dw, db


def _corners_fake_grad(dy: Tensor, x: Tensor, w: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    layout = _corners_layout(x, w)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout) if wanted[0] else x.new_empty(0)
    return dx, w.new_empty(w.shape if wanted[1] else 0), w.new_empty(w.shape[1:3] if wanted[2] else 0)


def _corners_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, w, _ = inputs
    ctx.save_for_backward(x, w)


def _corners_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad)
    compute = _corners_reference_grad if torch.is_grad_enabled() else _CORNERS_GRAD_OP
    return tuple(d if want else None for d, want in zip(compute(dy, x, w, wanted), wanted))


_CORNERS_OP = define(
    "corners(Tensor x, Tensor w, Tensor b) -> Tensor",
    _corners,
    _corners_empty,
    setup_context=_corners_setup,
    backward=_corners_backward,
)
_CORNERS_GRAD_OP = define(
    "corners_grad(Tensor dy, Tensor x, Tensor w, bool[] wanted) -> (Tensor, Tensor, Tensor)",
    _corners_grad,
    _corners_fake_grad,
)

"""Upsample, FIR filter and downsample a batch of images in one pass (StyleGAN2-ADA).

Per axis: insert up - 1 zeros after every sample, pad with zeros (crop where padding is negative), convolve with
the filter, keep every down-th sample. The adjoint of that is the same op with up and down exchanged, the filter flipped
and other padding; so the op is its own backward pass, to any order.

Half types are computed in float32 and rounded once (twice for one-dimensional filters on CUDA).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import library, workspace
from .registration import define, define_out, refuse_gradient
from .structs import Upfirdn2d, address

MAX_TAPS = 32  # per axis; TOON_MAX_TAPS of csrc/api.h


def setup_filter(
    taps: Tensor | Sequence | float | None,
    *,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Make the filter tensor that ``upfirdn2d`` takes.

    Args:
        taps: [taps] (the same along both axes), [height, width], a number, or None for the identity.
        normalize: Scale so that the taps add up to 1: flat areas keep their value.
        flip_filter: Flip the filter along both axes.
        gain: Factor that the whole filter puts on the signal.
        separable: Keep 1-D taps 1-D, to be applied axis by axis. By default from 8 taps on; shorter ones
            become their outer product.

    Returns:
        float32 tensor, [taps] or [height, width].

    Raises:
        ValueError: more than 2 dimensions, no taps, or separable with 2-D taps.
    """
    f = torch.as_tensor(1.0 if taps is None else taps, dtype=torch.float32, device=device)
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"a filter has shape [taps] or [height, width], not {list(f.shape)}")
    f = f.reshape(1) if f.ndim == 0 else f
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if separable and f.ndim == 2:
        raise ValueError("a 2-D filter cannot be made separable: give its 1-D taps")
    if f.ndim == 1 and not separable:
        f = f.outer(f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return f * gain ** (f.ndim / 2)  # 1-D taps are applied twice


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:
    """Upsample, pad or crop, filter and downsample the images of a batch.

    Args:
        x: [N, C, H, W], floating point; contiguous and channels_last memory are kept as they are.
        f: [taps] (both axes), [height, width] or None (identity), up to 32 taps an axis; a constant, used in
            float32 (float64 for float64 ``x``). See ``setup_filter``.
        up, down: Integer factors, >= 1: one, or [x, y].
        padding: In samples of the upsampled image: one number, [x, y] or [x0, x1, y0, y1]. Negative crops.
        flip_filter: False: convolution. True: correlation.
        gain: Factor on the result.
        out: Where to write the result: its shape, dtype and layout, in memory of its own. Only where no gradient is
            recorded. Writing to memory that is in use already is several times faster than to new memory.

    Returns:
        ``out``, or [N, C, (H * up_y + y0 + y1 - height) // down_y + 1, likewise W], dtype and layout of ``x``.
        Differentiable by ``x``, any number of times.

    Raises:
        ValueError: arguments of the wrong kind or shape, an image smaller than the filter, an ``out`` that does not
            fit the result, overlaps ``x`` or would have to be recorded for a gradient.

    Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (its resampling).
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {list(x.shape)}, but must be floating point [N, C, H, W]")
    dtype = library.compute_dtype(x.dtype)
    if f is None:
        f = torch.ones([1, 1], dtype=dtype, device=x.device)
    if f.ndim not in (1, 2) or not 1 <= f.shape[0] <= MAX_TAPS or not 1 <= f.shape[-1] <= MAX_TAPS:
        raise ValueError(f"f is {list(f.shape)}, but must be [taps] or [height, width] with 1 to {MAX_TAPS} taps")
    if f.requires_grad:
        raise ValueError("f requires a gradient, but the filter is a constant: detach it")
    f = f.to(dtype)
    arguments = (x, f, _factors(up, "up"), _factors(down, "down"), padding_of(padding), flip_filter, float(gain))
    if library.reference_wanted():
        return _reference(*arguments) if out is None else _reference_out(*arguments, out=out)
    if out is None:
        return _UPFIRDN2D(*arguments)
    _UPFIRDN2D_OUT(*arguments, out=out)
    return out


def _factors(value: int | Sequence[int], name: str) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    if len(pair) != 2 or pair[0] < 1 or pair[1] < 1:
        raise ValueError(f"{name} is {value!r}, but must be a positive number or [x, y]")
    return pair


def padding_of(value: int | Sequence[int]) -> list[int]:
    """[x0, x1, y0, y1] from any form that `upfirdn2d` takes."""
    if not isinstance(value, Sequence):
        return [value] * 4
    if len(value) == 4:
        return list(value)
    if len(value) == 2:
        return [value[0], value[0], value[1], value[1]]
    raise ValueError(f"padding is {value!r}, but must be a number, [x, y] or [x0, x1, y0, y1]")


def _output_size(x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int]) -> tuple[int, int]:
    """(height, width) of the output. Raises ValueError if the filter does not fit into the padded image."""
    height = x.shape[2] * up[1] + padding[2] + padding[3]
    width = x.shape[3] * up[0] + padding[0] + padding[1]
    if height < f.shape[0] or width < f.shape[-1]:
        raise ValueError(
            f"the upsampled and padded image ({height} x {width}) is smaller than the filter"
            f" ({f.shape[0]} x {f.shape[-1]})"
        )
    return (height - f.shape[0]) // down[1] + 1, (width - f.shape[-1]) // down[0] + 1


def _empty_output(x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], *_) -> Tensor:
    layout = torch.channels_last if library.is_channels_last(x) else torch.contiguous_format
    size = (x.shape[0], x.shape[1], *_output_size(x, f, up, down, padding))
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


# ---------------------------------------------------------------- reference


def _reference(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool, gain: float
) -> Tensor:
    _output_size(x, f, up, down, padding)
    n, c, h, w = x.shape
    y = x.to(f.dtype)
    if up != [1, 1]:
        y = F.pad(y.reshape(n, c, h, 1, w, 1), [0, up[0] - 1, 0, 0, 0, up[1] - 1])
        y = y.reshape(n, c, h * up[1], w * up[0])
    y = F.pad(y, [max(p, 0) for p in padding])
    x0, x1, y0, y1 = (max(-p, 0) for p in padding)
    y = y[:, :, y0 : y.shape[2] - y1, x0 : y.shape[3] - x1]

    if not flip_filter:  # conv2d correlates
        f = f.flip(list(range(f.ndim)))
    if f.ndim == 2:
        y = F.conv2d(y, (f * gain).expand(c, 1, -1, -1), stride=(down[1], down[0]), groups=c)
    else:
        y = F.conv2d(y, (f * gain).expand(c, 1, 1, -1), stride=(1, down[0]), groups=c)
        y = F.conv2d(y, f[:, None].expand(c, 1, -1, 1), stride=(down[1], 1), groups=c)
    layout = torch.channels_last if library.is_channels_last(x) else torch.contiguous_format
    return y.to(x.dtype).contiguous(memory_format=layout)


def _reference_out(x: Tensor, f: Tensor, *options, out: Tensor) -> Tensor:
    refuse_gradient(x, out)
    _check_out(x, f, *options, out=out)
    return out.copy_(_reference(x, f, *options))


# ---------------------------------------------------------------- compiled


def _compiled(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool, gain: float,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    out = workspace.reused(_empty_output(x, f, up, down, padding)) if out is None else out
    if out.numel() == 0:
        return out
    library.check_operand("f", f, x.device, library.compute_dtype(x.dtype))
    f = f.contiguous()
    n, c, h, w = x.shape
    params = Upfirdn2d(
        out=address(out), x=address(x), f=address(f),
        n=n, c=c, in_h=h, in_w=w, out_h=out.shape[2], out_w=out.shape[3], f_h=f.shape[0], f_w=f.shape[-1],
        up_x=up[0], up_y=up[1], down_x=down[0], down_y=down[1], pad_x0=padding[0], pad_y0=padding[2],
        flip=flip_filter, separable=f.ndim == 1, channels_last=library.is_channels_last(x),
        dtype=library.DTYPES[x.dtype], gain=gain,
    )  # fmt: skip
    library.launch("upfirdn2d", out, params)
    return out


def _forward(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool, gain: float,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    x = library.dense(x)
    if not library.usable(x) or x.shape[2] == 0 or x.shape[3] == 0:
        y = _reference(x, f, up, down, padding, flip_filter, gain)
        return y if out is None else out.copy_(y)
    if f.ndim == 1 and x.is_cuda:  # one axis at a time
        x = _compiled(x, f[None, :], [up[0], 1], [down[0], 1], [*padding[:2], 0, 0], flip_filter, 1.0)
        return _compiled(x, f[:, None], [1, up[1]], [1, down[1]], [0, 0, *padding[2:]], flip_filter, gain, out)
    return _compiled(x, f, up, down, padding, flip_filter, gain, out)


def _check_out(x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], *_, out: Tensor) -> None:
    library.check_out(out, library.dense(x), [*x.shape[:2], *_output_size(x, f, up, down, padding)])


def _forward_out(x: Tensor, f: Tensor, *options, out: Tensor) -> None:
    _check_out(x, f, *options, out=out)
    x = library.dense(x)
    library.check_apart(out, x, f)
    _forward(x, f, *options, out=out)


# ---------------------------------------------------------------- autograd


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, f, *ctx.options = inputs
    ctx.save_for_backward(f)
    ctx.sizes = x.shape[2:], output.shape[2:]


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    up, down, padding, flip_filter, gain = ctx.options
    (h, w), (out_h, out_w) = ctx.sizes
    x0, y0 = padding[0], padding[2]
    adjoint = [
        f.shape[-1] - x0 - 1,
        w * up[0] - out_w * down[0] + x0 - up[0] + 1,
        f.shape[0] - y0 - 1,
        h * up[1] - out_h * down[1] + y0 - up[1] + 1,
    ]
    dx = _UPFIRDN2D(dy, f, down, up, adjoint, not flip_filter, gain)
    return dx, None, None, None, None, None, None


_OPTIONS = "int[] up, int[] down, SymInt[] padding, bool flip_filter, float gain"
_UPFIRDN2D = define(
    f"upfirdn2d(Tensor x, Tensor f, {_OPTIONS}) -> Tensor",
    _forward,
    _empty_output,
    setup_context=_setup,
    backward=_backward,
)
_UPFIRDN2D_OUT = define_out(
    f"upfirdn2d_out(Tensor x, Tensor f, {_OPTIONS}, *, Tensor(a!) out) -> ()", _forward_out, _check_out
)

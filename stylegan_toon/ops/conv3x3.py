"""The 3x3 convolutions of the networks on the CPU: Winograd's algorithm, resampling and the rest of the layer included.

``F.conv2d`` and ``upfirdn2d`` say what is computed (see `conv2d.conv2d_resample`); the kernel takes a fourth of the
products, or half of them where it resamples, and no filtered image in between (``csrc/conv3x3.h``). It takes float32
on the CPU, outside autocast, with channel counts that are multiples of 16; `kind_of` tells. `layer3x3` has the rest of
the layer.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from . import library
from .upfirdn2d import setup_filter

_KINDS = {"plain": 0, "up": 1, "down": 2}  # enum ToonConvKind of csrc/api.h
_FILTER = setup_filter([1, 3, 3, 1])  # the one the kernel has inside
# Outputs from which on rearranged weights save more than they cost: if they are kept, and if not. Of one picture:
# how a batch is cut up must not change who computes it.
_ENOUGH = {"plain": (64, 256), "up": (64, 1024), "down": (256, 1024)}


def kind_of(x: Tensor, w: Tensor, f: Tensor | None, up: int, down: int, padding: int, keep: bool = False) -> str | None:
    """Which of "plain", "up" and "down" `conv2d.conv2d_resample` of these is; None if the kernel does not take it."""
    if x.dtype != torch.float32 or w.dtype != torch.float32 or not x.is_cpu or torch.is_autocast_enabled("cpu"):
        return None
    if w.shape[2:] != (3, 3) or padding != 1 or w.shape[0] % 16 or w.shape[1] % 16 or library.reference_wanted():
        return None
    height, width = x.shape[2:]
    if up == 1 and down == 1:
        kind = "plain"
    elif up * down == 2 and height % down == 0 and width % down == 0 and f is not None and _inside(f):
        kind = "up" if up == 2 else "down"
    else:
        return None
    enough = height * width * up**2 >= _ENOUGH[kind][0 if keep else 1] * down**2
    return kind if enough and library.usable(x) else None


@library.known_when_compiling
def _inside(f: Tensor) -> bool:
    """Whether ``f`` is the filter that the kernel has inside."""
    return torch.equal(f, _FILTER)


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Within this context a backward pass goes through `conv3x3` without the gradient by ``w``.

    An autograd.Function is not told what it is asked for: ``torch.autograd.grad(y, x)`` would compute both.
    """
    global _weight_gradients
    before, _weight_gradients = _weight_gradients, False
    try:
        yield
    finally:
        _weight_gradients = before


_weight_gradients = True


def conv3x3(x: Tensor, w: Tensor, kind: str, *, keep: bool = False) -> Tensor:
    """A convolution of `kind_of` this kind, any number of times differentiable by ``x`` and ``w``.

    Args:
        x: ``[N, C_in, H, W]``.
        w: ``[C_out, C_in, 3, 3]``.
        kind: "plain", "up" or "down".
        keep: Keep the rearranged weights (4 to 9 times the memory of ``w``) until ``w`` changes or dies.

    Returns:
        ``[N, C_out, H', W']``, channels_last: the size of ``x``, twice or half of it.
    """
    return _CONV3X3(x, w, kind, False, False, 1.0, keep)


def weight_gradients_wanted() -> bool:
    """Whether no `no_weight_gradients` context is open."""
    return _weight_gradients


def remember(w: Tensor, what: str, make: Callable[[], Tensor], keep: bool) -> Tensor:
    """``make()`` without gradients, or what it gave before if ``w`` is still the same; forgotten with ``w``."""
    known = _memory.get(w)
    if known is None or known["version"] != (w._version, w.data_ptr()):
        known = {"version": (w._version, w.data_ptr())}
    if what not in known:
        with torch.no_grad():
            found = make()
        if not keep:
            return found
        known[what] = found
        _memory[w] = known
    return known[what]


_memory = WeakTensorKeyDictionary()

# ---------------------------------------------------------------- compiled

_PARAMS = struct.Struct("7P10q3d")  # ToonConv3x3 of csrc/api.h
_PACK = struct.Struct("3P6q")  # ToonConv3x3Pack
_WEIGHT = struct.Struct("7P13q")  # ToonConv3x3Weight


def output_size(height: int, width: int, kind: str) -> tuple[int, int]:
    if kind == "plain":
        return height, width
    return (height * 2, width * 2) if kind == "up" else (height // 2, width // 2)


def empty(shape: Sequence[int]) -> Tensor:
    """A new float32 channels_last tensor on the CPU."""
    return library.on_huge_pages(torch.empty(shape, memory_format=torch.channels_last))


class _Buffer(threading.local):
    """Of each thread: where weights are packed that are not kept."""

    u = torch.empty(0)


_buffer = _Buffer()


def packed(w: Tensor, kind: str, swap: bool, flip: bool, keep: bool, energy: Tensor | None = None) -> Tensor:
    """The weights as the kernel reads them; what is not kept lasts until the next call in this thread.

    Args:
        swap: input for output channels.
        flip: the taps turned round.
        energy: where to write the sum over the taps of ``w**2``, ``[C_in, C_out]`` (``swap``: ``[C_out, C_in]``); not
            with ``keep``.
    """
    kernels = library.kernels()

    def make() -> Tensor:
        taps = w.contiguous()
        c_in, c_out = (w.shape[0], w.shape[1]) if swap else (w.shape[1], w.shape[0])
        size = kernels.toon_conv3x3_packed_cpu
        size.restype, size.argtypes = ctypes.c_int64, [ctypes.c_int64] * 3
        numel = size(_KINDS[kind], c_in, c_out)
        if keep or _buffer.u.numel() < numel:
            u = library.on_huge_pages(torch.empty(numel))
            if not keep:
                _buffer.u = u
        else:
            u = _buffer.u
        first, *steps = _steps(taps, swap, flip)
        addresses = u.data_ptr(), first, 0 if energy is None else energy.data_ptr()
        library.launch("conv3x3_pack", u, _PACK.pack(*addresses, c_in, c_out, _KINDS[kind], *steps))
        return u

    if energy is not None:  # nothing remembered has written it
        return make()
    # Each instruction set has a layout of its own.
    return remember(w, f"{kind} {swap} {flip} {kernels.toon_cpu_isa()}", make, keep)


def _steps(w: Tensor, swap: bool, flip: bool) -> tuple[int, int, int, int]:
    """Address of the first tap of contiguous weights; steps by input channel, by output channel and by tap."""
    first = w.data_ptr() + (8 * w.element_size() if flip else 0)
    in_step, out_step = (w.shape[1] * 9, 9) if swap else (9, w.shape[1] * 9)
    return first, in_step, out_step, -1 if flip else 1


def run(
    x: Tensor, u: Tensor, kind: str, gain: float, out: Tensor,
    styles: Tensor | None = None, scale: Tensor | None = None, noise: Tensor | None = None, b: Tensor | None = None,
    alpha: float = 1.0, clamp: float = -1.0,
) -> None:  # fmt: skip
    """Launch the kernel on channels_last ``x`` and ``out`` and `packed` weights; the rest as for `layer3x3`."""
    if out.numel() == 0:
        return
    styles, scale, noise, b = (None if t is None else t.contiguous() for t in (styles, scale, noise, b))
    n, c_in, height, width = x.shape
    c_out, out_height, out_width = out.shape[1:]
    params = _PARAMS.pack(
        out.data_ptr(), x.data_ptr(), u.data_ptr(),
        *(0 if t is None else t.data_ptr() for t in (styles, scale, noise, b)),
        n, c_in, c_out, height, width, out_height, out_width,
        c_out,
        0 if noise is None or noise.numel() == out_height * out_width else out_height * out_width,
        _KINDS[kind], alpha, gain, clamp,
    )  # fmt: skip
    library.launch("conv3x3", out, params)


def _forward(x: Tensor, w: Tensor, kind: str, swap: bool, flip: bool, gain: float, keep: bool) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    out = empty((len(x), w.shape[1 if swap else 0], *output_size(*x.shape[2:], kind)))
    run(x, packed(w, kind, swap, flip, keep), kind, gain, out)
    return out


def _fake(x: Tensor, w: Tensor, kind: str, swap: bool, *_) -> Tensor:
    shape = (x.shape[0], w.shape[1 if swap else 0], *output_size(*x.shape[2:], kind))
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last)


def weight(
    dy: Tensor, x: Tensor, kind: str, swap: bool, flip: bool, *, d: Tensor | None = None, styles: Tensor | None = None,
    w: Tensor | None = None, e: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The gradient by the weights where ``dy * d`` comes back from ``x * styles``; "plain" or "down".

    With contiguous weights ``w`` and ``e``, ``[C_out, C_in]`` as w's first two dimensions, ``w * e`` is added to it.
    """
    dy, x = (t.contiguous(memory_format=torch.channels_last) for t in (dy, x))
    n, c_in, height, width = x.shape
    c_out, out_height, out_width = dy.shape[1:]
    dw = library.on_huge_pages(torch.empty((c_in, c_out, 3, 3) if swap else (c_out, c_in, 3, 3)))
    first, *steps = _steps(dw, swap, flip)
    shift = first - dw.data_ptr()
    e_steps = (0, 0) if e is None else e.stride() if swap else e.stride()[::-1]
    params = _WEIGHT.pack(
        first, x.data_ptr(), 0 if styles is None else styles.data_ptr(),
        dy.data_ptr(), 0 if d is None else d.data_ptr(),
        0 if w is None else w.data_ptr() + shift, 0 if e is None else e.data_ptr(),
        n, c_in, c_out, height, width, out_height, out_width, _KINDS[kind], *steps, *e_steps,
    )  # fmt: skip
    library.launch("conv3x3_weight", dw, params)
    return dw


def _weight(dy: Tensor, x: Tensor, kind: str, swap: bool, flip: bool) -> Tensor:
    return weight(dy, x, kind, swap, flip)


def _fake_weight(dy: Tensor, x: Tensor, kind: str, swap: bool, flip: bool) -> Tensor:
    channels = (x.shape[1], dy.shape[1]) if swap else (dy.shape[1], x.shape[1])
    return x.new_empty(*channels, 3, 3)


# ---------------------------------------------------------------- autograd


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, *options):
        ctx.options = options
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)
        return library.below_autograd(_CONV3X3, x, w, *options)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = input_gradient(dy, w, *ctx.options) if ctx.needs_input_grad[0] else None
        wanted = ctx.needs_input_grad[1] and _weight_gradients
        dw = weight_gradient(dy, x, *ctx.options[:-1]) if wanted else None
        return dx, dw, None, None, None, None, None


def adjoint(kind: str, swap: bool, flip: bool, gain: float) -> tuple[str, bool, bool, float]:
    """These options of the convolution that takes the gradient by a convolution's output to that by its input."""
    if kind == "plain":
        return "plain", not swap, not flip, gain
    # "up" and "down" are each other's adjoint, but for the gain of 4 that "up" has.
    return ("down", not swap, flip, gain * 4) if kind == "up" else ("up", not swap, flip, gain / 4)


def input_gradient(dy: Tensor, w: Tensor, kind: str, swap: bool, flip: bool, gain: float, keep: bool) -> Tensor:
    return _CONV3X3(dy, w, *adjoint(kind, swap, flip, gain), keep)


def weight_gradient(dy: Tensor, x: Tensor, kind: str, swap: bool, flip: bool, gain: float) -> Tensor:
    if kind == "up":  # <dy, up(x)> = <4 down(dy), x>
        return weight_gradient(x, dy, "down", not swap, flip, gain * 4)
    dw = _CONV3X3_WEIGHT(dy, x, kind, swap, flip)
    return dw if gain == 1 else dw * gain


class _Conv3x3Weight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dy, x, *options):
        ctx.options = options
        ctx.save_for_backward(dy if ctx.needs_input_grad[1] else None, x if ctx.needs_input_grad[0] else None)
        return library.below_autograd(_CONV3X3_WEIGHT, dy, x, *options)

    @staticmethod
    def backward(ctx, ddw):
        dy, x = ctx.saved_tensors
        options = (*ctx.options, 1.0, False)
        d_dy = _CONV3X3(x, ddw, *options) if ctx.needs_input_grad[0] else None
        d_x = input_gradient(dy, ddw, *options) if ctx.needs_input_grad[1] else None
        return d_dy, d_x, None, None, None


_CONV3X3 = library.define(
    "conv3x3(Tensor x, Tensor w, str kind, bool swap, bool flip, float gain, bool keep) -> Tensor",
    _forward,
    _fake,
    _Conv3x3,
)
_CONV3X3_WEIGHT = library.define(
    "conv3x3_weight(Tensor dy, Tensor x, str kind, bool swap, bool flip) -> Tensor",
    _weight,
    _fake_weight,
    _Conv3x3Weight,
)

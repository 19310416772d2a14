"""The 3x3 convolutions of the networks on the CPU by Winograd's algorithm, resampling included.

The results are those of ``F.conv2d`` and ``upfirdn2d`` (see `conv2d.conv2d_resample`), from a fourth of the products,
or half of them with resampling, and without a filtered image in memory (``csrc/conv3x3.h``). The kernel takes float32
on the CPU, outside autocast, with channel counts that are multiples of 16; `kind_of` decides. `layer3x3` adds the rest
of a layer.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from . import library, workspace
from .constants import constant
from .registration import define
from .structs import Conv3x3, Conv3x3Pack, Conv3x3Weight, address
from .upfirdn2d import setup_filter

_KINDS = {"plain": 0, "up": 1, "down": 2}  # enum ToonConvKind of csrc/api.h
_FILTER = setup_filter([1, 3, 3, 1])  # the filter that the kernel resamples with
# Output pixels of one image from which on the kernel saves more time than rearranging the weights costs: if the
# rearranged weights are kept, and if they are not. The batch size does not count, so that splitting a batch does not
# change which implementation computes it.
_MIN_PIXELS = {"plain": (64, 256), "up": (64, 1024), "down": (256, 1024)}


def kind_of(x: Tensor, w: Tensor, f: Tensor | None, up: int, down: int, padding: int, keep: bool = False) -> str | None:
    """The kind of a call of `conv2d.conv2d_resample`: "plain", "up" or "down"; None if the kernel does not take it."""
    if x.dtype != torch.float32 or w.dtype != torch.float32 or not x.is_cpu or torch.is_autocast_enabled("cpu"):
        return None
    if w.shape[2:] != (3, 3) or padding != 1 or w.shape[0] % 16 or w.shape[1] % 16 or library.reference_wanted():
        return None
    height, width = x.shape[2:]
    if up == 1 and down == 1:
        kind = "plain"
    elif up * down == 2 and height % down == 0 and width % down == 0 and f is not None and _has_network_taps(f):
        kind = "up" if up == 2 else "down"
    else:
        return None
    enough = height * width * up**2 >= _MIN_PIXELS[kind][0 if keep else 1] * down**2
    return kind if enough and library.usable(x) else None


def _has_network_taps(f: Tensor) -> bool:
    if torch.compiler.is_compiling():
        from . import compiling as compiling  # it marks has_network_taps as a constant
    return has_network_taps(f)


@constant
def has_network_taps(f: Tensor) -> bool:
    """Whether ``f`` is the outer product of (1, 3, 3, 1) / 8, with which the kernel resamples."""
    return torch.equal(f, _FILTER)


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.weight_gradients = True


_state = _ThreadState()


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Within this context, backward passes of this thread do not compute the gradients of 3x3 convolutions by weights.

    An op's backward formula learns which inputs require gradients, not which gradients ``torch.autograd.grad(y, x)``
    was asked for, so without this it would compute both.
    """
    before, _state.weight_gradients = _state.weight_gradients, False
    try:
        yield
    finally:
        _state.weight_gradients = before


def conv3x3(x: Tensor, w: Tensor, kind: str, *, keep: bool = False) -> Tensor:
    """A convolution of `kind_of` this kind, any number of times differentiable by ``x`` and ``w``.

    Args:
        x: ``[N, C_in, H, W]``.
        w: ``[C_out, C_in, 3, 3]``.
        kind: "plain", "up" or "down".
        keep: Keep the rearranged weights (4 to 9 times the memory of ``w``) until ``w`` changes or is freed.

    Returns:
        ``[N, C_out, H', W']``, channels_last, of the size of ``x`` (plain), twice (up) or half (down) of it.
    """
    return _CONV3X3(x, w, kind, False, False, 1.0, keep)


def weight_gradients_wanted() -> bool:
    """Whether no `no_weight_gradients` context is open."""
    return _state.weight_gradients


@dataclass
class _Derived:
    """What was computed from a tensor, and the state of the tensor then."""

    version: tuple[int, int]
    results: dict[str, Tensor] = field(default_factory=dict)


_cache = WeakTensorKeyDictionary()  # from weights to what was derived from them; an entry goes with its weights
_cache_lock = threading.Lock()


def cached(w: Tensor, name: str, make: Callable[[], Tensor], keep: bool) -> Tensor:
    """``make()``, computed from ``w`` alone and without gradients.

    With ``keep`` the result is kept under ``name`` until ``w`` changes or is freed, and returned without a new call.
    """
    version = w._version, w.data_ptr()
    with _cache_lock:
        derived = _cache.get(w)
        if derived is not None and derived.version == version and name in derived.results:
            return derived.results[name]
    with torch.no_grad():
        result = make()
    if keep:
        with _cache_lock:
            derived = _cache.get(w)
            if derived is None or derived.version != version:
                _cache[w] = derived = _Derived(version)
            derived.results[name] = result
    return result


# ---------------------------------------------------------------- compiled


def output_size(size: Sequence[int], kind: str) -> tuple[int, int]:
    """Height and width of the result of a convolution of this kind, from those of its input."""
    height, width = size
    if kind == "plain":
        return height, width
    return (height * 2, width * 2) if kind == "up" else (height // 2, width // 2)


def new_output(shape: Sequence[int]) -> Tensor:
    """An uninitialised float32 channels_last CPU tensor in memory of its own."""
    return library.on_huge_pages(torch.empty(shape, memory_format=torch.channels_last))


def packed(w: Tensor, kind: str, swap: bool, flip: bool, keep: bool, energy: Tensor | None = None) -> Tensor:
    """The weights as the kernel reads them; if not kept, they are valid until the next call in this thread.

    Args:
        w: ``[C_out, C_in, 3, 3]``.
        kind: "plain", "up" or "down".
        swap: Exchange input and output channels.
        flip: Flip the taps along both axes.
        keep: see `conv3x3`.
        energy: Where to write the sum over the taps of ``w**2``, ``[C_in, C_out]`` (with ``swap`` ``[C_out, C_in]``);
            not with ``keep``.
    """
    kernels = library.kernels()

    def make() -> Tensor:
        taps = w.contiguous()
        c_in, c_out = (w.shape[0], w.shape[1]) if swap else (w.shape[1], w.shape[0])
        numel = kernels.toon_conv3x3_packed_cpu(_KINDS[kind], c_in, c_out)
        u = library.on_huge_pages(torch.empty(numel)) if keep else workspace.packing_buffer(numel)
        first, in_step, out_step, tap_step = _steps(taps, swap, flip)
        params = Conv3x3Pack(
            u=address(u), w=first, energy=address(energy), c_in=c_in, c_out=c_out, kind=_KINDS[kind],
            in_step=in_step, out_step=out_step, tap_step=tap_step,
        )  # fmt: skip
        library.launch("conv3x3_pack", u, params)
        return u

    if energy is not None:  # cached weights would leave it unwritten
        return make()
    # Each instruction set has a layout of its own.
    return cached(w, f"{kind} {swap} {flip} {kernels.toon_cpu_isa()}", make, keep)


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
    """Run the kernel on channels_last ``x`` and ``out`` with `packed` weights ``u``; ``scale`` is the demodulation
    ``[N, C_out]``, the other arguments are those of `layer3x3.layer3x3`.
    """
    if out.numel() == 0:
        return
    styles, scale, noise, b = (None if t is None else t.contiguous() for t in (styles, scale, noise, b))
    n, c_in, height, width = x.shape
    c_out, out_height, out_width = out.shape[1:]
    pixels = out_height * out_width
    params = Conv3x3(
        out=address(out), x=address(x), u=address(u), s=address(styles), d=address(scale), noise=address(noise),
        b=address(b), n=n, c_in=c_in, c_out=c_out, in_h=height, in_w=width, out_h=out_height, out_w=out_width,
        d_step=c_out, noise_step=0 if noise is None or noise.numel() == pixels else pixels, kind=_KINDS[kind],
        alpha=alpha, gain=gain, clamp=clamp,
    )  # fmt: skip
    library.launch("conv3x3", out, params)


def _forward(x: Tensor, w: Tensor, kind: str, swap: bool, flip: bool, gain: float, keep: bool) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    out = new_output((len(x), w.shape[1 if swap else 0], *output_size(x.shape[2:], kind)))
    run(x, packed(w, kind, swap, flip, keep), kind, gain, out)
    return out


def _fake(x: Tensor, w: Tensor, kind: str, swap: bool, *_: object) -> Tensor:
    shape = (x.shape[0], w.shape[1 if swap else 0], *output_size(x.shape[2:], kind))
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last)


def weight(
    dy: Tensor, x: Tensor, kind: str, swap: bool, flip: bool, *, d: Tensor | None = None, styles: Tensor | None = None,
    w: Tensor | None = None, e: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The gradient by the weights, of kind "plain" or "down", for the input ``x * styles`` and the gradient ``dy * d``.

    With contiguous weights ``w`` and ``e``, ``[C_out, C_in]`` like w's first two dimensions, ``w * e`` is added to it.
    """
    dy, x = (t.contiguous(memory_format=torch.channels_last) for t in (dy, x))
    n, c_in, height, width = x.shape
    c_out, out_height, out_width = dy.shape[1:]
    dw = library.on_huge_pages(torch.empty((c_in, c_out, 3, 3) if swap else (c_out, c_in, 3, 3)))
    first, in_step, out_step, tap_step = _steps(dw, swap, flip)
    shift = first - dw.data_ptr()
    e_in_step, e_out_step = (0, 0) if e is None else e.stride() if swap else e.stride()[::-1]
    params = Conv3x3Weight(
        dw=first, x=address(x), s=address(styles), dy=address(dy), d=address(d),
        w=None if w is None else w.data_ptr() + shift, e=address(e),
        n=n, c_in=c_in, c_out=c_out, in_h=height, in_w=width, out_h=out_height, out_w=out_width, kind=_KINDS[kind],
        in_step=in_step, out_step=out_step, tap_step=tap_step, e_in_step=e_in_step, e_out_step=e_out_step,
    )  # fmt: skip
    library.launch("conv3x3_weight", dw, params)
    return dw


def _weight(dy: Tensor, x: Tensor, kind: str, swap: bool, flip: bool) -> Tensor:
    return weight(dy, x, kind, swap, flip)


def _fake_weight(dy: Tensor, x: Tensor, kind: str, swap: bool, flip: bool) -> Tensor:
    channels = (x.shape[1], dy.shape[1]) if swap else (dy.shape[1], x.shape[1])
    return x.new_empty(*channels, 3, 3)


# ---------------------------------------------------------------- autograd


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, w, *ctx.options = inputs
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors
    dx = input_gradient(dy, w, *ctx.options) if ctx.needs_input_grad[0] else None
    wanted = ctx.needs_input_grad[1] and weight_gradients_wanted()
    dw = weight_gradient(dy, x, *ctx.options[:-1]) if wanted else None
    return dx, dw, None, None, None, None, None


def adjoint(kind: str, swap: bool, flip: bool, gain: float) -> tuple[str, bool, bool, float]:
    """The options of the convolution that turns the gradient by the output of one with these options into that by its
    input.
    """
    if kind == "plain":
        return "plain", not swap, not flip, gain
    # "up" and "down" are each other's adjoint, except for the gain of 4 in "up".
    return ("down", not swap, flip, gain * 4) if kind == "up" else ("up", not swap, flip, gain / 4)


def input_gradient(dy: Tensor, w: Tensor, kind: str, swap: bool, flip: bool, gain: float, keep: bool) -> Tensor:
    """The gradient by the input of a convolution with these options; differentiable."""
    return _CONV3X3(dy, w, *adjoint(kind, swap, flip, gain), keep)


def weight_gradient(dy: Tensor, x: Tensor, kind: str, swap: bool, flip: bool, gain: float) -> Tensor:
    """The gradient by the weights of a convolution with these options; differentiable."""
    if kind == "up":  # <dy, up(x)> = <4 down(dy), x>
        return weight_gradient(x, dy, "down", not swap, flip, gain * 4)
    dw = _CONV3X3_WEIGHT(dy, x, kind, swap, flip)
    return dw if gain == 1 else dw * gain


def _setup_weight(ctx: Any, inputs: tuple, output: Tensor) -> None:
    dy, x, *ctx.options = inputs
    ctx.save_for_backward(dy if ctx.needs_input_grad[1] else None, x if ctx.needs_input_grad[0] else None)


def _backward_weight(ctx: Any, ddw: Tensor) -> tuple[Tensor | None, ...]:
    dy, x = ctx.saved_tensors
    kind, swap, flip = ctx.options
    d_dy = _CONV3X3(x, ddw, kind, swap, flip, 1.0, False) if ctx.needs_input_grad[0] else None
    d_x = input_gradient(dy, ddw, kind, swap, flip, 1.0, False) if ctx.needs_input_grad[1] else None
    return d_dy, d_x, None, None, None


_CONV3X3 = define(
    "conv3x3(Tensor x, Tensor w, str kind, bool swap, bool flip, float gain, bool keep) -> Tensor",
    _forward,
    _fake,
    setup_context=_setup,
    backward=_backward,
)
_CONV3X3_WEIGHT = define(
    "conv3x3_weight(Tensor dy, Tensor x, str kind, bool swap, bool flip) -> Tensor",
    _weight,
    _fake_weight,
    setup_context=_setup_weight,
    backward=_backward_weight,
)

"""Finds and loads the compiled kernels, once, and remembers why if it cannot; registers ops with torch.

The library (``csrc``) knows neither torch nor Python: it takes pointers and sizes through ctypes, so one file
serves every Python and every torch. It is optional. Where it is missing, broken or has nothing for a device,
each op runs its pure-PyTorch reference, which gives the same result, and one warning says so.

``STYLEGAN_TOON_LIBRARY`` names another library file, or is ``none`` to do without on purpose (no warning).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

ABI_VERSION = 4  # TOON_ABI_VERSION of csrc/api.h
VARIABLE = "STYLEGAN_TOON_LIBRARY"
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}  # enum ToonDtype

T = TypeVar("T")

_torch_library = torch.library.Library("stylegan_toon", "DEF")
_reference_depth = 0


# ---------------------------------------------------------------- loading


@dataclass(frozen=True)
class _Kernels:
    """The library, or ``handle=None`` and the reason."""

    handle: ctypes.CDLL | None
    path: str | None
    reason: str | None
    wanted: bool = True  # False: switched off by the user, who needs no warning


@functools.cache
def _kernels() -> _Kernels:
    name = os.environ.get(VARIABLE, "")
    if name.lower() in ("none", "0"):
        return _Kernels(None, None, f"switched off by {VARIABLE}={name}", wanted=False)
    path = Path(name) if name else _find()
    if not path.is_file():
        how = f"{VARIABLE} names it" if name else "reinstall stylegan_toon where there is a C++ compiler"
        return _Kernels(None, str(path), f"there is no compiled library at {path} ({how})")
    try:
        handle = _open(path)
        version = handle.toon_abi_version()
    except (OSError, AttributeError) as error:
        return _Kernels(None, str(path), f"{path} does not load ({error})")
    if version != ABI_VERSION:
        reason = f"{path} has interface {version}, this package needs {ABI_VERSION}: reinstall stylegan_toon"
        return _Kernels(None, str(path), reason)
    for text in (handle.toon_build, handle.toon_cpu_isa):
        text.restype = ctypes.c_char_p
    return _Kernels(handle, str(path), None)


def _find() -> Path:
    """The library beside the package. A checkout that was installed elsewhere has it where setup.py linked it."""
    package = Path(__file__).parents[1]
    installed, built = package / "_kernels.so", package.parent / "build" / "kernels" / "_kernels.so"
    checkout = (package.parent / "setup.py").is_file()
    return built if checkout and not installed.is_file() and built.is_file() else installed


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        if "GOMP_" not in str(error) and "omp_" not in str(error):
            raise
    # The OpenMP symbols are expected in the process, from torch's own copy (one thread pool for both). A torch
    # built otherwise shows none: bring the system's, whose threads we tell how many they are at every call.
    ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


@functools.cache
def _why_not(device_type: str, index: int | None) -> str | None:
    kernels = _kernels()
    if kernels.handle is None:
        return kernels.reason
    if device_type == "cpu":
        return None
    if device_type != "cuda":
        return f"there are no kernels for {device_type} devices"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if not hasattr(kernels.handle, "toon_cuda_check"):
        return f"the compiled library has no CUDA kernels (built with {kernels.handle.toon_build().decode()})"
    check = kernels.handle.toon_cuda_check
    check.restype = ctypes.c_char_p
    error = check(torch.cuda.current_device() if index is None else index)
    return f"the CUDA kernels do not run on this device ({error.decode()})" if error else None


def kernels() -> ctypes.CDLL:
    """The loaded library; only where `usable` has said so."""
    return _kernels().handle


def why_not(device_type: str, index: int | None = None) -> str | None:
    """Why ops on a device run the reference; None where the compiled kernels are live."""
    return _why_not(device_type, index)


def available(device_type: str, index: int | None = None) -> bool:
    """Whether the compiled kernels are live for ``device_type`` ("cpu", "cuda", ...)."""
    return _why_not(device_type, index) is None


def known_when_compiling(function: T) -> T:
    """Decorator: torch.compile calls ``function`` once, while it traces, and takes its result for a constant.

    What torch.compiler.assume_constant_result does, without importing the compiler.
    """
    function._dynamo_marked_constant = True
    return function


@known_when_compiling
def _usable(device_type: str, index: int | None) -> bool:
    return _usable_once(device_type, index)


@functools.cache
def _usable_once(device_type: str, index: int | None) -> bool:
    reason = why_not(device_type, index)
    if reason is not None and _kernels().wanted and device_type in ("cpu", "cuda"):
        _warn(reason)
    return reason is None


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"stylegan_toon's compiled kernels are not in use: {reason}. The PyTorch ops give the same results, slower.",
        stacklevel=2,
    )


@dataclass(frozen=True)
class Status:
    """What runs the ops on this machine.

    ``live`` maps a device type to "compiled: ..." or "reference: <why>"; ``path`` is the library's file, or
    where it was looked for; ``build`` tells how it was built (None if it is not loaded).
    """

    path: str | None
    build: str | None
    live: dict[str, str]

    def __str__(self) -> str:
        lines = [f"kernels  {self.path or 'none'}", f"built    {self.build or '-'}"]
        return "\n".join(lines + [f"{device:8} {text}" for device, text in self.live.items()])


def status() -> Status:
    """Which implementation of the ops is live for each device type, and why. Loads the library if need be."""
    kernels = _kernels()
    live = {}
    for device in ("cpu", "cuda", "mps"):
        reason = why_not(device)
        detail = kernels.handle.toon_cpu_isa().decode() if not reason and device == "cpu" else "machine code or PTX"
        live[device] = f"reference: {reason}" if reason else f"compiled: {detail}"
    build = kernels.handle.toon_build().decode() if kernels.handle else None
    return Status(kernels.path, build, live)


# ---------------------------------------------------------------- calling


@functools.cache
def _launcher(op: str, device_type: str) -> Callable[..., bytes | None]:
    function = getattr(_kernels().handle, f"toon_{op}_{device_type}")
    function.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_int] + [ctypes.c_void_p] * (device_type == "cuda")
    return function


def usable(x: Tensor) -> bool:
    """Whether the compiled kernels take ``x``. The first refusal for a device warns."""
    if x.dtype not in DTYPES:
        return False
    return _usable("cpu", None) if x.is_cpu else _usable(x.device.type, x.device.index)


def launch(op: str, out: Tensor, params: bytes) -> None:
    """Run ``toon_<op>_<device>`` on a packed parameter struct, on the device (and current stream) of ``out``.

    Raises RuntimeError with the kernel's message if it refuses.
    """
    if out.is_cpu:
        error = _launcher(op, "cpu")(params, torch.get_num_threads())
    else:
        index = out.device.index
        error = _launcher(op, "cuda")(params, index, torch.cuda.current_stream(index).cuda_stream)
    if error:
        raise RuntimeError(f"{op}: {error.decode()}")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are formed in, and biases and filters are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` is stored pixel by pixel (and not, at the same time, plane by plane)."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def dense(x: Tensor) -> Tensor:
    """``x``, or a contiguous copy if it is neither contiguous nor channels_last."""
    return x if is_channels_last(x) else x.contiguous()


def same_layout(x: Tensor, like: Tensor) -> Tensor:
    """``x``, or a copy of it with the strides of the dense tensor ``like``."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # Linux has it
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def on_huge_pages(out: Tensor) -> Tensor:
    """``out``, a new tensor; if it is large, the kernel is asked to back it with pages of 2 MiB.

    The first touch of a small page costs a fault, which for every 4 KiB is several times what an op does with
    them. Without effect where Linux is told to give huge pages always or never.
    """
    size, page = out.nbytes, 1 << 21
    if out.is_cpu and size >= 2 * page and (madvise := _madvise()):
        start = -(-out.data_ptr() // page) * page
        madvise(start, (out.data_ptr() + size) // page * page - start, mmap.MADV_HUGEPAGE)
    return out


def check_operand(name: str, x: Tensor, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError unless ``x`` is where and what a kernel will take it for."""
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}, the other tensors are on {device}")
    if x.dtype != dtype:
        raise ValueError(f"{name} is {x.dtype}, expected {dtype}")


def check_out(out: Tensor, x: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless ``out`` is a tensor such as the op would make for the dense input ``x``."""
    if out.shape != torch.Size(shape):
        raise ValueError(f"out is {list(out.shape)}, but the result is {list(shape)}")
    check_operand("out", out, x.device, x.dtype)
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    if not out.is_contiguous(memory_format=layout):
        raise ValueError(f"out has strides {out.stride()}, but the result is {layout}, as x is")


def check_apart(out: Tensor, *others: Tensor | None) -> None:
    """Raise ValueError if ``out`` shares memory with one of the other tensors, all of them dense."""
    for x in others:
        if x is not None and out.data_ptr() < x.data_ptr() + x.nbytes and x.data_ptr() < out.data_ptr() + out.nbytes:
            raise ValueError("out shares memory with an input: give it memory of its own")


def refuse_gradient(*tensors: Tensor | None) -> None:
    """Raise ValueError if autograd would have to record an op that writes over one of its arguments."""
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors):
        raise ValueError("out= cannot be recorded for a gradient: call without it, or within torch.no_grad()")


# ---------------------------------------------------------------- registering


def define(schema: str, implementation: Callable, fake: Callable, function: type[torch.autograd.Function]) -> Callable:
    """Register an op with torch and return it.

    ``implementation`` serves every device, ``fake`` makes an output without data, and ``function`` is the
    autograd.Function that wraps the op where a gradient is wanted; its ``forward`` calls the op through
    ``below_autograd``.
    """
    op = define_constant(schema, implementation, fake)

    def autograd(*args):
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return function.apply(*args)
        return below_autograd(op, *args)

    _torch_library.impl(schema.split("(")[0], autograd, "Autograd")
    return op


def define_constant(schema: str, implementation: Callable, fake: Callable) -> Callable:
    """Register an op without a gradient and return it."""
    name = schema.split("(")[0]
    _torch_library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _torch_library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"stylegan_toon::{name}", fake, lib=_torch_library)
    return getattr(torch.ops.stylegan_toon, name).default


def define_out(schema: str, implementation: Callable, fake: Callable) -> Callable:
    """Register an op that writes its result into its keyword argument ``out``, returns nothing and has no gradient."""
    op = define_constant(schema, implementation, fake)

    def autograd(*args, out: Tensor) -> None:
        refuse_gradient(*args, out)
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)  # who has saved it for a backward pass finds out
        with torch._C._AutoDispatchBelowAutograd():
            op(*args, out=out)

    _torch_library.impl(schema.split("(")[0], autograd, "Autograd")
    return op


def below_autograd(op: Callable, *args):
    """Call ``op`` without recording anything."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


@contextlib.contextmanager
def reference() -> Iterator[None]:
    """Within this context the public ops are plain, traceable PyTorch: for export, and to compare against."""
    global _reference_depth
    _reference_depth += 1
    try:
        yield
    finally:
        _reference_depth -= 1


def reference_wanted() -> bool:
    """Whether a ``reference()`` context is open."""
    return _reference_depth > 0

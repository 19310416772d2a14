"""Loads the compiled kernels and calls them.

The library (``csrc``) includes neither torch nor Python: it takes pointers and sizes through ctypes, so one file serves
every Python and every torch. It is optional. Where it is missing, does not load or has no kernels for a device, each op
runs its pure-PyTorch reference, which gives the same result, and one warning tells the reason.

``STYLEGAN_TOON_LIBRARY`` names another library file; ``none`` switches the kernels off, without a warning.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import structs
from .constants import constant

ABI_VERSION = 5  # TOON_ABI_VERSION of csrc/api.h
VARIABLE = "STYLEGAN_TOON_LIBRARY"
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}  # enum ToonDtype


# ---------------------------------------------------------------- loading


@dataclass(frozen=True)
class _Kernels:
    """The library, or ``handle=None`` and the reason why there is none."""

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
    _declare(handle)
    for struct in structs.ALL:
        size = handle.toon_sizeof(struct.c_name().encode())
        if size != ctypes.sizeof(struct):
            reason = f"{path} has {size} bytes in {struct.c_name()}, this package {ctypes.sizeof(struct)}"
            return _Kernels(None, str(path), f"{reason}: reinstall stylegan_toon")
    return _Kernels(handle, str(path), None)


# Argument types and result type of what is not a launcher; those of CUDA are in libraries built with it.
_PROTOTYPES: dict[str, tuple[list[Any], Any]] = {
    "toon_build": ([], ctypes.c_char_p),
    "toon_sizeof": ([ctypes.c_char_p], ctypes.c_int64),
    "toon_cpu_isa": ([], ctypes.c_char_p),
    "toon_choose_cpu_isa": ([ctypes.c_char_p], ctypes.c_char_p),
    "toon_conv3x3_packed_cpu": ([ctypes.c_int64] * 3, ctypes.c_int64),
    "toon_separable_packed_cpu": ([ctypes.c_int64] * 2, ctypes.c_int64),
    "toon_cuda_check": ([ctypes.c_int], ctypes.c_char_p),
}


def _declare(handle: ctypes.CDLL) -> None:
    for name, (arguments, result) in _PROTOTYPES.items():
        if hasattr(handle, name):
            function = getattr(handle, name)
            function.argtypes, function.restype = arguments, result


def _find() -> Path:
    """The library inside the package; in a checkout that has none there, the one that setup.py has linked."""
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
    # The OpenMP symbols are expected in the process, from the copy that torch has loaded, so that both share one thread
    # pool. Some builds of torch do not export them: load the system's. Every call says how many threads to use.
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
    error = kernels.handle.toon_cuda_check(torch.cuda.current_device() if index is None else index)
    return f"the CUDA kernels do not run on this device ({error.decode()})" if error else None


def kernels() -> ctypes.CDLL:
    """The loaded library. Raises RuntimeError where there is none; `why_not` tells the reason."""
    handle = _kernels().handle
    if handle is None:
        raise RuntimeError(f"stylegan_toon's compiled kernels are not in use: {_kernels().reason}.")
    return handle


def why_not(device_type: str, index: int | None = None) -> str | None:
    """Why ops on a device run the reference; None where they run the compiled kernels."""
    return _why_not(device_type, index)


def available(device_type: str, index: int | None = None) -> bool:
    """Whether ops on a ``device_type`` ("cpu", "cuda", ...) run the compiled kernels."""
    return _why_not(device_type, index) is None


@constant
def usable_on(device_type: str, index: int | None) -> bool:
    """Whether the compiled kernels run on a device; the first time that they do not, a warning tells why."""
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

    ``live`` maps a device type to "compiled: ..." or "reference: <reason>"; ``path`` is the library's file, or where it
    was looked for; ``build`` names the compilers that built it (None if it is not loaded).
    """

    path: str | None
    build: str | None
    live: dict[str, str]

    def __str__(self) -> str:
        lines = [f"kernels  {self.path or 'none'}", f"built    {self.build or '-'}"]
        return "\n".join(lines + [f"{device:8} {text}" for device, text in self.live.items()])


def status() -> Status:
    """Which implementation of the ops runs on each device type, and why. Loads the library if it is not loaded yet."""
    loaded, live = _kernels(), {}
    handle = loaded.handle
    for device in ("cpu", "cuda", "mps"):
        reason = why_not(device)
        if reason or handle is None:
            live[device] = f"reference: {reason}"
        else:
            live[device] = f"compiled: {handle.toon_cpu_isa().decode() if device == 'cpu' else 'machine code or PTX'}"
    return Status(loaded.path, handle.toon_build().decode() if handle else None, live)


# ---------------------------------------------------------------- calling


@functools.cache
def _launcher(op: str, device_type: str) -> Callable[..., bytes | None]:
    function = getattr(kernels(), f"toon_{op}_{device_type}")
    function.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_int] + [ctypes.c_void_p] * (device_type == "cuda")
    return function


def usable(x: Tensor) -> bool:
    """Whether the compiled kernels take ``x``. The first time that they do not on a device, a warning tells why."""
    if x.dtype not in DTYPES:
        return False
    if torch.compiler.is_compiling():
        from . import compiling as compiling  # it marks usable_on as a constant
    return usable_on("cpu", None) if x.is_cpu else usable_on(x.device.type, x.device.index)


def launch(op: str, out: Tensor, params: structs.Parameters) -> None:
    """Run ``toon_<op>_<device>`` on the device, and the current stream, of ``out``.

    Raises:
        RuntimeError: the kernel refuses its parameters; the message is its own.
    """
    if out.is_cpu:
        error = _launcher(op, "cpu")(ctypes.byref(params), torch.get_num_threads())
    else:
        index = out.device.index
        error = _launcher(op, "cuda")(ctypes.byref(params), index, torch.cuda.current_stream(index).cuda_stream)
    if error:
        raise RuntimeError(f"{op}: {error.decode()}")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums, biases and filters for tensors of ``dtype``: float64 for float64, else float32."""
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
    """``out``, a new tensor; if it is large, Linux is asked to back it with pages of 2 MiB.

    The first write to a page costs a page fault, which for a page of 4 KiB takes several times as long as what an op
    does with it. Without effect where Linux is set to give huge pages always or never.
    """
    size, page = out.nbytes, 1 << 21
    if out.is_cpu and size >= 2 * page and (madvise := _madvise()):
        start = -(-out.data_ptr() // page) * page
        madvise(start, (out.data_ptr() + size) // page * page - start, mmap.MADV_HUGEPAGE)
    return out


def check_operand(name: str, x: Tensor, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError unless ``x`` has the device and dtype that a kernel expects."""
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}, the other tensors are on {device}")
    if x.dtype != dtype:
        raise ValueError(f"{name} is {x.dtype}, expected {dtype}")


def check_out(out: Tensor, x: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless ``out`` has this shape and the dtype, device and layout of the dense input ``x``."""
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


# ---------------------------------------------------------------- reference


class _ThreadState(threading.local):
    def __init__(self) -> None:  # no class attribute: torch.compile guards on what the instance holds
        self.reference_depth = 0  # open `reference()` contexts


_state = _ThreadState()


@contextlib.contextmanager
def reference() -> Iterator[None]:
    """Within this context the public ops of this thread are plain, traceable PyTorch: for export, and to compare with.

    A function that torch.compile has compiled already keeps the implementation that it was compiled with.
    """
    _state.reference_depth += 1
    try:
        yield
    finally:
        _state.reference_depth -= 1


def reference_wanted() -> bool:
    """Whether a `reference` context is open in this thread."""
    return _state.reference_depth > 0

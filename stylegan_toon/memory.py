"""Memory: keep freed pages, which makes training on a CPU faster; and how much of a batch fits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

_CGROUPS = (  # limit and use, versions 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_TRANSIENT = 1.5  # peak of the backward pass, over what autograd keeps for it
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_pages() -> bool:
    """Make glibc reuse freed memory instead of returning it to the kernel; True where that succeeded.

    A fresh page costs a fault and a clearing: several times the arithmetic of elementwise work on it. Called by
    commands that train, never at import, because it changes the whole process. It has an effect on Linux with glibc
    only.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 256 << 20}
    return all(libc.mallopt(key, value) == 1 for key, value in settings.items())


def saved_bytes(compute: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of ``compute()``, each storage counted once."""
    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = compute()
    del kept
    return sum(storages.values())


def free_memory() -> int:
    """Bytes of main memory that are available; half of the machine's where the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for limit, used in _CGROUPS:  # a container may have less than the machine
        with contextlib.suppress(OSError, ValueError):
            free = min(free, int(Path(limit).read_text("ascii")) - int(Path(used).read_text("ascii")))
    return max(free, 0)


def most_that_fits(compute: Callable[[int], torch.Tensor], most: int, unit: int, device: torch.device) -> int:
    """The largest number of samples, in whole units, whose graph and gradients fit into memory.

    On CUDA sizes are tried, halving from ``most``. On the CPU, where running out ends the process, the size is
    estimated from what one unit and two units keep, against four fifths of the free memory.

    Args:
        compute: number of samples -> a scalar loss with the graph of the largest step.
        most: the largest number that is useful, a multiple of ``unit``.
        unit: samples that cannot be separated.
        device: where to compute.
    """
    if device.type == "cuda":
        size = most
        while size > unit:
            try:
                compute(size).backward()
                return size
            except torch.OutOfMemoryError:
                size = max(size // 2 // unit, 1) * unit
            finally:
                torch.cuda.empty_cache()
        return unit
    if most < 2 * unit:
        return most
    one, two = (saved_bytes(lambda n=n: compute(n)) * _TRANSIENT for n in (unit, 2 * unit))
    each, fixed = max(two - one, 1), max(2 * one - two, 0)
    available = 0.8 * free_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(max(int((available - fixed) / each), 1) * unit, most)

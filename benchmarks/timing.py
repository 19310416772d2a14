"""Shared by the benchmarks: the machine and its limits, alternating measurements, loading another implementation."""

from __future__ import annotations

import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import ModuleType

import torch

from stylegan_toon import ops


def describe() -> str:
    """Hardware, torch and kernels, in two lines."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return (
        f"{date.today()}: {name}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
        f"kernels: {ops.status().build}; CPU {ops.status().live['cpu']}"
    )


def alternately(
    functions: Sequence[Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> list[float]:
    """Median seconds of each function, called alternately, so that all see the same load of the machine."""
    measure = _seconds_on_cuda if device.type == "cuda" else _seconds
    times: list[list[float]] = [[] for _ in functions]
    for i in range(warm_up + rounds):
        for function, mine in zip(functions, times, strict=True):
            seconds = measure(function)
            if i >= warm_up:
                mine.append(seconds)
    return [statistics.median(t) for t in times]


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _seconds_on_cuda(function: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def matrix_rate(size: int = 1024, rounds: int = 9) -> float:
    """GFLOP/s of torch's float32 matrix product: the limit of a convolution by its definition."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2e-9 * size**3 / alternately([lambda: a @ b], rounds, warm_up=3)[0]


def resident(what: str) -> int:
    """MiB of this process in memory: now (VmRSS) or at its peak (VmHWM; getrusage would include the parent)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(what))


def peer_module(checkout: Path, name: str) -> ModuleType:
    """A module of a checkout of NVlabs/stylegan2-ada-pytorch."""
    if not (checkout / "training" / "networks.py").is_file():
        sys.exit(f"{checkout} is no checkout of stylegan2-ada-pytorch: clone it and give its folder.")
    sys.path.insert(0, str(checkout))
    return importlib.import_module(name)

"""Time to synthesise pictures with the default network, compared with other ways to run it.

    python benchmarks/mobile.py --threads 2            # and once more with 1; needs openvino: pip install openvino

The shipped `faces`, batch 1: our kernels, the same network in plain PyTorch operators (eager, and through
torch.compile), and OpenVINO with those operators converted; alternately in one process. "step" is forward and backward
to all weights at 256 px, with its peak memory and that of torch.compile.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import alternately, describe, resident
from torch import Tensor, nn

from stylegan_toon import load_network, ops
from stylegan_toon.memory import keep_pages
from stylegan_toon.ops import library

KINDS = ("ours", "compile")


class Plain(nn.Module):
    """The synthesis network at one size in PyTorch's own operators."""

    def __init__(self, synthesis: nn.Module, resolution: int) -> None:
        super().__init__()
        self.synthesis, self.resolution = synthesis, resolution

    def forward(self, ws: Tensor) -> Tensor:
        with library.reference():
            return self.synthesis(ws, "const", None, self.resolution)


def openvino(network: Plain, ws: Tensor, threads: int) -> Callable[[], object]:
    import openvino as ov  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        network(ws)  # so that products of weights are kept before the trace, not in it
        traced = torch.jit.trace(network, ws, check_trace=False)
    converted = ov.convert_model(traced, example_input=ws)
    compiled = ov.Core().compile_model(converted, "CPU", {"INFERENCE_NUM_THREADS": threads})
    return lambda: compiled([ws.numpy()])


def memory(kind: str) -> int:
    """MiB that a step at 256 px needs at its peak, beside what it begins with (Linux): "ours" or "compile"."""
    G = load_network("faces").train().requires_grad_(True)
    ws = G.mapping(torch.randn(1, 512), psi=0.7).detach()
    synthesise = partial(G.synthesis, noise_mode="const", resolution=256)
    if kind == "compile":
        synthesise = torch.compile(Plain(G.synthesis, 256), dynamic=False)
    for warm in (True, False):
        G.zero_grad(set_to_none=True)
        gc.collect()
        ops.release()
        ctypes.CDLL(None).malloc_trim(0)  # what the first step has freed does not hide what the second one takes
        before = resident("VmRSS")
        if not warm:
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        synthesise(ws).square().mean().backward()
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", type=int, nargs="*", default=[1024, 512, 256])
    parser.add_argument("--no-step", action="store_true")
    parser.add_argument("--memory", choices=KINDS, help="Only print the peak memory of a step in MiB.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print(memory(args.memory))
        return
    keep_pages()
    print(describe())
    G = load_network("faces")
    ws = G.mapping(torch.randn(1, 512, generator=torch.Generator().manual_seed(0)), psi=0.7)
    print("\n| work | ours ms | eager | torch.compile | OpenVINO | faster than the best of them |")
    print("|---|---|---|---|---|---|")
    for size in args.sizes:
        plain = Plain(G.synthesis, size).requires_grad_(False)
        compiled = torch.compile(plain, dynamic=False)
        other = openvino(plain, ws, args.threads)

        ours = partial(G.synthesis, ws, "const", None, size)
        with torch.no_grad():
            functions = [ours, partial(plain, ws), partial(compiled, ws), other]
            seconds = alternately(functions, args.rounds, warm_up=2)
        row = " | ".join(f"{1e3 * s:.0f}" for s in seconds)
        print(f"| {size} px | {row} | {min(seconds[1:]) / seconds[0]:.2f}x |", flush=True)
    if args.no_step:
        return
    G = load_network("faces").train().requires_grad_(True)
    plain = Plain(G.synthesis, 256)
    compiled = torch.compile(plain, dynamic=False)

    def step(synthesise: Callable[[Tensor], Tensor]) -> None:
        G.zero_grad(set_to_none=True)
        synthesise(ws.detach()).square().mean().backward()

    def ours_256(ws: Tensor) -> Tensor:
        return G.synthesis(ws, "const", None, 256)

    seconds = alternately([lambda p=p: step(p) for p in (ours_256, plain, compiled)], args.rounds, warm_up=2)
    row = " | ".join(f"{1e3 * s:.0f}" for s in seconds)
    print(f"| step, 256 px | {row} | | {min(seconds[1:]) / seconds[0]:.2f}x |", flush=True)
    command = [sys.executable, __file__, "--threads", str(args.threads), "--memory"]
    peaks = [int(subprocess.run([*command, kind], check=True, stdout=subprocess.PIPE).stdout) for kind in KINDS]
    print(f"| its memory, MiB | {peaks[0]} | | {peaks[1]} | | {peaks[0] / peaks[1]:.2f} of it |")


if __name__ == "__main__":
    main()

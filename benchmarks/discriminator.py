"""Time of the discriminator, forward and backward, and memory of a training step.

    python benchmarks/discriminator.py --peer PATH_OF_STYLEGAN2_ADA_PYTORCH

Measured as in `synthesis.py`. Memory is the peak of a separate process that runs one step (G and D, forward and
backward).
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from timing import alternately, describe, peer_module, resident

from stylegan_toon.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

RESOLUTION, BASE = 256, 16384


def build(networks: ModuleType | None) -> tuple[Any, Any, dict[str, Any]]:
    """G and D, ours (None) or the peer's, and further arguments of the peer's forward."""
    if networks is None:
        G = Generator(GeneratorConfig(resolution=RESOLUTION, channel_base=BASE))
        return G, Discriminator(DiscriminatorConfig(resolution=RESOLUTION, channel_base=BASE)), {}
    options = dict(channel_base=BASE, channel_max=512)
    G = networks.Generator(512, 0, 512, RESOLUTION, 3, synthesis_kwargs=options)
    return G, networks.Discriminator(0, RESOLUTION, 3, **options), {"force_fp32": True}


def scores(D: torch.nn.Module, img: torch.Tensor, options: dict) -> None:
    D.zero_grad(set_to_none=True)
    D(img, None, **options).square().mean().backward()


def peak(peer: str, batch: int) -> None:
    """Print the MiB that one step of G and D adds to a process that has the networks and torch loaded."""
    G, D, options = build(peer_module(Path(peer), "training.networks") if peer else None)
    ws = torch.randn(batch, 14, 512)
    before = resident("VmRSS")
    D(G.synthesis(ws, noise_mode="random", **options), None, **options).square().mean().backward()
    print(resident("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of NVlabs/stylegan2-ada-pytorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", nargs=2, metavar=("PEER", "BATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        return peak(args.peak[0], int(args.peak[1]))
    networks = peer_module(args.peer, "training.networks") if args.peer else None
    print(describe() + "\n")
    print("| work | ours ms |" + (" peer ms | ratio |" if networks else ""))
    print("|---|---|" + ("---|---|" if networks else ""))
    for batch in (1, 4):
        img = torch.randn(batch, 3, RESOLUTION, RESOLUTION)
        sides = [build(None)] + ([build(networks)] if networks else [])
        work = [functools.partial(scores, D, img, options) for _, D, options in sides]
        s = alternately(work, args.rounds)
        line = f"| D {RESOLUTION} px, batch {batch}, forward + backward | {s[0] * 1e3:.0f} |"
        print(line + (f" {s[1] * 1e3:.0f} | {s[1] / s[0]:.2f}x |" if networks else ""), flush=True)
    for batch in (1, 4, 8):
        command = [sys.executable, __file__, "--threads", str(args.threads), "--peak"]
        mib = [
            int(subprocess.run([*command, peer, str(batch)], check=True, capture_output=True, text=True).stdout)
            for peer in [""] + ([str(args.peer)] if networks else [])
        ]
        line = f"| peak memory of G and D {RESOLUTION} px, batch {batch}, forward + backward, MiB | {mib[0]} |"
        print(line + (f" {mib[1]} | {mib[0] / mib[1]:.2f} of it |" if networks else ""), flush=True)


if __name__ == "__main__":
    main()

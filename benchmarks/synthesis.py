"""Time of the synthesis network without gradients, and forward and backward.

    python benchmarks/synthesis.py --peer PATH_OF_STYLEGAN2_ADA_PYTORCH

Random weights (the time does not depend on them), batch 1 and more, float32 as the network is configured, beside a
checkout of NVlabs/stylegan2-ada-pytorch in the same process, alternately. The peer stays in float32 in the bfloat16
rows, since it supports nothing else on a CPU. In the row "torch.compile" the peer is our own network without it. The
rate counts multiplications and additions by the definition of the convolutions, so an algorithm that needs fewer can
exceed what matrices reach. The second table has the shipped `faces` beside the peer's network of the same resolution
in its published width; the line at the end is of `faces`, too.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import torch
from timing import alternately, describe, matrix_rate, peer_module

from stylegan_toon.models import Generator, GeneratorConfig, layers
from stylegan_toon.models.accelerate import accelerate
from stylegan_toon.pipelines.generate import latents
from stylegan_toon.weights import load_network


def gflop(config: GeneratorConfig) -> float:
    """Of the convolutions of one picture, by the definition: 10^9 multiplications and additions."""
    total = 2 * 9 * config.channels(4) ** 2 * 4**2
    for r in config.block_resolutions[1:]:
        into, out = config.channels(r // 2), config.channels(r)
        total += 2 * 9 * out * (into * (r // 2) ** 2 + out * r**2)
    return total / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of NVlabs/stylegan2-ada-pytorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", help="measure the rows whose name holds this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    networks = peer_module(args.peer, "training.networks") if args.peer else None
    print(describe())
    print(f"float32 matrix product: {matrix_rate():.0f} GFLOP/s\n")
    print(f"| {'work':42} | ours ms | GFLOP/s |" + (" peer ms | ratio |" if networks else ""))
    print("|---|---|---|" + ("---|---|" if networks else ""))
    rows = [
        (256, 16384, 1, False, "off"),
        (256, 16384, 1, False, "compile"),
        (256, 16384, 1, False, "bfloat16"),
        (1024, 32768, 1, False, "off"),
        (1024, 32768, 1, False, "bfloat16"),
        (256, 16384, 1, True, "off"),
        (256, 16384, 4, True, "off"),
    ]
    for resolution, base, batch, learns, how in rows:
        name = f"{resolution} px, batch {batch}, {'forward + backward' if learns else 'no gradient'}"
        name += {"off": "", "compile": ", torch.compile", "bfloat16": ", bfloat16"}[how]
        if args.only and args.only not in name:
            continue
        config = GeneratorConfig(resolution=resolution, channel_base=base)
        G = Generator(config).train(learns)
        ws = torch.randn(batch, G.num_ws, 512)
        # The published training draws noise and does not join modulation and convolution.
        noise = "random" if learns else "const"
        synthesise = accelerate(G.synthesis, how if how == "compile" else "off")
        dtype = torch.bfloat16 if how == "bfloat16" else None
        functions = [step(G, functools.partial(synthesise, ws, noise_mode=noise, dtype=dtype), learns)]
        if how == "compile":
            functions.append(step(G, functools.partial(G.synthesis, ws, noise_mode=noise), learns))
        elif networks:
            options = dict(channel_base=base, channel_max=512)
            P = networks.Generator(512, 0, 512, resolution, 3, synthesis_kwargs=options).train(learns)
            synthesise = functools.partial(P.synthesis, ws, noise_mode=noise, force_fp32=True)
            functions.append(step(P, synthesise, learns))
        seconds = alternately(functions, args.rounds)
        work = gflop(config) * batch * (3 if learns else 1)
        line = f"| {name:42} | {seconds[0] * 1e3:7.0f} | {work / seconds[0]:7.0f} |"
        beside = f" {seconds[1] * 1e3:7.0f} | {seconds[1] / seconds[0]:4.2f}x |" if len(seconds) > 1 else ""
        print(line + beside, flush=True)
    if networks:
        beside_faces(networks, args.rounds, args.only)
    able = layers.cpu_multiplies(torch.bfloat16)
    print("\nbfloat16 " + ("computed" if able else "has no instructions here, float32 stands in for it"), end="; ")
    print(f"computed or imitated, it is {likeness():.1f} dB (PSNR, 8 pictures) from float32")


@torch.no_grad()
def beside_faces(networks: ModuleType, rounds: int, only: str | None) -> None:
    """Print a table: one picture of the shipped `faces` and of the peer's network of that resolution."""
    print("\n| one picture, no gradient | `faces` ms | peer ms | ratio |\n|---|---|---|---|")
    G = load_network("faces")
    for resolution, base in ((256, 16384), (512, 32768), (1024, 32768)):
        if only and only not in f"faces {resolution} px":
            continue
        P = networks.Generator(512, 0, 512, resolution, 3, synthesis_kwargs=dict(channel_base=base, channel_max=512))
        mine = functools.partial(G.synthesis, torch.randn(1, G.num_ws, 512), resolution=resolution, noise_mode="const")
        theirs = functools.partial(
            P.eval().synthesis, torch.randn(1, P.num_ws, 512), noise_mode="const", force_fp32=True
        )
        a, b = alternately([mine, theirs], rounds)
        print(f"| {resolution} px | {a * 1e3:.0f} | {b * 1e3:.0f} | {b / a:.2f}x |", flush=True)


@torch.no_grad()
def likeness() -> float:
    """PSNR in dB of pictures in bfloat16, on a processor that can or not, to those in float32, of a range of 2."""
    G = load_network("faces")
    ws = G.mapping(latents(range(8), G.config.z_dim), None)
    full = G.synthesis(ws).clamp(-1, 1)
    with patch.object(layers, "cpu_multiplies", lambda dtype: True):
        half = G.synthesis(ws, dtype=torch.bfloat16).clamp(-1, 1)
    return 10 * math.log10(4 / (half - full).square().mean().item())


def step(network: torch.nn.Module, synthesise: Callable[[], torch.Tensor], learns: bool) -> Callable[[], None]:
    """One measurement: a picture, or a picture and all gradients."""

    def forward() -> None:
        with torch.no_grad():
            synthesise()

    def both() -> None:
        network.zero_grad(set_to_none=True)
        synthesise().square().mean().backward()

    return both if learns else forward


if __name__ == "__main__":
    main()

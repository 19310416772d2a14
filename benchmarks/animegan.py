"""AnimeGANv2's generator: ours beside the public PyTorch port (bryandlee/animegan2-pytorch), on this machine.

    python -m benchmarks.animegan --peer CHECKOUT

Both get the same weights and the same photo, run alternately, and must give the same picture. Ours runs as in `infer`,
the port as in its README. The parameter counts are printed as well. Without --peer, a plain implementation of the same
architecture replaces the port.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from projects.animegan.model import AnimeGenerator
from stylegan_toon.memory import keep_pages


class PlainLayer(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> None:
        pad = nn.ReflectionPad2d((0, 1, 0, 1) if stride == 2 else size // 2)
        conv = nn.Conv2d(inputs, outputs, size, stride, groups=groups, bias=groups > 1)
        super().__init__(pad, conv, nn.GroupNorm(1, outputs), nn.LeakyReLU(0.2, inplace=True))


class PlainBlock(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        wide = 2 * inputs
        self.layers = nn.Sequential(
            PlainLayer(inputs, wide, 1), PlainLayer(wide, wide, groups=wide), nn.Conv2d(wide, 256, 1, bias=False),
            nn.GroupNorm(1, 256),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if x.shape == y.shape else y


class Plain(nn.Sequential):
    """A plain implementation of the architecture."""

    def __init__(self) -> None:
        up = nn.Upsample(scale_factor=2, mode="bilinear")
        super().__init__(
            PlainLayer(3, 32, 7), PlainLayer(32, 64, stride=2), PlainLayer(64, 64), PlainLayer(64, 128, stride=2),
            PlainLayer(128, 128), PlainLayer(128, 128), PlainBlock(128), *(PlainBlock(256) for _ in range(3)),
            PlainLayer(256, 128), up, PlainLayer(128, 128), PlainLayer(128, 128), up, PlainLayer(128, 64),
            PlainLayer(64, 64), PlainLayer(64, 32, 7), nn.Conv2d(32, 3, 1, bias=False), nn.Tanh(),
        )  # fmt: skip


def load_peer(checkout: Path | None) -> tuple[str, nn.Module, dict[str, bool]]:
    """Name, generator, and the arguments that make its upsampling equal ours (the port's default aligns corners)."""
    if checkout is None:
        return "plain PyTorch", Plain(), {}
    spec = importlib.util.spec_from_file_location("peer_model", checkout / "model.py")
    assert spec is not None and spec.loader is not None  # as for every file that ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "animegan2-pytorch", module.Generator(), {"align_corners": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--peer", type=Path, help="checkout of bryandlee/animegan2-pytorch")
    parser.add_argument("--size", type=int, default=256, help="side of the photo in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_pages()  # for both: they share the process
    torch.manual_seed(0)
    name, peer, aligned = load_peer(args.peer)
    ours = AnimeGenerator().eval()
    peer.eval()
    # The same layers in the same order: tensor for tensor.
    ours.load_state_dict(dict(zip(ours.state_dict(), peer.state_dict().values(), strict=True)))
    ours.to(memory_format=torch.channels_last)
    photo = torch.rand(1, 3, args.size, args.size) * 2 - 1
    runs = {
        "ours": lambda: ours(photo.contiguous(memory_format=torch.channels_last)),
        name: lambda: peer(photo),
    }
    with torch.no_grad():
        off = (ours(photo) - peer(photo, **aligned)).abs().max()
        seconds: dict[str, list[float]] = {which: [] for which in runs}
        for turn in range(args.rounds + 2):
            for which, run in runs.items():
                started = time.perf_counter()
                run()
                if turn >= 2:  # the first rounds choose algorithms and allocate memory
                    seconds[which].append(time.perf_counter() - started)
    counts = [sum(p.numel() for p in network.parameters()) for network in (ours, peer)]
    print(
        f"{args.size} px, {args.threads} threads, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    )
    for which, count in zip(runs, counts):
        times = seconds[which]
        print(f"{which:18} {count:,} parameters  median {1000 * statistics.median(times):6.1f} ms  "
              f"best {1000 * min(times):6.1f} ms")  # fmt: skip
    medians = {which: statistics.median(times) for which, times in seconds.items()}
    print(f"ours is {medians[name] / medians['ours']:.2f} times as fast; pictures differ by {off:.1e} at most")


if __name__ == "__main__":
    main()

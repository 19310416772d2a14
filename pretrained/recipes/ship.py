"""Store a network in the format of `pretrained/`: G_ema, large matrices in 8 bits, the rest in float16.

    python pretrained/recipes/ship.py runs/comic/network.safetensors pretrained/comic.safetensors --data "483 drawings"

Prints the size and the mean absolute difference between pictures of the file and of the source, in 1/255.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stylegan_toon import load_network
from stylegan_toon.models import Generator
from stylegan_toon.weights import save_networks


@torch.no_grad()
def difference(a: Generator, b: Generator, count: int = 8) -> float:
    """Mean absolute difference of pictures of fixed seeds at psi 0.7 and 512 px (or the largest size), of 255."""
    size = 512 if 512 in a.config.head_resolutions else None
    z = torch.randn(count, a.config.z_dim, generator=torch.Generator().manual_seed(0))
    pairs = [[G(row[None], psi=0.7, resolution=size).clamp(-1, 1) for G in (a, b)] for row in z]
    return sum(float((x - y).abs().mean()) for x, y in pairs) / count * 127.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True, help="The training data, for the header.")
    parser.add_argument("--licence", default="non-commercial research")
    args = parser.parse_args()
    network = load_network(args.source)
    provenance = {**network.provenance, "data": args.data, "licence": args.licence}
    for name in ("name", "sha256"):
        provenance.pop(name, None)
    save_networks(
        args.out, {"G_ema": network}, provenance=provenance, dtype=torch.float16, eight_bits=True, overwrite=True
    )
    shift = difference(network, load_network(args.out))
    print(f"{args.out}: {args.out.stat().st_size} bytes, {shift:.2f} of 255 from the source")


if __name__ == "__main__":
    main()

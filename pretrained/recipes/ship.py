"""Store a trained network the way `pretrained/` ships it: G_ema and D in float16, with its history.

    python pretrained/recipes/ship.py runs/faces/network.safetensors pretrained/faces.safetensors \
        --data "5,000 faces sampled from MobileStyleGAN"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stylegan_toon.weights import load_networks, read_header, save_networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True, help="What it was trained on, for the header.")
    parser.add_argument("--licence", default="non-commercial research")
    args = parser.parse_args()
    networks = load_networks(args.source)
    provenance = {**read_header(args.source).provenance, "data": args.data, "licence": args.licence}
    kept = {name: networks[name] for name in ("G_ema", "D")}
    save_networks(args.out, kept, provenance=provenance, dtype=torch.float16, overwrite=True)
    print(args.out, args.out.stat().st_size)


if __name__ == "__main__":
    main()

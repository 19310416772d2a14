"""Set the strengths of a network's noise to zero before it goes on training: drawings have no grain.

    python pretrained/recipes/quiet.py runs/comic-pairs/network.safetensors runs/comic-quiet.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stylegan_toon.weights import load_networks, read_header, save_networks


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    networks = load_networks(args.source)
    for network in networks.values():
        for name, parameter in network.named_parameters():
            if name.endswith("noise_strength"):
                parameter.zero_()
    save_networks(args.out, networks, provenance=read_header(args.source).provenance)


if __name__ == "__main__":
    main()

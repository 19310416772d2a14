"""Stronger fine detail in a finished network, without training.

    python pretrained/recipes/crisp.py runs/sharp/network.safetensors --out runs/crisp/comic.safetensors
    python pretrained/recipes/ship.py runs/crisp/comic.safetensors pretrained/comic.safetensors --data "..."

Networks that learn from pairs make fine lines too faint: where a line might as well lie a pixel further, a faint one
costs least. Two places of a mobile network hold the finest detail alone, and are scaled here: the styles of the three
detail bands that the layers conv0 of the last two blocks upsample with (--bands), and what the last layer's 3x3 filters
do beyond blurring, which is their difference to their mean (--filters).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stylegan_toon import load_network
from stylegan_toon.models.mobile import MobileGenerator
from stylegan_toon.weights import descend, save_networks


@torch.no_grad()
def sharpen(G: MobileGenerator, bands: float, filters: float) -> None:
    """Scale the detail of the last two blocks, in place. 1 changes nothing."""
    state = G.state_dict()
    last, before = G.config.feature_resolution, G.config.feature_resolution // 2
    for block in (before, last):
        for part in ("weight", "bias"):
            styles = state[f"synthesis.b{block}.conv0.affine_up.{part}.value"]
            styles[len(styles) // 4 :] *= bands  # the first quarter are those of the low band
    kernels = state[f"synthesis.b{last}.conv1.depthwise.value"]
    mean = kernels.mean((2, 3), keepdim=True)
    kernels.copy_(mean + filters * (kernels - mean))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("network", help="Name or file.")
    parser.add_argument("--bands", type=float, default=1.15)
    parser.add_argument("--filters", type=float, default=1.08)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    G = load_network(args.network)
    if not isinstance(G, MobileGenerator):
        parser.error(f"{args.network} is no mobile network")
    options = {"bands": args.bands, "filters": args.filters}
    provenance = descend("crisp", options, [G], data=G.provenance.get("data"))
    sharpen(G, **options)
    save_networks(args.out, {"G_ema": G}, provenance=provenance, overwrite=args.overwrite)


if __name__ == "__main__":
    main()

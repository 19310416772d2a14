"""The mean of what several runs of finetoon changed, as one delta.

    for texture in 12 30; do python -m stylegan_toon.finetoon --seeds 0-119 --batch 3 --epochs 2 \\
        --texture $texture --out out/finetoon-$texture; done
    python -m stylegan_toon.finetoon --seeds 0-149 --batch 3 --epochs 2 --texture 20 --out out/finetoon-20
    python pretrained/recipes/finetoon_mean.py out/finetoon-{12,30,20}/finetoon.safetensors \\
        --strength 0.82 --out out/finetoon-mean.safetensors

Weights of runs that begin at the same network may be averaged (Wortsman et al. 2022, "Model soups", arXiv 2203.05482):
what a single run changed by chance cancels. ``--strength`` goes a part of the way only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stylegan_toon import load_network
from stylegan_toon.weights import descend, provenance_of, save_delta


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("networks", nargs="+", help="finetoon.safetensors of each run, all with the same blend.")
    parser.add_argument("--strength", type=float, default=1.0, help="How far to go from the blend to the mean.")
    parser.add_argument("--rank", type=int, default=24, help="Of the factors that matrices are stored as.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    start, mean = load_network("toon-ours"), load_network("toon-ours")
    runs = [load_network(path) for path in args.networks]
    for name, tensor in mean.state_dict().items():
        if tensor.is_floating_point():
            changes = torch.stack([run.state_dict()[name] - tensor for run in runs])  # exactly 0 where nothing learned
            tensor += args.strength * changes.mean(0)
    known = descend("mean of finetoon", {"strength": args.strength}, runs, identity=provenance_of(runs[0])["identity"])
    save_delta(args.out, start, mean, provenance=known, rank=args.rank, overwrite=args.overwrite)


if __name__ == "__main__":
    main()

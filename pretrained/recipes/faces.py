"""Faces with latents like those of projection: step 1 of a toon network.

    python pretrained/recipes/faces.py --network pretrained/faces.safetensors --count 2000 --out runs/faces512

Writes to --out: NNNNN.png (512 px) and ws.npy (float16 ``[count, num_ws, w_dim]``). A stopped run can be resumed.

Half of the latents have one w in all layers, at a truncation between 0.5 and 1. The others
imitate inversion in W+: fine layers of another face (other colours and light), and a small offset in every layer. A
toon network trained on the first kind alone fails on photos; truncating the latents of photos instead makes skin paler.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stylegan_toon import load_network
from stylegan_toon.data.images import save_image, to_pil
from stylegan_toon.memory import keep_pages
from stylegan_toon.models import Generator


@torch.no_grad()
def latent(G: Generator, number: int) -> Tensor:
    """ws ``[1, num_ws, w_dim]`` of face ``number``: a function of the number alone."""
    random = torch.Generator().manual_seed(1_000_000 + number)
    rows = G.num_ws

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand([], generator=random))

    mean = G.mapping.w_avg
    far = G.mapping(torch.randn(2 + rows, G.config.z_dim, generator=random))[:, 0] - mean
    ws = uniform(0.5, 1.0) * far[0].expand(rows, -1)
    if number % 2:
        if uniform(0, 1) < 0.5:
            fine = int(uniform(6, 11))  # rows from 32 to 256 px
            ws = torch.cat([ws[:fine], uniform(0.5, 1.0) * far[1].expand(rows - fine, -1)])
        ws = ws + uniform(0.0, 0.35) * far[2:]
    return (mean + ws)[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--network", default="faces")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    keep_pages()
    G = load_network(args.network)
    latents = torch.cat([latent(G, number) for number in range(args.count)])
    np.save(args.out / "ws.npy", latents.half().numpy())
    for number in tqdm(range(args.count), unit="img"):
        path = args.out / f"{number:05d}.png"
        if not path.exists():
            with torch.no_grad():
                picture = G.synthesis(latents[number : number + 1].half().float(), "const", resolution=args.resolution)
            save_image(to_pil(picture[0]), path)


if __name__ == "__main__":
    main()

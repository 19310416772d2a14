"""A cartoon set of one's own from nothing but the repository: pictures of `faces` drawn as pop art, with their latents.

    python pretrained/recipes/pop.py --out runs/pop

Writes to --out: pop.zip (drawings, in order of seed), pop.npz (their w) and pop.png (a look at them). The manner is
another than that of `comic`: a flat bright background, a heavy outline, few tones, strong colours, large eyes.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from stylegan_toon import load_network
from stylegan_toon.data.images import image_grid, to_pil
from stylegan_toon.drawing import draw_pop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", default="faces")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--psi", type=float, default=0.8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    G = load_network(args.network)
    latents, faces = [], []
    for seed in range(args.count):
        z = torch.randn(1, G.config.z_dim, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            ws = G.mapping(z, psi=args.psi)
            faces.append(to_pil(G.synthesis(ws, noise_mode="const")[0]))
        latents.append(ws[0, 0].numpy())
    with ProcessPoolExecutor(args.workers) as pool:
        pictures = list(tqdm(pool.map(draw_pop, faces), total=args.count, unit="img"))
    with zipfile.ZipFile(args.out / "pop.zip", "w", zipfile.ZIP_STORED) as archive:
        for seed, picture in enumerate(pictures):
            data = io.BytesIO()
            picture.save(data, "PNG")
            archive.writestr(f"{seed:04d}.png", data.getvalue())
    np.savez(args.out / "pop.npz", w=np.stack(latents))
    image_grid(pictures[:32], columns=8).save(args.out / "pop.png")


if __name__ == "__main__":
    main()

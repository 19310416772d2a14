"""Measurements for the model cards, and a sample grid.

Measured are how often a face detector finds a face in uncurated seeds, the energy of the finest Haar bands (levels of
255, squared; with --data beside that of as many pictures of a set), and how close the pictures of smaller sizes are to
the reduced large one.

    python pretrained/recipes/check.py --network faces --seeds 1000 --out runs/check
    python pretrained/recipes/check.py --network comic --seeds 1000 --data runs/drawings.zip --out runs/check
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from stylegan_toon import load_network
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, save_image, to_pil
from stylegan_toon.faces.align import has_face
from stylegan_toon.files import output_folder
from stylegan_toon.memory import keep_pages
from stylegan_toon.ops.haar import haar_down
from stylegan_toon.pipelines.generate import latents


def finest_band(picture: torch.Tensor) -> float:
    """Mean square of the finest Haar bands of ``[1, C, R, R]`` in [-1, 1], in levels of 255."""
    return float((haar_down(picture)[:, 3:] * 127.5).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--psi", type=float, default=0.7)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--data", help="Held-out pictures of its style, of --resolution: a zip or a folder.")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    keep_pages()
    out = output_folder(args.out)
    G = load_network(args.network)
    sizes = [size for size in G.config.head_resolutions if size < args.resolution]
    found, energy, shown, errors = 0, 0.0, [], dict.fromkeys(sizes, 0.0)
    for z in tqdm(latents(range(args.seeds), G.config.z_dim), unit="img"):
        with torch.no_grad():
            ws = G.mapping(z[None], psi=args.psi)
            picture = G.synthesis(ws, "const", resolution=args.resolution)
            for size in sizes:
                small = F.interpolate(picture, size=(size, size), mode="area")
                mse = float((G.synthesis(ws, "const", resolution=size) - small).square().mean())
                errors[size] += 10 * math.log10(4 / mse) / args.seeds
        energy += finest_band(picture.clamp(-1, 1)) / args.seeds
        image = to_pil(picture[0])
        found += has_face(image, confidence=args.confidence)
        shown += [image] if len(shown) < 24 else []
    name = Path(args.network).stem
    save_image(image_grid(shown, columns=8, size=192), out / f"{name}.jpg")
    report = {"network": args.network, "psi": args.psi, "seeds": args.seeds, "resolution": args.resolution}
    report |= {"confidence": args.confidence, "detected": found / args.seeds, "finest_band": round(energy, 1)}
    if args.data:
        pictures = ImageDataset(args.data, args.resolution)
        rows = range(min(args.seeds, len(pictures)))
        of_data = sum(finest_band(pictures[i][0][None].float() / 127.5 - 1) for i in rows) / len(rows)
        report |= {"data": len(rows), "data_finest_band": round(of_data, 1), "share": round(energy / of_data, 3)}
    report["heads_dB"] = {size: round(error, 1) for size, error in errors.items()}
    (out / f"{name}.json").write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()

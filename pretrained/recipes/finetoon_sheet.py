"""The picture of fine-tooning: 12 seeds and 12 portraits as the person, the blend before, and after; none is chosen.

    python pretrained/recipes/finetoon_sheet.py --photos PORTRAITS --latents runs/portraits --out runs/finetoon.jpg

The seeds are 1000 to 1011, which fine-tooning has not seen; the portraits are the first 12 of
portraits.txt, with latents of `portraits.py toonify`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from portraits import listed

from stylegan_toon import load_network
from stylegan_toon.data.images import image_grid, save_image, to_pil
from stylegan_toon.faces.align import largest
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.memory import keep_pages
from stylegan_toon.pipelines.generate import latents
from stylegan_toon.pipelines.toonify import Toonifier
from stylegan_toon.weights.latent import read_latent

COUNT = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder with the portraits")
    parser.add_argument("--latents", type=Path, required=True, help="folder with NAME.safetensors")
    parser.add_argument("--after", default="toon-fine-tooned", help="the network after fine-tooning")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--size", type=int, default=160, help="pixels of a cell")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    keep_pages()
    before, after = load_network("toon-ours"), load_network(args.after)
    toonifier = Toonifier.load(toon=before)
    side = toonifier.resolution
    z = latents(range(args.first_seed, args.first_seed + COUNT), toonifier.base.config.z_dim)
    with torch.no_grad():
        ws = toonifier.base.mapping(z, psi=0.7)
        rows = [
            [to_pil(G.synthesis(w[None], noise_mode="const", resolution=side)[0]) for w in ws]
            for G in (toonifier.base, before, after)
        ]
    crops, drawn = [], {before: [], after: []}
    for name in listed()[:COUNT]:
        crop = largest(open_photo(args.photos / name, side).faces).image
        latent = read_latent(args.latents / f"{Path(name).stem}.safetensors", toonifier.base)
        crops.append(crop)
        for network, row in drawn.items():
            row.append(replace(toonifier, toon=network).show(latent, photo=crop)[1])
    rows += [crops, *drawn.values()]
    labels = ["faces", "toon-ours", "toon-fine-tooned", "photo", "toon-ours", "toon-fine-tooned"]
    cells = [picture for row in rows for picture in row]
    save_image(image_grid(cells, columns=COUNT, size=args.size, row_labels=labels), args.out)


if __name__ == "__main__":
    main()

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
from PIL import Image
from tqdm import tqdm

from stylegan_toon import load_network
from stylegan_toon.data.comic import draw_comic, person_mask
from stylegan_toon.data.drawing import blur, from_oklab, smoothstep, soft_levels, to_oklab
from stylegan_toon.data.images import image_grid, to_pil

BACKGROUND, INK = (0.90, 0.00, 0.14), (0.16, 0.01, -0.04)  # Oklab


def draw_pop(face: Image.Image) -> Image.Image:
    """An aligned face as pop art, at its own size."""
    side = face.width
    large = face.resize((256, 256), Image.Resampling.BICUBIC)
    lab = to_oklab(np.asarray(draw_comic(large, warp=1.6)))
    person = blur(smoothstep(blur(person_mask(np.asarray(large)), 8.0), 0.5, 0.6), 0.8)
    light = soft_levels(1.1 * lab[..., 0] - 0.03, 8, 3.0)
    pop = np.dstack([light, lab[..., 1:] * (1 + 0.3 * smoothstep(light, 0.3, 0.6))[..., None]])
    pop = np.array(BACKGROUND) + person[..., None] * (pop - np.array(BACKGROUND))
    outline = smoothstep(4 * person * (1 - person), 0.1, 0.6)
    outline = np.clip(blur(outline, 1.2) * 2.0, 0, 1)
    pop = pop + outline[..., None] * (np.array(INK) - pop)
    drawn = Image.fromarray(from_oklab(pop.astype(np.float32)))
    return drawn.resize((side, side), Image.Resampling.LANCZOS)


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

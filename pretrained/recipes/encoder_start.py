"""What the encoder saves a search: real portraits, from w_avg and from the encoder's latent. Figures of encoder.md.

    python pretrained/recipes/encoder_start.py --photos PORTRAITS --steps mean:0,encoder:0
    python pretrained/recipes/encoder_start.py --photos PORTRAITS --names A000380,C001126 --steps mean:90,encoder:60

For every portrait, of 512 px, the search in w+ as `toonify` does it (no noise, no tuning), and how far its picture is
from the photo: perceptual distance (VGG16), PSNR in dB, distance of dlib's recogniser (0.6 = one person), seconds of
processor time. ``0`` steps is the start itself. --out keeps the pictures.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylegan_toon import InversionConfig, load_network, project
from stylegan_toon.data.images import save_image, to_pil, to_tensor
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.features.identity import DlibFaces, face_embedder
from stylegan_toon.features.perceptual import perceptual
from stylegan_toon.inversion.encoder import encoder
from stylegan_toon.memory import keep_pages
from stylegan_toon.models import Generator

# Of the 50 of portraits.txt, which are kept out of all fitting: chosen for different skin, hair, age and spectacles.
NAMES = "A000055,A000380,B001243,C001112,C001126,E000215,E000296,F000450,H001085,I000058,K000389,K000397"
SIDE = 512


def searched(G: Generator, picture: Tensor, start: str, steps: int) -> tuple[Tensor, float]:
    """ws after ``steps`` from ``start``, and seconds of processor time."""
    begun = time.process_time()
    if steps:
        config = InversionConfig(start=start, steps=steps)
        ws = project(G, picture, config, resolution=SIDE, noise=False).ws
    else:
        ws = encoder()(picture) if start == "encoder" else G.mapping.w_avg.expand(1, G.num_ws, -1)
    return ws, time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--names", default=NAMES)
    parser.add_argument("--steps", default="mean:0,encoder:0")
    parser.add_argument("--network", default="faces")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    keep_pages()
    G = load_network(args.network).requires_grad_(False)
    measure, embedder = perceptual(), face_embedder("dlib")
    assert isinstance(embedder, DlibFaces)
    runs = [(start, int(steps)) for start, steps in (run.split(":") for run in args.steps.split(","))]
    table: dict[tuple[str, int], list[list[float]]] = {run: [] for run in runs}
    for name in args.names.split(","):
        faces = open_photo(args.photos / f"{name}.jpg", SIDE).faces
        picture = to_tensor(max(faces, key=lambda face: np.hypot(*(face.quad[3] - face.quad[0]))).image)
        for run in runs:
            ws, seconds = searched(G, picture, *run)
            with torch.no_grad():
                shown = G.synthesis(ws, noise_mode="const", resolution=SIDE)
                psnr = 10 * math.log10(4 / float((shown.clamp(-1, 1) - picture).square().mean()))
                row = [float(measure.distance(shown, picture)), psnr, float(embedder.distance(shown, picture)), seconds]
            table[run].append(row)
            print(name, *run, *(f"{value:.3f}" for value in row), flush=True)
            if args.out is not None:
                args.out.mkdir(parents=True, exist_ok=True)
                save_image(to_pil(shown[0]), args.out / f"{name}-{run[0]}-{run[1]}.png")
    for run, rows in table.items():
        print("mean of", len(rows), *run, *(f"{value:.3f}" for value in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()

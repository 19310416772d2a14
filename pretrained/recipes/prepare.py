"""Step 0: split the faces, scale their latents, draw the comics.

Writes to --out: faces.zip (the first --split pictures), faces.npz (their latents), comic.zip (drawings of the other
pictures, which `faces` never sees), comic.npz (the latents behind those).

    python pretrained/recipes/prepare.py --data DIR --teacher DIR --out runs/data

DIR of --data holds faces-256.zip (pictures in order of name) and faces-256-w.npz (w, one row a picture).
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stylegan_toon.data.prepare import Recipe
from stylegan_toon.dataset import dataset


def load_teacher(folder: Path) -> nn.Module:
    """MobileStyleGAN (arXiv 2104.04767) from mobilestylegan_torch.py and its npz, frozen."""
    sys.path.insert(0, str(folder))
    from mobilestylegan_torch import MobileStyleGAN

    return MobileStyleGAN(folder / "mobilestylegan_ffhq_fp16.npz").eval().requires_grad_(False)


@torch.no_grad()
def latent_statistics(teacher: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """50,000 w of the teacher, their mean, and the factor per number that brings them to unit variance.

    The student's w are the teacher's times this factor: its affine layers expect numbers of unit size.
    """
    z = torch.randn(50000, 512, generator=torch.Generator().manual_seed(0))
    w = teacher.mapping(z)
    return w, w.mean(0), 1 / w.std(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    w, _, scale = latent_statistics(load_teacher(args.teacher))
    table = np.load(args.data / "faces-256-w.npz")["w"].astype(np.float32) * scale.numpy()
    with zipfile.ZipFile(args.data / "faces-256.zip") as source:
        names = sorted(name for name in source.namelist() if name.endswith(".jpg"))
        with zipfile.ZipFile(args.out / "faces.zip", "w", zipfile.ZIP_STORED) as faces:
            for name in names[: args.split]:
                faces.writestr(name, source.read(name))
    np.savez(args.out / "faces.npz", w=table[: args.split], samples=(w[:20000] * scale).numpy())
    np.savez(args.out / "comic.npz", w=table[args.split :])
    drawn = Recipe(256, crop="none", comic=True, format="jpg")
    dataset(args.data / "faces-256.zip", args.out / "comic.zip", drawn, start=args.split, workers=args.workers)


if __name__ == "__main__":
    main()

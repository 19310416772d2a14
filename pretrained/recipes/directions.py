"""Makes ``directions.safetensors``: directions of w in which one attribute of a face changes and the others stay.

    D="python pretrained/recipes/directions.py"
    $D measure --faces faces-256.zip --latents faces-256-w.npz --out runs/directions --count 1200
    $D fit --out runs/directions --save pretrained/directions.safetensors
    $D check --out runs/directions --seeds 9000-9015

``--faces`` are pictures of the network `faces`, ``w`` ``[count, w_dim]`` in ``--latents`` what they were made from, in the
order of their file names. ``measure`` measures each picture (`metrics.attributes`). ``fit`` is a ridge regression in
whitened coordinates (`models.directions.fit_directions`). ``check`` moves faces of other seeds and measures them again.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from stylegan_toon.errors import ToonError
from stylegan_toon.faces.mesh import face_mesh
from stylegan_toon.files import atomic_path
from stylegan_toon.metrics.attributes import measure_attributes

PART = 100


def measure(args: argparse.Namespace) -> None:
    """Measure the pictures in parts of 100, each a file, so that a run that was stopped goes on."""
    args.out.mkdir(parents=True, exist_ok=True)
    w = np.load(args.latents)["w"]
    with zipfile.ZipFile(args.faces) as file:
        names = sorted(name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png", ".webp")))
        if len(names) != len(w):
            raise ToonError(f"{args.faces} holds {len(names)} pictures and {args.latents} {len(w)} latents.")
        for start in range(0, min(args.count, len(names)), PART):
            part = args.out / f"part-{start:05d}.npz"
            if part.exists():
                continue
            numbers = range(start, min(start + PART, args.count))
            rows = []
            for number in numbers:
                with file.open(names[number]) as opened, Image.open(opened) as picture:
                    face = picture.convert("RGB")
                    rows.append(measure_attributes(face, face_mesh(face, looks=1)))  # the errors average out
            with atomic_path(part) as temporary:
                np.savez(temporary, w=w[numbers.start : numbers.stop].astype(np.float32), attributes=np.array(rows))
            print(part, flush=True)

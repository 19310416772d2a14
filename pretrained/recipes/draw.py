"""Drawings of faces in a style: step 2 of a toon network.

    python pretrained/recipes/draw.py --faces runs/faces512 --style comic --out runs/comic512

Writes NNNNN.png to --out for every face in --faces, and ws.npz with the latents of the faces up to the first missing
one, for `train --data OUT --pairs OUT/ws.npz`. A run that was stopped can be resumed.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stylegan_toon.data.images import read_image, save_image
from stylegan_toon.drawing import STYLES, draw
from stylegan_toon.memory import keep_pages


def redraw(face: Path, style: str, out: Path) -> None:
    keep_pages()
    if not (target := out / face.name).exists():
        save_image(draw(read_image(face), style), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--style", choices=sorted(STYLES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, help="Only the first COUNT faces.")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    faces = sorted(args.faces.glob("[0-9]*.png"))[: args.count]
    with ProcessPoolExecutor(args.workers) as pool:
        work = pool.map(partial(redraw, style=args.style, out=args.out), faces, chunksize=8)
        for _ in tqdm(work, total=len(faces), unit="img"):
            pass
    names = [path.name for path in sorted(args.out.glob("[0-9]*.png"))]
    whole = next((i for i, name in enumerate(names) if name != f"{i:05d}.png"), len(names))
    np.savez(args.out / "ws.npz", w=np.load(args.faces / "ws.npy")[:whole])


if __name__ == "__main__":
    main()

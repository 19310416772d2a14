"""Position of the recogniser's chip, and its distances within and between people: the numbers in dlib-identity.md.

    python pretrained/recipes/same_person.py place faces-256.zip --count 150
    python pretrained/recipes/same_person.py table runs/portraits

``place`` fits dlib's chip to the landmarks of aligned faces (`portraits.py`) and prints the mean square,
`CENTRE` and `SHARE` of `features/dlib.py`. ``table`` takes the NAME-aligned.png and NAME-drawn.png that
``portraits.py draw`` wrote and compares each photo with copies of itself, its drawing and all other photos: once with
the fixed chip that the package uses, once with a chip fitted to each picture's landmarks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from portraits import chip, chip_corners, listed
from torch import Tensor

from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import read_image, to_tensor
from stylegan_toon.faces.mesh import face_mesh
from stylegan_toon.features.dlib import face_chip, recogniser

COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "turned by 5 degrees": lambda picture: picture.rotate(5, Image.Resampling.BICUBIC),
    "blurred, sigma 1 % of the side": lambda picture: picture.filter(ImageFilter.GaussianBlur(0.01 * picture.width)),
    "half as bright": lambda picture: picture.point([level // 2 for level in range(256)] * len(picture.getbands())),
    "64 px": lambda picture: picture.resize((64, 64), Image.Resampling.LANCZOS),
}


def place(pictures: ImageDataset, count: int) -> str:
    """Mean centre and side of the chip as shares of the crop's, with standard deviations; and its turn."""
    rows = []
    for index in np.linspace(0, len(pictures) - 1, count).astype(int):
        picture = pictures.image(int(index))
        corners = chip_corners(face_mesh(picture)) / picture.width @ (1, 1j)
        edge = corners[3] - corners[0]
        rows.append([corners.mean().real, corners.mean().imag, abs(edge), np.degrees(np.angle(edge))])
    names = ("centre from the left", "centre from the top", "side", "turn in degrees")
    return "\n".join(f"{n:22}{m:9.4f} ± {d:.4f}" for n, m, d in zip(names, np.mean(rows, 0), np.std(rows, 0)))


@torch.inference_mode()
def fixed(network: torch.nn.Module, pictures: Sequence[Image.Image]) -> Tensor:
    """Embeddings ``[N, 128]`` with the fixed chip."""
    return torch.cat([network((face_chip(to_tensor(p)[:, :3]) + 1) * 127.5) for p in pictures])


@torch.inference_mode()
def fitted(network: torch.nn.Module, pictures: Sequence[Image.Image]) -> Tensor:
    """Embeddings ``[N, 128]`` with a chip for each picture."""
    chips = (torch.from_numpy(np.array(chip(p, face_mesh(p)))).permute(2, 0, 1)[None] for p in pictures)
    return torch.cat([network(img.float()) for img in chips])


def table(photos: Sequence[Image.Image], drawings: Sequence[Image.Image] = ()) -> str:
    """Markdown: cosines and distances, mean and worst, of copies, ``drawings`` and different people."""
    network = recogniser()
    head = f"| {len(photos)} portraits | cosine: mean | worst | distance: mean | worst | < 0.6 |"
    lines = [head, "|---|---|---|---|---|---|"]
    for label, embed in (("fixed chip", fixed), ("fitted chip", fitted)):
        originals = embed(network, photos)
        for name, change in COPIES.items():
            if label == "fitted chip" and name == "64 px":
                continue  # landmarks are less exact in pictures this small
            other = embed(network, [change(photo) for photo in photos])
            lines.append(_row(f"{name}, {label}", originals, other, worst_is_far=True))
        if drawings:
            lines.append(_row(f"drawn, {label}", originals, embed(network, drawings), worst_is_far=True))
        a, b = torch.triu_indices(len(photos), len(photos), 1)
        lines.append(_row(f"different people, {label}", originals[a], originals[b], worst_is_far=False))
    return "\n".join(lines)


def _row(name: str, a: Tensor, b: Tensor, *, worst_is_far: bool) -> str:
    cosine, distance = torch.cosine_similarity(a, b), (a - b).norm(dim=1)
    far, near = (cosine.min(), distance.max()), (cosine.max(), distance.min())
    worst = far if worst_is_far else near
    share = (distance < 0.6).float().mean()
    values = [cosine.mean(), worst[0], distance.mean(), worst[1]]
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + f" | {share:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    placing = commands.add_parser("place")
    placing.add_argument("set", help="aligned faces: folder, zip or shards")
    placing.add_argument("--count", type=int, default=150)
    tabling = commands.add_parser("table")
    tabling.add_argument("folder", type=Path, help="with NAME-aligned.png")
    args = parser.parse_args()
    if args.command == "place":
        print(place(ImageDataset(args.set), args.count))
        return
    stems = [Path(name).stem for name in listed() if (args.folder / f"{Path(name).stem}-aligned.png").exists()]
    photos, drawings = (
        [read_image(args.folder / f"{stem}-{column}.png") for stem in stems] for column in ("aligned", "drawn")
    )
    print(table(photos, drawings))


if __name__ == "__main__":
    main()

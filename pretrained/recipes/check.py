"""The figures on the model cards: how often a face detector finds a face in uncurated seeds, and a sample grid.

    python pretrained/recipes/check.py --network faces --out runs/check
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from stylegan_toon import ToonError, generate, load_network
from stylegan_toon.data.align import detect_faces
from stylegan_toon.data.images import image_grid, save_image, to_pil
from stylegan_toon.files import output_folder


def has_face(image: Image.Image) -> bool:
    try:
        return bool(detect_faces(image))
    except ToonError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--psi", type=float, default=0.7)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    out = output_folder(args.out)
    images = [to_pil(x) for x in generate(load_network(args.network), range(args.seeds), psi=args.psi)]
    # Twice the size: the detector looks for faces of 20 px and more, and wants some border around them.
    found = [has_face(image.resize((256, 256))) for image in images]
    name = Path(args.network).stem
    save_image(image_grid(images[:32], columns=8), out / f"{name}.png")
    report = {"network": args.network, "psi": args.psi, "seeds": args.seeds, "detected": sum(found) / len(found)}
    (out / f"{name}.json").write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""The figures on the model cards: how often a face detector finds a face in uncurated seeds, and a sample grid.

    python pretrained/recipes/check.py --network faces --out runs/check
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stylegan_toon import generate, load_network
from stylegan_toon.data.align import has_face
from stylegan_toon.data.images import image_grid, save_image, to_pil
from stylegan_toon.files import output_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--psi", type=float, default=0.7)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    out = output_folder(args.out)
    images = [to_pil(x) for x in generate(load_network(args.network), range(args.seeds), psi=args.psi)]
    found = [has_face(image) for image in images]
    name = Path(args.network).stem
    save_image(image_grid(images[:24], columns=8, size=192), out / f"{name}.jpg")
    report = {"network": args.network, "psi": args.psi, "seeds": args.seeds, "detected": sum(found) / len(found)}
    (out / f"{name}.json").write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""The picture at the top of the README: photos, their projections by `faces`, the toons, and the renderer's drawings.

python pretrained/recipes/sheet.py pretrained/examples/portrait.jpg others/*.jpg --out runs/sheet.png
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from stylegan_toon import load_network
from stylegan_toon.data.images import image_grid, save_image
from stylegan_toon.drawing import draw
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.memory import keep_pages
from stylegan_toon.pipelines.defaults import TOONIFY_STYLE
from stylegan_toon.pipelines.project import project
from stylegan_toon.pipelines.toonify import Toonifier
from stylegan_toon.weights.latent import Latent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--styles", nargs="+", default=[TOONIFY_STYLE, "comic", "animated"])
    parser.add_argument("--drawn", nargs="+", default=["comic", "ink"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    keep_pages()
    toonifier, toons = Toonifier.load(), [load_network(style) for style in args.styles]
    faces, side = toonifier.base, toonifier.resolution
    cells, labels = [], ["photo", "projected", *args.styles, *(f"{style}, drawn" for style in args.drawn)]
    for photo in args.photos:
        crop = open_photo(photo, side).faces[0].image
        found = project(faces, crop, toonifier.inversion, noise=False, measure=toonifier.measure)
        latent = Latent(found.ws)
        shown = [replace(toonifier, toon=toon).show(latent, found.generator, photo=crop) for toon in toons]
        cells += [crop, shown[0][0], *(toon for _, toon in shown)]
        cells += [draw(crop, style) for style in args.drawn]
        print(f"{photo.name}: {found.psnr:.1f} dB in {found.seconds:.0f} s", flush=True)
    save_image(image_grid(cells, columns=len(labels), size=args.size, column_labels=labels), args.out)


if __name__ == "__main__":
    main()

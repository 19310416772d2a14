"""Compare AnimeGAN with StyleGAN's toonify on the same photos, in one picture."""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from PIL import Image

from stylegan_toon import cli
from stylegan_toon.data.images import image_grid, save_image
from stylegan_toon.faces.align import largest
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.files import output_folder, refuse_overwrite
from stylegan_toon.inversion.config import InversionConfig
from stylegan_toon.memory import keep_pages
from stylegan_toon.pipelines.defaults import TOONIFY_SWAP
from stylegan_toon.pipelines.toonify import Toonifier

from .infer import NETWORK, load_generator, stylise

SIZE = 256
COLUMNS = ["photo", "AnimeGAN", "StyleGAN: projected", "StyleGAN: toon"]


@cli.command("python -m projects.animegan.compare photos/*.jpg")
@click.argument("photos", type=cli.PATH, nargs=-1, required=True)
@NETWORK
@cli.base()
@cli.toon()
@cli.swap(TOONIFY_SWAP)
@click.option("--aligned", is_flag=True, help="The photos are aligned square crops already.")
@click.option("--steps", type=cli.integer(1), help="Steps of projection; those of toonify if not given.")
@click.option("--tune", type=cli.integer(0), help="Steps of pivotal tuning; those of toonify if not given.")
@click.option("--features", default="vgg", help="Perceptual distance: vgg, lpips or a file.")
@cli.out("out/compare")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    photos: tuple[Path, ...], network: Path, base: str, toon: str, swap: str, aligned: bool, steps: int, tune: int,
    features: str, out: Path, device: torch.device, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Compare both on the largest face of every photo.

    Writes compare.png with a row for each face, and prints the seconds that each takes for a face.
    """
    keep_pages()
    refuse_overwrite([out / "compare.png"], overwrite)
    G = load_generator(network, device)
    config = InversionConfig(steps=steps, tune_steps=tune, features=features)
    toonifier = Toonifier.load(base, toon, swap, config=config, device=device)
    output_folder(out)
    rows: list[Image.Image] = []
    spent = [0.0, 0.0]
    for photo in cli.progress(photos, quiet=quiet, unit="photo"):
        face = largest(open_photo(photo, SIZE, aligned=aligned).faces)
        started = time.perf_counter()
        drawn = stylise(G, face.image)
        between = time.perf_counter()
        made = toonifier(open_photo(face.image, toonifier.resolution, aligned=True))[0]
        spent = [spent[0] + between - started, spent[1] + time.perf_counter() - between]
        rows += [face.image, drawn, made.inverted, made.image]
    save_image(image_grid(rows, len(COLUMNS), size=SIZE, column_labels=COLUMNS), out / "compare.png")
    click.echo(f"seconds a face: AnimeGAN {spent[0] / len(photos):.2f}, toonify {spent[1] / len(photos):.1f}", err=True)
    click.echo(out / "compare.png")


if __name__ == "__main__":
    main()

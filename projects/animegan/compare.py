"""The same photos through AnimeGAN and through StyleGAN toonify, as one picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image

from stylegan_toon import cli
from stylegan_toon.data.images import image_grid, save_image
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.features.perceptual import perceptual
from stylegan_toon.files import output_folder, refuse_overwrite
from stylegan_toon.memory import keep_pages
from stylegan_toon.pipelines.toonify import STEPS, SWAP, TUNE, toonify
from stylegan_toon.weights import load_network

from .infer import NETWORK, load_generator, stylise

SIZE = 256
COLUMNS = ["photo", "AnimeGAN", "StyleGAN: projected", "StyleGAN: toon"]


@cli.command("python -m projects.animegan.compare photos/*.jpg")
@click.argument("photos", type=cli.PATH, nargs=-1, required=True)
@NETWORK
@cli.base()
@cli.toon()
@cli.swap(SWAP)
@click.option("--aligned", is_flag=True, help="The photos are aligned square crops already.")
@click.option("--steps", type=click.IntRange(1), default=STEPS, help="Steps of projection.")
@click.option("--tune", type=click.IntRange(0), default=TUNE, help="Steps of pivotal tuning.")
@click.option("--features", default="vgg", help="Perceptual distance: vgg, lpips or a file.")
@cli.out("out/compare")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    photos: tuple[Path, ...], network: Path, base: str, toon: str, swap: str, aligned: bool, steps: int, tune: int,
    features: str, out: Path, device: torch.device, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Make the table: a row for every photo's largest face.

    Writes compare.png, and tells how long either takes for one face.
    """
    keep_pages()
    refuse_overwrite([out / "compare.png"], overwrite)
    G = load_generator(network, device)
    networks: list[Any] = [load_network(source, device=device) for source in (base, toon)]
    measure = perceptual(features, device=device)
    output_folder(out)
    rows: list[Image.Image] = []
    spent = [0.0, 0.0]
    for photo in cli.progress(photos, quiet=quiet, unit="photo"):
        faces = open_photo(photo, SIZE, aligned=aligned).faces
        face = max(faces, key=lambda face: abs(face.quad[3] - face.quad[0]).sum()).image
        started = time.perf_counter()
        drawn = stylise(G, face)
        between = time.perf_counter()
        made = toonify(
            face, base=networks[0], toon=networks[1], swap=swap, aligned=True, steps=steps, tune_steps=tune,
            features=measure, device=device,
        ).faces[0]  # fmt: skip
        spent = [spent[0] + between - started, spent[1] + time.perf_counter() - between]
        rows += [face, drawn, made.inverted, made.image]
    save_image(image_grid(rows, len(COLUMNS), size=SIZE, column_labels=COLUMNS), out / "compare.png")
    click.echo(f"seconds a face: AnimeGAN {spent[0] / len(photos):.2f}, toonify {spent[1] / len(photos):.1f}", err=True)
    click.echo(out / "compare.png")


if __name__ == "__main__":
    main()

"""Translate photos into cartoons, or cartoons into photos, with a trained CycleGAN."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from PIL import Image, ImageOps

from projects._common import each_picture, load_of_project
from stylegan_toon import cli
from stylegan_toon.data.images import to_rgb
from stylegan_toon.dataset_builder.filters import remove_background
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.align import largest
from stylegan_toon.faces.photo import open_photo

from .model import Generator
from .train import translate

SHIPPED = Path(__file__).with_name("drawings64.safetensors")
NETWORKS = {"cartoon": "toon", "photo": "photo"}  # --to -> the network that makes it
WORKING_SIZE = 256  # px: where background removal works best


def load_generator(path: Path, to: str = "cartoon", device: torch.device | str = "cpu") -> Generator:
    """The generator of a file that `train` wrote, for one direction.

    Raises:
        ToonError: no such file, damaged, or of another project.
    """
    return load_of_project(path, NETWORKS[to], Generator, "cyclegan", device)


def cut_out(photo: Image.Image, white: bool = False) -> Image.Image:
    """The largest face of a photo, aligned as in the training sets; with ``white``, on white as `prepare` does it.

    Raises:
        ToonError: there is no face in it.
    """
    face = largest(open_photo(photo, WORKING_SIZE).faces)
    return to_rgb(remove_background(face.image)) if white else face.image


@cli.command(
    """python -m projects.cyclegan.infer photo.jpg --align
python -m projects.cyclegan.infer drawings/ --to photo
python -m projects.cyclegan.infer photos/ --align --white --network runs/cyclegan/network.safetensors"""
)
@click.argument("source", metavar="SOURCE")
@click.option(
    "--network", type=cli.PATH, default=SHIPPED, show_default=SHIPPED.name, help="The file a training ends with."
)  # fmt: skip
@click.option("--to", type=click.Choice(list(NETWORKS)), default="cartoon", help="What to make.")
@click.option("--align", is_flag=True, help="Cut out the largest face first.")
@click.option("--white", is_flag=True, help="With --align: whiten what is behind it, as prepare does.")
@click.option("--size", type=click.IntRange(16, 2048), default=64, help="Side to work at; best that of training.")
@click.option("--limit", type=click.IntRange(1), help="Only so many pictures, in order of name.")
@cli.out("out/cyclegan")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    source: str, network: Path, to: str, align: bool, white: bool, size: int, limit: int | None, out: Path,
    device: torch.device, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Translate a picture, or every picture of a folder or set SOURCE; sheet.png shows the first few.

    Without --align pictures are cut to squares about their centre, and should look like those of the training set.
    """
    if white and not align:
        raise ToonError("--white goes with --align: add it.")
    G = load_generator(network, to, device)
    side = size // 4 * 4

    def convert(image: Image.Image) -> Image.Image:
        face = cut_out(image, white) if align else image
        return translate(G, ImageOps.fit(face, (side, side), Image.Resampling.LANCZOS))

    labels = ("photo", "cartoon") if to == "cartoon" else ("cartoon", "photo")
    each_picture(
        source, out, convert, labels=labels, size=max(side, 96), limit=limit, overwrite=overwrite, quiet=quiet
    )  # fmt: skip
    click.echo(out)


if __name__ == "__main__":
    main()

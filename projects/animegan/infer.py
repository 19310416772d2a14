"""Give photos, folders of photos and videos the style of a trained network."""

from __future__ import annotations

from pathlib import Path

import click
import torch
import torch.nn.functional as F
from PIL import Image

from projects._common import each_picture, load_of_project
from stylegan_toon import cli
from stylegan_toon.data.images import shrink, to_pil, to_tensor
from stylegan_toon.data.sources import VIDEO_SUFFIXES
from stylegan_toon.errors import ToonError
from stylegan_toon.memory import keep_pages

from .model import AnimeGenerator
from .video import convert_video

MULTIPLE = 8  # heights and widths are padded to multiples of this
SMALLEST = 32  # pixels; smaller pictures cannot be padded by reflection
SHIPPED = Path(__file__).with_name("comic.safetensors")
NETWORK = click.option(
    "--network", type=cli.PATH, default=SHIPPED, show_default=SHIPPED.name, help="A file that train wrote."
)


def load_generator(path: Path, device: torch.device | str = "cpu") -> AnimeGenerator:
    """The generator of a file that `train` wrote, in channels_last layout, in which it is fastest.

    Raises:
        ToonError: no such file, damaged, or of another project.
    """
    G = load_of_project(path, "G", AnimeGenerator, "animegan", device)
    return G.to(memory_format=torch.channels_last)


@torch.no_grad()
def stylise(G: AnimeGenerator, picture: Image.Image, max_side: int | None = None) -> Image.Image:
    """The picture in the network's style, in its own size (or with its longer side at most ``max_side``).

    Raises:
        ToonError: it is smaller than 32 pixels.
    """
    if max_side is not None:
        picture = shrink(picture, max_side)
    width, height = picture.size
    if min(width, height) < SMALLEST:
        raise ToonError(f"A picture of {width}x{height} pixels is too small: give one of {SMALLEST} or more.")
    device = next(G.parameters()).device
    img = F.pad(to_tensor(picture).to(device), (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="reflect")
    img = G(img.contiguous(memory_format=torch.channels_last))
    return to_pil(img[..., :height, :width])


@cli.command(
    """python -m projects.animegan.infer photo.jpg
python -m projects.animegan.infer photos/ --network runs/animegan/network.safetensors --out stylised
python -m projects.animegan.infer film.mp4 --max-side 640"""
)
@click.argument("source", type=cli.PATH)
@NETWORK
@click.option(
    "--max-side", type=click.IntRange(SMALLEST, 8192), default=1536, help="Reduce larger pictures to so many pixels."
)  # fmt: skip
@cli.out("out/animegan")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    source: Path, network: Path, max_side: int, out: Path, device: torch.device, quiet: bool, overwrite: bool
) -> None:
    """Stylise a photo, a folder or zip of photos, or a video.

    Writes NAME.png for each and sheet.png, or NAME.mp4 with the sound of the video.
    """
    keep_pages()
    G = load_generator(network, device)

    def convert(picture: Image.Image) -> Image.Image:
        return stylise(G, picture, max_side)

    if source.suffix.lower() in VIDEO_SUFFIXES and source.is_file():
        click.echo(convert_video(source, out, convert, quiet=quiet, overwrite=overwrite))
    else:
        each_picture(source, out, convert, labels=("photo", "stylised"), size=256, overwrite=overwrite, quiet=quiet)
        click.echo(out)


if __name__ == "__main__":
    main()

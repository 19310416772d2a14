"""Translate faces into cartoons, or cartoons into faces, with a trained XGAN."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from PIL import Image

from projects._common import SHEET, each_picture
from stylegan_toon import cli
from stylegan_toon.data.images import image_grid, read_image, save_image, to_pil, to_rgb, to_tensor
from stylegan_toon.dataset_builder.filters import remove_background
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.align import largest
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.files import output_folder, refuse_overwrite
from stylegan_toon.memory import keep_pages
from stylegan_toon.weights import load_networks

from .model import DOMAINS, TRANSLATOR, SharedEncoder, Xgan

SHIPPED = Path(__file__).with_name("xgan.safetensors")
SEGMENTED_AT = 256  # pixels; background removal works best about here


def load_xgan(path: Path, device: torch.device | str = "cpu") -> Xgan:
    """The translator of a file that `train` wrote, or of a folder of components.

    Raises:
        ToonError: a component is missing, or is something else.
    """
    if path.is_dir():
        networks = {
            name: load_networks(path / f"{name}.safetensors", which=[name], device=device)[name] for name in TRANSLATOR
        }
    else:
        networks = load_networks(path, which=TRANSLATOR, device=device)
    if len({getattr(network, "config", None) for network in networks.values()}) > 1:
        raise ToonError(f"The components in {path} do not belong together: take those of one training.")
    return Xgan(networks)


def segment(photo: Image.Image, *, aligned: bool = False, matting: str = "walker") -> Image.Image:
    """The largest face of a photo, aligned as in FFHQ, on white.

    Raises:
        ToonError: there is no face in it.
    """
    face = largest(open_photo(photo, SEGMENTED_AT, aligned=aligned).faces)
    return to_rgb(remove_background(face.image, matting))


def translate(xgan: Xgan, picture: Image.Image, source: int, *, clean: bool = True) -> Image.Image:
    """A picture of the domain ``source`` (0 faces, 1 cartoons) as one of the other, at the network's resolution."""
    network = xgan.networks["e_shared"]
    if not isinstance(network, SharedEncoder):
        raise ToonError("The network e_shared is not one of XGAN: give a file that projects.xgan.train made.")
    size = network.config.resolution
    small = picture.resize((size, size), Image.Resampling.LANCZOS)
    img = to_tensor(small).to(next(network.parameters()).device)
    return to_pil(xgan.translate(img, source, clean=clean))


@cli.command(
    """python -m projects.xgan.infer photos/ --out out/avatars
python -m projects.xgan.infer crops/ --aligned --network runs/xgan/network.safetensors
python -m projects.xgan.infer avatars.zip --source cartoons"""
)
@click.argument("pictures", type=cli.PATH)
@click.option("--network", type=cli.PATH, default=SHIPPED, show_default=SHIPPED.name, help="A file, or components/.")
@click.option("--source", type=click.Choice(DOMAINS), default="faces", help="What the pictures show.")
@click.option("--aligned", is_flag=True, help="The photos are aligned square crops already.")
@click.option("--segmented", is_flag=True, help="They are on white already, too.")
@click.option(
    "--matting", type=click.Choice(["walker", "rembg"]), default="walker", help="How the background is removed."
)
@click.option("--clean/--raw", default=True, help="Whether the denoiser is applied to the cartoons.")
@cli.out("out/xgan")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    pictures: Path, network: Path, source: str, aligned: bool, segmented: bool, matting: str, clean: bool, out: Path,
    device: torch.device, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Translate a picture, or every picture of a folder or set.

    Writes the inputs of the network to segmented/, its outputs to generated/, and sheet.png.
    """
    keep_pages()
    xgan, domain = load_xgan(network, device), DOMAINS.index(source)
    cut, generated = out / "segmented", output_folder(out / "generated")

    def prepare(picture: Image.Image) -> Image.Image:
        if domain == 0 and not segmented:
            return segment(picture, aligned=aligned, matting=matting)
        return picture.resize((SEGMENTED_AT, SEGMENTED_AT), Image.Resampling.LANCZOS)

    refuse_overwrite([out / "sheet.png"], overwrite)
    shown: list[Image.Image] = []
    for path in each_picture(pictures, cut, prepare, labels=("photo", "segmented"), overwrite=overwrite, quiet=quiet):
        picture = read_image(path)
        made = translate(xgan, picture, domain, clean=clean)
        save_image(made, generated / path.name)
        shown += [picture, made] if len(shown) < 2 * SHEET else []
    save_image(image_grid(shown, 2, size=128, column_labels=[source, DOMAINS[1 - domain]]), out / "sheet.png")
    click.echo(out)


if __name__ == "__main__":
    main()

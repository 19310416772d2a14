"""Photo to cartoon: find the faces, project them, show the same latents with a blended network; or draw them."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from . import cli
from .data.images import save_image
from .drawing import STYLES
from .errors import ToonError
from .faces.photo import open_photo
from .files import output_folder, refuse_overwrite
from .memory import keep_pages
from .models.swap import swap_layers
from .pipelines.project import progress_bar
from .pipelines.toonify import RESOLUTION, STEPS, SWAP, TUNE, draw_faces, side_of, toonify
from .weights import catalogue, load_network, name_of


def _paths(photo: Path, out: Path, count: int, paste: bool, ending: str) -> tuple[list[Path], Path, list[Path]]:
    """Paths of the cartoons, of the sheet, and of the pasted photo (none or one)."""
    names = [photo.stem] if count == 1 else [f"{photo.stem}-{i + 1}" for i in range(count)]
    toons = [out / f"{name}-{ending}.png" for name in names]
    return toons, out / f"{photo.stem}-sheet.png", [out / f"{photo.stem}-pasted.png"] if paste else []


@cli.command(
    "python -m stylegan_toon.toonify photo.jpg\n"
    "python -m stylegan_toon.toonify photo.jpg --draw --style ink\n"
    "python -m stylegan_toon.toonify party.jpg --face 2 --paste-back --swap b64- --out out/party"
)
@click.argument("photos", type=cli.PATH, nargs=-1, required=True)
@cli.base()
@cli.toon()
@cli.swap(SWAP)
@click.option("--width", type=click.FloatRange(0, min_open=True), help="Smooth the swap: a logistic curve, in octaves.")
@click.option("--draw", "drawn", is_flag=True, help="Draw the face in --style without any network, in seconds.")
@click.option(
    "--resolution", type=click.IntRange(8, 4096), help="Side of the cartoon: 256, 512 or 1024 px.  [default: 512]"
)
@click.option("--face", type=click.IntRange(1), help="Only this face, counted from the left; all if not given.")
@click.option("--aligned", is_flag=True, help="The photos are aligned square crops already.")
@click.option("--paste-back", is_flag=True, help="Also write the whole photo with the cartoons in it.")
@click.option("--steps", type=click.IntRange(1), default=STEPS, help="Steps of projection.")
@click.option("--tune", "tune_steps", type=click.IntRange(0), default=TUNE, help="Steps of pivotal tuning.")
@click.option("--space", type=click.Choice(["w", "w+"]), default="w+", help="One w for all layers, or one for each.")
@click.option("--features", default="vgg", help="Perceptual distance: vgg, lpips or a file.")
@cli.out("out/toonify")
@cli.device()
@cli.accelerate()
@cli.seed(303)
@cli.quiet()
@cli.overwrite()
def main(
    photos: tuple[Path, ...], base: str, toon: str, swap: str, width: float | None, drawn: bool,
    resolution: int | None, face: int | None, aligned: bool, paste_back: bool, steps: int, tune_steps: int,
    space: str, features: str, out: Path, device: torch.device, accelerate: str, seed: int, quiet: bool,
    overwrite: bool,
) -> None:  # fmt: skip
    """Turn photos of people into cartoons.

    Writes NAME-toon.png (NAME-1-toon.png and so on for several faces) and NAME-sheet.png: photo, aligned, inverted
    and toon side by side. With --draw NAME-drawing.png instead, made by a renderer and not by a network. With
    --paste-back also NAME-pasted.png.
    """
    stems = [photo.stem for photo in photos]
    if len(set(stems)) < len(stems):
        raise ToonError("Two of the photos have the same name and would overwrite each other: do them one at a time.")
    keep_pages()
    size, networks = resolution or RESOLUTION, []
    if drawn and toon not in STYLES:
        raise ToonError(f"--draw has no style {toon!r}: say --style {', '.join(STYLES)}.")
    if not drawn and toon in STYLES and toon not in catalogue():
        raise ToonError(f"No network has learnt the style {toon} yet: add --draw to draw without one.")
    if not drawn:
        networks = [load_network(source, device=device) for source in (base, toon)]
        size = side_of(networks[0], resolution)
        swap_layers(*networks, swap, width, names=(name_of(networks[0], base), name_of(networks[1], toon)))  # refuses
    for photo in photos:
        opened = open_photo(photo, size, aligned=aligned, face=face)
        ending = "drawing" if drawn else "toon"
        toons, sheet, pasted = _paths(photo, out, len(opened.faces), paste_back, ending)
        refuse_overwrite([*toons, sheet, *pasted], overwrite)
        output_folder(out)
        if drawn:
            result = draw_faces(opened, toon)
        else:
            bar, move = progress_bar((steps + tune_steps) * len(opened.faces), photo.name, quiet)
            with bar:
                result = toonify(
                    opened, base=networks[0], toon=networks[1], swap=swap, width=width, resolution=size, space=space,
                    steps=steps, tune_steps=tune_steps, features=features, accelerate=accelerate, seed=seed,
                    device=device, callback=move,
                )  # fmt: skip
        for path, one in zip(toons, result.faces):
            save_image(one.image, path)
        save_image(result.sheet(), sheet)
        for path in pasted:
            save_image(result.pasted(), path)
        if result.interrupted:
            click.echo(f"Stopped early; drafts are in {out}.", err=True)
            raise click.Abort
    click.echo(out)


if __name__ == "__main__":
    main()

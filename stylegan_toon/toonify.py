"""Photo to cartoon: find the faces, project them, show the same latents with a blended network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from . import cli
from ._callable import callable_module
from .data.align import Aligned, paste_back
from .data.faces import Photo, open_photo
from .data.images import image_grid, save_image, to_pil
from .errors import ToonError
from .files import output_folder, refuse_overwrite
from .nn import Generator
from .nn.generator import is_noise_strength
from .nn.layers import FullyConnected
from .nn.swap import swap_layers
from .project import Projection, progress_bar, project
from .training.inversion import Callback
from .training.memory import keep_pages
from .training.perceptual import Perceptual, perceptual
from .weights import load_network, name_of

SWAP = "b32-"
STEPS, TUNE = 250, 60
PSI = 0.6


@dataclass(frozen=True, eq=False)
class ToonFace:
    """One face on its way.

    Attributes:
        aligned: the crop of the photo and where it lies.
        projection: latent, noise and tuned network.
        inverted: what the base network shows for them.
        image: the cartoon.
    """

    aligned: Aligned
    projection: Projection
    inverted: Image.Image
    image: Image.Image


@dataclass(frozen=True, eq=False)
class Toon:
    """A photo turned into cartoons.

    Attributes:
        photo: the photo, upright RGB.
        faces: from left to right.
        interrupted: stopped by Ctrl-C; what is there is a draft.
    """

    photo: Image.Image
    faces: list[ToonFace]
    interrupted: bool = False

    @property
    def image(self) -> Image.Image:
        """The cartoon of the largest face."""
        return max(self.faces, key=lambda face: np.hypot(*(face.aligned.quad[3] - face.aligned.quad[0]))).image

    def sheet(self) -> Image.Image:
        """Photo, aligned, inverted and toon side by side, a row for each face."""
        pictures = [p for f in self.faces for p in (self.photo, f.aligned.image, f.inverted, f.image)]
        return image_grid(pictures, columns=4, size=256, column_labels=["photo", "aligned", "inverted", "toon"])

    def pasted(self) -> Image.Image:
        """The whole photo with every cartoon in its place."""
        result = self.photo
        for face in self.faces:
            result = paste_back(result, face.aligned, face.image, in_place=result is not self.photo)
        return result


def toonify(
    photo: str | Path | Image.Image | Photo,
    *,
    base: str | Path | Generator = "faces",
    toon: str | Path | Generator = "comic",
    swap: str = SWAP,
    width: float | None = None,
    aligned: bool = False,
    face: int | None = None,
    space: str = "w+",
    steps: int = STEPS,
    tune_steps: int = TUNE,
    psi: float = PSI,
    features: str | Path | Perceptual = "auto",
    accelerate: str = "auto",
    seed: int = 303,
    device: str | torch.device = "cpu",
    callback: Callback | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Toon:
    """Turn the faces of a photo into cartoons.

    Each face is aligned as FFHQ is, projected into ``base`` (`project`), and its latent is shown by the network that
    has the layers in ``swap`` from ``toon`` and the others from the base as tuned to this face.

    Args:
        photo: a path, a picture, or what `open_photo` made of one.
        base, toon: generators that fit together, or sources for `load_network`.
        swap, width: what to take from ``toon``; see `blend`.
        aligned: the photo is an aligned square crop already.
        face: only this one, counted from 1, left to right. None = all.
        space, steps, tune_steps, features, accelerate, seed: see `project`.
        psi: how much of the way from the mean w to the face's the toon's layers go. A w+ that shows a photo well may be
            farther from the mean than anything the toon has learned; at 1 its lines and colours break there.
        device: where to compute.
        callback: gets a `training.inversion.Progress` after every step of every face.
        say: gets a line about which features are used.

    Raises:
        ToonError: what is wrong with the photo, the networks or the swap, in one sentence.
    """
    base, toon = (load_network(n, device=device) if isinstance(n, (str, Path)) else n for n in (base, toon))
    names = name_of(base, "base"), name_of(toon, "toon")
    swap_layers(base, toon, swap, width, names=names)  # refuses what cannot be before the long work
    if not isinstance(photo, Photo):
        photo = open_photo(photo, base.config.resolution, aligned=aligned, face=face)
    measure = perceptual(features, device=device, say=say)
    faces: list[ToonFace] = []
    for crop in photo.faces:
        found = project(
            base, crop.image, space=space, steps=steps, tune_steps=tune_steps, seed=seed, features=measure,
            accelerate=accelerate, callback=callback,
        )  # fmt: skip
        moved = truncated(carry_over(base, found.generator, toon), psi)
        blended = swap_layers(found.generator, moved, swap, width, names=names)
        with torch.no_grad():
            drawn = blended.synthesis(found.ws, noise_mode="const")
        faces.append(ToonFace(crop, found, to_pil(found.image[0]), to_pil(drawn[0])))
        if found.interrupted:
            return Toon(photo.image, faces, interrupted=True)
    return Toon(photo.image, faces)


def carry_over(base: Generator, tuned: Generator, toon: Generator) -> Generator:
    """A copy of ``toon`` whose synthesis weights have moved as those of ``base`` did when it was tuned to a face.

    The toon was taught from the base, so what makes the base show this face makes the toon draw it. Not so the strength
    of the noise: grain that a photo has does not become a drawing.
    """
    moved = copy.deepcopy(toon)
    before, after = dict(base.synthesis.named_parameters()), dict(tuned.synthesis.named_parameters())
    with torch.no_grad():
        for name, ours in moved.synthesis.named_parameters():
            if not is_noise_strength(name):
                ours += after[name] - before[name]
    return moved


@torch.no_grad()
def truncated(G: Generator, psi: float) -> Generator:
    """``G``, changed: for every w its synthesis now does what it did for ``w_avg + psi * (w - w_avg)``.

    The truncation trick (StyleGAN, Karras et al. 2019, appendix B) put into the weights, which can be done since styles
    are linear in w: so it stays with a layer that is swapped.
    """
    mean = G.mapping.w_avg[None]
    for layer in G.synthesis.modules():
        if isinstance(affine := getattr(layer, "affine", None), FullyConnected):
            affine.bias += (1 - psi) * (affine(mean) - affine(torch.zeros_like(mean)))[0]
            affine.weight *= psi
    return G


def _paths(photo: Path, out: Path, count: int, paste: bool) -> tuple[list[Path], Path, list[Path]]:
    """Paths of the cartoons, of the sheet, and of the pasted photo (none or one)."""
    stem = photo.stem
    toons = [out / (f"{stem}-toon.png" if count == 1 else f"{stem}-{i + 1}-toon.png") for i in range(count)]
    return toons, out / f"{stem}-sheet.png", [out / f"{stem}-pasted.png"] if paste else []


@cli.verb(
    "python -m stylegan_toon.toonify photo.jpg\n"
    "python -m stylegan_toon.toonify party.jpg --face 2 --paste-back --swap b64- --out out/party"
)
@click.argument("photos", type=cli.PATH, nargs=-1, required=True)
@cli.base()
@cli.toon()
@cli.swap(SWAP)
@click.option("--width", type=float, help="Smooth the swap with a logistic curve of this width in octaves.")
@click.option("--face", type=click.IntRange(1), help="Only this face, counted from the left; all if not given.")
@click.option("--aligned", is_flag=True, help="The photos are aligned square crops already.")
@click.option("--paste-back", is_flag=True, help="Also write the whole photo with the cartoons in it.")
@click.option("--steps", type=click.IntRange(1), default=STEPS, help="Steps of projection.")
@click.option("--tune", "tune_steps", type=click.IntRange(0), default=TUNE, help="Steps of pivotal tuning.")
@click.option(
    "--psi", type=click.FloatRange(0, 1), default=PSI, help="How much of the face's latent the toon's layers see."
)
@click.option("--space", type=click.Choice(["w", "w+"]), default="w+", help="One w for all layers, or one for each.")
@click.option("--features", default="auto", help="Perceptual distance: auto, lpips, discriminator or a file.")
@cli.out("out/toonify")
@cli.device()
@cli.accelerate()
@cli.seed(303)
@cli.quiet()
@cli.overwrite()
def main(
    photos: tuple[Path, ...], base: str, toon: str, swap: str, width: float | None, face: int | None, aligned: bool,
    paste_back: bool, steps: int, tune_steps: int, psi: float, space: str, features: str, out: Path,
    device: torch.device, accelerate: str, seed: int, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Turn photos of people into cartoons.

    Writes NAME-toon.png (NAME-1-toon.png and so on for several faces) and NAME-sheet.png: photo, aligned, inverted
    and toon side by side. With --paste-back also NAME-pasted.png.
    """
    stems = [photo.stem for photo in photos]
    if len(set(stems)) < len(stems):
        raise ToonError("Two of the photos have the same name and would overwrite each other: do them one at a time.")
    keep_pages()
    networks = [load_network(source, device=device) for source in (base, toon)]
    swap_layers(*networks, swap, width, names=(name_of(networks[0], base), name_of(networks[1], toon)))  # or refuses
    for photo in photos:
        opened = open_photo(photo, networks[0].config.resolution, aligned=aligned, face=face)
        toons, sheet, pasted = _paths(photo, out, len(opened.faces), paste_back)
        refuse_overwrite([*toons, sheet, *pasted], overwrite)
        output_folder(out)
        features = perceptual(features, device=device, say=lambda line: click.echo(line, err=True))
        bar, move = progress_bar((steps + tune_steps) * len(opened.faces), photo.name, quiet)
        with bar:
            result = toonify(
                opened, base=networks[0], toon=networks[1], swap=swap, width=width, space=space, steps=steps,
                tune_steps=tune_steps, psi=psi, features=features, accelerate=accelerate, seed=seed, device=device,
                callback=move,
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

callable_module(__name__, toonify)

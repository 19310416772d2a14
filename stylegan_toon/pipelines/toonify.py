"""Photo to cartoon: find the faces, project them, show the same latents with a blended network; or draw them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.images import image_grid, to_pil
from ..drawing import draw
from ..errors import ToonError
from ..faces.align import Aligned, paste_back
from ..faces.photo import Photo, open_photo
from ..features.perceptual import Perceptual, perceptual
from ..inversion.optimise import Callback
from ..models import Generator
from ..models.stylegan2 import is_noise_strength
from ..models.swap import swap_layers
from ..weights import load_network, name_of
from .project import Projection, project

SWAP = "b4-"
STEPS, TUNE = 90, 25
RESOLUTION = 512


@dataclass(frozen=True, eq=False)
class ToonFace:
    """One face on its way.

    Attributes:
        aligned: the crop of the photo and where it lies.
        image: the cartoon.
        projection: latent, noise and tuned network; None if the face was drawn.
        inverted: what the base network shows for them; None if the face was drawn.
    """

    aligned: Aligned
    image: Image.Image
    projection: Projection | None = None
    inverted: Image.Image | None = None


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
        """Photo, aligned face, what the base network made of it (if it was asked) and toon; a row for each face."""
        rows = [[self.photo, f.aligned.image, f.inverted, f.image] for f in self.faces]
        labels = ["photo", "aligned", "inverted", "toon"]
        if any(face.inverted is None for face in self.faces):
            rows, labels = [[*row[:2], row[3]] for row in rows], ["photo", "aligned", "drawing"]
        pictures = [picture for row in rows for picture in row if picture is not None]
        return image_grid(pictures, columns=len(labels), size=256, column_labels=labels)

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
    resolution: int | None = None,
    aligned: bool = False,
    face: int | None = None,
    space: str = "w+",
    steps: int = STEPS,
    tune_steps: int = TUNE,
    features: str | Path | Perceptual = "vgg",
    accelerate: str = "auto",
    seed: int = 303,
    device: str | torch.device = "cpu",
    callback: Callback | None = None,
) -> Toon:
    """Turn the faces of a photo into cartoons.

    Each face is aligned as FFHQ is, projected into ``base`` (`project`), and its latent is shown by the network that
    has the layers in ``swap`` from ``toon`` and the others from the base as tuned to this face.

    Args:
        photo: a path, a picture, or what `open_photo` made of one.
        base, toon: generators that fit together, or sources for `load_network`.
        swap, width: what to take from ``toon``; see `blend`.
        resolution: side of the cartoon, one that the networks make; None = 512, or their own where they make no such.
        aligned: the photo is an aligned square crop already.
        face: only this one, counted from 1, left to right. None = all.
        space, steps, tune_steps, features, accelerate, seed: see `project`.
        device: where to compute.
        callback: gets a `inversion.optimise.Progress` after every step of every face.

    Raises:
        ToonError: what is wrong with the photo, the networks or the swap, in one sentence.
    """
    base, toon = (load_network(n, device=device) if isinstance(n, (str, Path)) else n for n in (base, toon))
    names = name_of(base, "base"), name_of(toon, "toon")
    size = side_of(base, resolution)
    swap_layers(base, toon, swap, width, names=names)  # refuses what cannot be before the long work
    if not isinstance(photo, Photo):
        photo = open_photo(photo, size, aligned=aligned, face=face)
    measure = perceptual(features, device=device)
    faces: list[ToonFace] = []
    for crop in photo.faces:
        found = project(
            base, crop.image, space=space, steps=steps, tune_steps=tune_steps, seed=seed, noise=False,
            features=measure, accelerate=accelerate, callback=callback,
        )  # fmt: skip
        blended = swap_layers(found.generator, carry_over(base, found.generator, toon), swap, width, names=names)
        with torch.no_grad():
            shown, drawn = (
                to_pil(network.synthesis(found.ws, noise_mode="const", resolution=size)[0])
                for network in (found.generator, blended)
            )
        faces.append(ToonFace(crop, drawn, found, shown))
        if found.interrupted:
            return Toon(photo.image, faces, interrupted=True)
    return Toon(photo.image, faces)


def side_of(network: Generator, resolution: int | None) -> int:
    """The side of the pictures to make.

    Raises:
        ToonError: the network makes none of ``resolution``.
    """
    sides = network.config.head_resolutions
    if resolution is None:
        return RESOLUTION if RESOLUTION in sides else sides[-1]
    if resolution not in sides:
        raise ToonError(f"These networks make pictures of {', '.join(map(str, sides))} px: choose one of them.")
    return resolution


def draw_faces(
    photo: str | Path | Image.Image | Photo,
    style: str = "comic",
    *,
    resolution: int = RESOLUTION,
    aligned: bool = False,
    face: int | None = None,
) -> Toon:
    """Draw the faces of a photo without any network: the renderer that the networks have learnt from.

    Args:
        photo: a path, a picture, or what `open_photo` made of one.
        style: one of `drawing.STYLES`.
        resolution: side of the drawings in pixels.
        aligned, face: as for `toonify`.

    Raises:
        ToonError: what is wrong with the photo, or no such style.
    """
    if not isinstance(photo, Photo):
        photo = open_photo(photo, resolution, aligned=aligned, face=face)
    return Toon(photo.image, [ToonFace(crop, draw(crop.image, style)) for crop in photo.faces])


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

"""Photo to cartoon: find the faces, project them, show the same latents with a blended network; or draw them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from PIL import Image

from ..data.images import image_grid, shrink, to_pil
from ..data.metadata import PLAIN, Metadata
from ..drawing import draw
from ..drawing.keep_colour import keep_colour
from ..drawing.scene import draw_scene
from ..drawing.sharpen import sharpen
from ..drawing.soften import soften_lines
from ..faces.align import Aligned, largest
from ..faces.doubts import without_doubtful
from ..faces.paste import paste_back
from ..faces.photo import Photo, open_photo
from ..features.perceptual import Perceptual, perceptual
from ..inversion.config import InversionConfig
from ..inversion.optimise import Callback
from ..models import Generator, MobileGenerator
from ..models.sides import checked_side, side_or_largest
from ..models.stylegan2 import is_noise_strength
from ..models.swap import swap_layers
from ..weights import load_network, name_of, same_file
from ..weights.latent import Latent, network_of
from .covered import COVERED, misfit
from .defaults import (
    RESOLUTION,
    SHARPEN,
    SOFTEN,
    STEPS,
    STEPS_FROM_ENCODER,
    TOONIFY_DRAWING,
    TOONIFY_STYLE,
    TOONIFY_SWAP,
    TUNE_STEPS,
    TUNE_STEPS_MUON,
)
from .project import Projection, project, starting_encoder


@dataclass(frozen=True, eq=False)
class ToonFace:
    """One face of a photo and its cartoon.

    Attributes:
        aligned: the crop of the photo and where it lies.
        image: the cartoon.
        projection: latent, noise and tuned network; None if the face was drawn, or its latent given.
        inverted: what the base network shows for them; None if the face was drawn.
    """

    aligned: Aligned
    image: Image.Image
    projection: Projection | None = None
    inverted: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class Toon(Sequence[ToonFace]):
    """A photo and its cartoons: a sequence with one `ToonFace` for each face, from left to right.

    Attributes:
        photo: the photo, upright RGB.
        faces: from left to right.
        interrupted: stopped by Ctrl-C; the last face is a draft, and faces after it are missing.
        metadata: EXIF and colours of the photo, for what is pasted into it.
    """

    photo: Image.Image
    faces: list[ToonFace]
    interrupted: bool = False
    metadata: Metadata = PLAIN

    def __len__(self) -> int:
        return len(self.faces)

    @overload
    def __getitem__(self, index: int) -> ToonFace: ...
    @overload
    def __getitem__(self, index: slice) -> list[ToonFace]: ...
    def __getitem__(self, index: int | slice) -> ToonFace | list[ToonFace]:
        return self.faces[index]

    def __iter__(self) -> Iterator[ToonFace]:
        return iter(self.faces)

    @property
    def image(self) -> Image.Image:
        """The cartoon of the largest face."""
        biggest = largest([face.aligned for face in self.faces])
        return next(face.image for face in self.faces if face.aligned is biggest)

    def sheet(self) -> Image.Image:
        """A row for each face: photo, aligned face, what the base network shows for it (if one was used), cartoon."""
        # Converted small: a photo has many more pixels than a cell of the sheet.
        photo = self.photo if self.metadata.profile is None else self.metadata.to_srgb(shrink(self.photo, 1024))
        rows = [[photo, f.aligned.image, f.inverted, f.image] for f in self.faces]
        labels = ["photo", "aligned", "inverted", "toon"]
        if any(face.inverted is None for face in self.faces):
            rows, labels = [[*row[:2], row[3]] for row in rows], ["photo", "aligned", "drawing"]
        pictures = [picture for row in rows for picture in row if picture is not None]
        return image_grid(pictures, columns=len(labels), size=256, column_labels=labels)

    def pasted(self, background: str | None = None) -> Image.Image:
        """The whole photo with every cartoon in its place, through a soft mask of the head and its hair.

        It is in the photo's colours: save it with ``metadata``.

        Args:
            background: the rest of the photo is drawn in this style, one of `drawing.STYLES`. None = it stays a photo.

        Raises:
            ToonError: there is no such style.
        """
        crops = [face.aligned for face in self.faces]
        result = self.photo if background is None else draw_scene(self.photo, background, crops)
        for face in sorted(self.faces, key=lambda face: face.aligned.side):  # the nearest head last
            new = result is not self.photo
            cartoon = self.metadata.from_srgb(face.image)
            result = paste_back(result, face.aligned, cartoon, others=crops, in_place=new)
        return result


@dataclass(frozen=True, eq=False)
class Toonifier:
    """Two networks and how to use them, checked once and then used for any number of photos; made by `load`.

    Attributes:
        base, toon: generators that fit together, on one device.
        swap, width: the layers to take from ``toon``; see `blend`.
        resolution: side of the cartoons in pixels.
        inversion: how faces are projected into ``base``.
        measure: the perceptual distance of the projection.
        strength: from 0 (what ``base`` shows for the photo) to 1 (the cartoon).
        preserve_colour: the cartoon of a photo gets the photo's colours.
        sharpen: how much its lines are sharpened, see `drawing.sharpen.sharpen`; less where ``strength`` is below 1.
        soften: how far lines in the skin are lightened, see `drawing.soften.soften_lines`; times ``strength``.
    """

    base: Generator
    toon: Generator
    swap: str
    width: float | None
    resolution: int
    inversion: InversionConfig
    measure: Perceptual
    strength: float = 1.0
    preserve_colour: bool = True
    sharpen: float = SHARPEN
    soften: float = SOFTEN

    @classmethod
    def load(
        cls,
        base: str | Path | Generator = "faces",
        toon: str | Path | Generator = TOONIFY_STYLE,
        swap: str = TOONIFY_SWAP,
        width: float | None = None,
        *,
        strength: float = 1.0,
        preserve_colour: bool = True,
        sharpen: float = SHARPEN,
        soften: float = SOFTEN,
        resolution: int | None = None,
        config: InversionConfig | None = None,
        device: str | torch.device = "cpu",
    ) -> Toonifier:
        """Load the networks and check that they fit together; see `toonify` for arguments and errors."""
        base, toon = (load_network(n, device=device) if isinstance(n, (str, Path)) else n for n in (base, toon))
        size = side_or_largest(base, RESOLUTION) if resolution is None else checked_side(base, resolution)
        inversion = config or InversionConfig()
        steps = STEPS if starting_encoder(base, inversion) is None else STEPS_FROM_ENCODER
        quick = inversion.tune_optimizer == "muon" and isinstance(base, MobileGenerator)
        quick = quick and inversion.tune_blocks == "coarse"
        inversion = inversion.with_defaults(steps, TUNE_STEPS_MUON if quick else TUNE_STEPS)
        measure = perceptual(inversion.features, device=device)
        toonifier = cls(base, toon, swap, width, size, inversion, measure, strength, preserve_colour, sharpen, soften)
        toonifier.blended(base, toon)  # raises ToonError where the networks do not fit the swap
        if base is toon or same_file(base, toon):
            warnings.warn(
                f"base and toon are one network ({name_of(base, 'base')}): the cartoon will be the inverted photo.",
                stacklevel=2,
            )
        return toonifier

    def __call__(self, photo: Photo, callback: Callback | None = None) -> Toon:
        """The cartoons of all faces of a photo; see `toonify`."""
        faces: list[ToonFace] = []
        for aligned in photo.faces:
            face, interrupted = self.face(aligned, callback)
            faces.append(face)
            if interrupted:
                return Toon(photo.image, faces, interrupted=True, metadata=photo.metadata)
        return Toon(photo.image, faces, metadata=photo.metadata)

    def with_latents(self, photo: Photo, latents: Sequence[Latent]) -> Toon:
        """The cartoons of the faces of a photo whose latents are there already, one for each face."""
        shown = [self.show(latent, photo=crop.image) for crop, latent in zip(photo.faces, latents)]
        faces = [ToonFace(crop, toon, inverted=base) for crop, (base, toon) in zip(photo.faces, shown)]
        return Toon(photo.image, faces, metadata=photo.metadata)

    def show(
        self, latent: Latent, tuned: Generator | None = None, *, photo: Image.Image | None = None
    ) -> tuple[Image.Image, Image.Image]:
        """What the base shows for a latent of one face, and the cartoon.

        Args:
            latent: ``ws`` ``[1, num_ws, w_dim]`` on the networks' device.
            tuned: the base with the latent's noise and tuning, if it is there already.
            photo: aligned crop, for the cartoon's colours if ``preserve_colour``, and for its lines; None = it keeps
                its own.
        """
        tuned = tuned or network_of(latent, self.base)
        blended = self.blended(tuned, carry_over(self.base, tuned, self.toon))
        with torch.no_grad():
            inverted, cartoon = (
                to_pil(network.synthesis(latent.ws, noise_mode="const", resolution=self.resolution)[0])
                for network in (tuned, blended)
            )
        cartoon = self.finished(cartoon)
        if photo is None:
            return inverted, cartoon
        if self.preserve_colour:
            cartoon = keep_colour(photo, cartoon)
        return inverted, soften_lines(photo, cartoon, self.soften * self.strength)

    def finished(self, cartoon: Image.Image) -> Image.Image:
        """A picture of the network, with its lines sharpened; films use it for every frame."""
        return sharpen(cartoon, self.sharpen * self.strength)

    def face(self, aligned: Aligned, callback: Callback | None = None) -> tuple[ToonFace, bool]:
        """The cartoon of one face, and whether Ctrl-C stopped its projection."""
        projection = project(
            self.base, aligned.image, self.inversion, noise=False, measure=self.measure, callback=callback
        )
        inverted, cartoon = self.show(Latent(projection.ws), projection.generator, photo=aligned.image)
        return ToonFace(aligned, cartoon, projection, inverted), projection.interrupted

    def covered(self, face: Aligned) -> bool:
        """Whether something lies before a face; never where the encoder does not fit the base."""
        first = starting_encoder(self.base, InversionConfig())
        return first is not None and misfit(self.base, first, face.image) > COVERED

    def blended(self, base: Generator, toon: Generator) -> Generator:
        """``base`` with the layers in ``swap`` from ``toon``, in part if ``strength`` is below 1."""
        names = name_of(self.base, "base"), name_of(self.toon, "toon")
        return swap_layers(base, toon, self.swap, self.width, strength=self.strength, names=names)


def toonify(
    photo: str | Path | Image.Image | Photo,
    *,
    base: str | Path | Generator = "faces",
    toon: str | Path | Generator = TOONIFY_STYLE,
    swap: str = TOONIFY_SWAP,
    width: float | None = None,
    strength: float = 1.0,
    preserve_colour: bool = True,
    sharpen: float = SHARPEN,
    soften: float = SOFTEN,
    resolution: int | None = None,
    aligned: bool = False,
    face: int | None = None,
    all_faces: bool = False,
    force: bool = False,
    config: InversionConfig | None = None,
    device: str | torch.device = "cpu",
    callback: Callback | None = None,
) -> Toon:
    """Turn the faces of a photo into cartoons.

    Each face is aligned as in FFHQ and projected into ``base`` (see `project`). Its latent is then shown by a network
    that has the layers in ``swap`` from ``toon`` and the others from the base as tuned to this face::

        for face in toonify("photo.jpg"):  # from left to right
            face.image.show()

    Args:
        photo: a path, a picture, or the result of `open_photo`.
        base, toon: generators that fit together, or sources for `load_network`.
        swap, width: the layers to take from ``toon``; see `blend`.
        strength: from 0, the inverted photo, to 1, the cartoon; between them the weights are interpolated.
        preserve_colour: the cartoon gets the photo's colours, and a part of its lightness.
        sharpen: how much its lines are sharpened; 0 = as the network makes them.
        soften: how far lines in the skin are lightened, at 1 to half of their depth in the photo; 0 = not at all.
        resolution: side of the cartoon, one that the networks make; None = 512, or their largest if they do not make
            that.
        aligned: the photo is an aligned square crop already.
        face: only this one, counted from 1, left to right. None = all but those that are far smaller than the largest.
        all_faces: also faces that are far smaller than the largest.
        force: also faces that are tiny, turned away, cut off, covered or drawn, see `faces.doubts`.
        config: how to project; None = `InversionConfig`'s defaults with 20 steps of tuning (60 where Adam tunes) and no
            search from the encoder's latent, or 90 steps from w_avg.
        device: where to compute; networks that are given stay where they are.
        callback: gets a `inversion.optimise.Progress` after every step of every face.

    Returns:
        A `Toon`: a sequence with one `ToonFace` for each face, with ``image`` (the largest face's cartoon),
        ``sheet()`` and ``pasted(background=None)``. Ctrl-C ends the search and returns a draft.

    Raises:
        ToonError: what is wrong with the photo, the networks or the swap, in one sentence.
    """
    toonifier = Toonifier.load(
        base, toon, swap, width, strength=strength, preserve_colour=preserve_colour, sharpen=sharpen,
        soften=soften, resolution=resolution, config=config, device=device,
    )  # fmt: skip
    if not isinstance(photo, Photo):
        photo = open_photo(photo, toonifier.resolution, aligned=aligned, face=face, all_faces=all_faces)
    return toonifier(_worth_it(photo, force, toonifier.covered), callback)


def _worth_it(photo: Photo, force: bool, covered: Callable[[Aligned], bool] | None = None) -> Photo:
    """A photo without the faces of which no good cartoon can be expected; warns of what is left out."""
    if photo.left_out:
        warnings.warn(photo.about_faces, stacklevel=3)
    photo, remarks = (photo, []) if force else without_doubtful(photo, covered)
    for remark in remarks:
        warnings.warn(remark, stacklevel=3)
    return photo


def draw_faces(
    photo: str | Path | Image.Image | Photo,
    style: str = TOONIFY_DRAWING,
    *,
    resolution: int = RESOLUTION,
    aligned: bool = False,
    face: int | None = None,
    all_faces: bool = False,
    force: bool = False,
) -> Toon:
    """Draw the faces of a photo without a network, with the renderer that made the training pictures of the networks.

    Args:
        photo: a path, a picture, or the result of `open_photo`.
        style: one of `drawing.STYLES`.
        resolution: side of the drawings in pixels.
        aligned, face, all_faces, force: as for `toonify`.

    Raises:
        ToonError: what is wrong with the photo, or an unknown style.
    """
    if not isinstance(photo, Photo):
        photo = open_photo(photo, resolution, aligned=aligned, face=face, all_faces=all_faces)
    photo = _worth_it(photo, force)
    faces = [ToonFace(crop, draw(crop.image, style)) for crop in photo.faces]
    return Toon(photo.image, faces, metadata=photo.metadata)


def carry_over(base: Generator, tuned: Generator, toon: Generator) -> Generator:
    """A copy of ``toon`` whose synthesis weights are moved by what tuning changed in those of ``base``.

    The toon was trained from the base, so a change that makes the base show this face makes the toon draw it. The
    strengths of the noise are left out: a photo has grain, a drawing has none.
    """
    moved = copy.deepcopy(toon)
    before, after = dict(base.synthesis.named_parameters()), dict(tuned.synthesis.named_parameters())
    with torch.no_grad():
        for name, ours in moved.synthesis.named_parameters():
            if not is_noise_strength(name):
                ours += after[name] - before[name]
    return moved

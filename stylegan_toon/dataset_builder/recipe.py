"""Recipes: how one picture file is cropped, filtered and drawn for a training set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..data.images import read_image, shrink
from ..data.sources import Source
from ..drawing import draw
from ..errors import ToonError
from ..faces.align import Face, align, detect_faces, largest
from .filters import GLASSES, blur, glasses, head_pose, perceptual_hash, remove_background

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
THUMBNAIL = 96


@dataclass(frozen=True)
class Recipe:
    """The steps that every picture goes through.

    Attributes:
        size: side of the results in pixels.
        crop: "center" (the largest square about the centre), "align" (each face as FFHQ cuts it) or "none" (only
            squares are taken).
        faces: with "align", "largest" or "all" of a photo.
        enlarge: the side of a result may be this many times that of the crop in the photo.
        front: degrees of yaw that a head may be turned; pitch, which is less accurate, may be 10 more. None = any.
        glasses: keep faces with glasses.
        blur: `filters.blur` above which a picture is left out. None = any.
        background: "keep", "white" or "transparent".
        matting: how the background is found, see `filters.remove_background`.
        style: draw the face in this one of `drawing.STYLES`. None = keep it as it is.
        format: "png", "jpg" (quality 95) or "webp" (lossless).

    Raises:
        ToonError: a transparent background as JPEG.
    """

    size: int = 256
    crop: str = "center"
    faces: str = "largest"
    enlarge: float = 2.0
    front: float | None = None
    glasses: bool = True
    blur: float | None = None
    background: str = "keep"
    matting: str = "walker"
    style: str | None = None
    format: str = "png"

    @property
    def needs_faces(self) -> bool:
        """Whether the face detector is needed."""
        return self.crop == "align" or self.front is not None

    def __post_init__(self) -> None:
        if self.background == "transparent" and self.format == "jpg":
            raise ToonError("JPEG has no transparency: choose --format png or --background white.")


@dataclass
class Outcome:
    """The result for one picture or face.

    Attributes:
        why: the reason it was left out; None if it was kept.
        data: the file of a kept picture.
        hash: `perceptual_hash` of a kept picture.
        measures: the numbers that the recipe compared.
        thumbnail: JPEG of a picture that was left out, for the report; None if it could not be read.
    """

    why: str | None = None
    data: bytes | None = None
    hash: int = 0
    measures: dict[str, float] = field(default_factory=dict)
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Preparation:
    """A recipe for the pictures of some sources, called with (number of the source, name, label).

    Instances may be sent to other processes.
    """

    sources: Sequence[Source]
    recipe: Recipe

    def __call__(self, item: tuple[int, str, Any]) -> tuple[str, Any, list[Outcome]]:
        number, name, label = item
        source = self.sources[number]
        title = name if len(self.sources) == 1 else f"{Path(str(source.path)).name}/{name}"
        try:
            data = source.read(name)
        except ToonError as error:
            return title, label, [Outcome(f"unreadable: {error}")]
        if not self.recipe.needs_faces:
            return title, label, prepare(data, name, self.recipe)
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # one per process, so that results do not depend on the number of processes
        try:
            return title, label, prepare(data, name, self.recipe)
        finally:
            torch.set_num_threads(threads)


def prepare(data: bytes, name: str, recipe: Recipe) -> list[Outcome]:
    """Apply a recipe to one picture file; a bad picture gives an outcome with a reason and raises nothing."""
    try:
        photo = read_image(io.BytesIO(data), name=name)
    except ToonError as error:
        return [Outcome(f"unreadable: {error}")]
    if recipe.crop != "align":
        return [_process(photo, None, recipe)]
    try:
        faces = detect_faces(photo, name=name)
    except ToonError:
        return [_dropped("no face", photo)]
    if recipe.faces == "largest":
        faces = [largest(faces)]
    return [_process(photo, face, recipe) for face in faces]


def _process(photo: Image.Image, face: Face | None, recipe: Recipe) -> Outcome:
    measures: dict[str, float] = {}
    try:
        crop, side = _cropped(photo, face, recipe)
    except ToonError as error:
        return _dropped(f"no crop: {error}", photo)
    measures["side"] = round(side)
    if recipe.size > recipe.enlarge * side:
        return _dropped("too small", crop, measures)
    if recipe.front is not None:
        landmarks = face.landmarks if face else _landmarks(crop)
        if landmarks is None:
            return _dropped("no face", crop, measures)
        measures["yaw"], measures["pitch"], _ = (round(angle, 1) for angle in head_pose(landmarks))
        if abs(measures["yaw"]) > recipe.front or abs(measures["pitch"]) > recipe.front + 10:
            return _dropped("turned away", crop, measures)
    if recipe.blur is not None:
        measures["blur"] = round(blur(crop), 3)
        if measures["blur"] > recipe.blur:
            return _dropped("blurred", crop, measures)
    if not recipe.glasses:
        measures["glasses"] = round(glasses(crop), 4)
        if measures["glasses"] > GLASSES:
            return _dropped("glasses", crop, measures)
    if recipe.style is not None:
        crop = draw(crop, recipe.style)
    if recipe.background != "keep":
        cut = crop = remove_background(crop, recipe.matting)
        if recipe.background == "white":
            crop = Image.new("RGB", cut.size, "white")
            crop.paste(cut, mask=cut.getchannel("A"))
    return Outcome(None, encoded(crop, recipe.format), perceptual_hash(crop), measures)


def _cropped(photo: Image.Image, face: Face | None, recipe: Recipe) -> tuple[Image.Image, float]:
    """The square picture at its final size, and its side in the photo in pixels."""
    size = (recipe.size, recipe.size)
    if face is not None:
        aligned = align(photo, face, recipe.size)
        return aligned.image, aligned.side
    if recipe.crop == "none" and photo.width != photo.height:
        raise ToonError(f"it is {photo.width}x{photo.height}, not square")
    return ImageOps.fit(photo, size, Image.Resampling.LANCZOS), min(photo.size)


def _landmarks(crop: Image.Image) -> np.ndarray | None:
    try:
        return largest(detect_faces(crop)).landmarks
    except ToonError:
        return None


def _dropped(why: str, image: Image.Image, measures: dict[str, float] | None = None) -> Outcome:
    return Outcome(why, None, 0, measures or {}, encoded(shrink(image, THUMBNAIL), "jpg"))


def encoded(image: Image.Image, format: str) -> bytes:
    """The bytes of a picture file; ``format`` is a key of `FORMATS`."""
    options = {"png": {}, "jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}[format]
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[format], **options)
    return buffer.getvalue()

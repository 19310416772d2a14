"""Metrics of photos and their toons: whether the person is the same, and whether the toon still shows a face."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ..data.archive import Archive
from ..data.images import image_grid, read_image, to_tensor
from ..errors import ToonError
from ..faces.photo import open_photo
from ..progress import progress
from .batches import to_bytes
from .suite import Suite

SIZE = 256  # pixels at which pairs are compared
SHOWN = 16  # pairs on the sheet


def match(photos: Path, toons: Path) -> list[tuple[Path, Path]]:
    """Each photo ``NAME.*`` with its toon: ``NAME-toon.*``, as `toonify` writes it, or ``NAME.*``.

    Raises:
        ToonError: not two folders of pictures, or no photo has a toon.
    """
    if not (photos.is_dir() and toons.is_dir()):
        raise ToonError("Photos and toons are matched by their names: give a folder of each.")
    by_stem = {Path(name).stem: toons / name for name in Archive(toons).names}
    pairs = []
    for photo in (photos / name for name in Archive(photos).names):
        toon = by_stem.get(f"{photo.stem}-toon") or by_stem.get(photo.stem)
        if toon is not None and toon != photo:
            pairs.append((photo, toon))
    if not pairs:
        raise ToonError(f"No picture in {toons} belongs to one in {photos}: name the toon of NAME.jpg NAME-toon.png.")
    return pairs


@dataclass(frozen=True, eq=False)
class Pairs:
    """The result of `evaluate_pairs`.

    Attributes:
        metrics: means over the pairs, by name of the metric.
        count: number of pairs that were measured.
        sheet: the first of them, photo and toon side by side.
    """

    metrics: dict[str, float]
    count: int
    sheet: Image.Image


@torch.no_grad()
def evaluate_pairs(
    pairs: Sequence[tuple[Path, Path]], suite: Suite, *, aligned: bool = False, quiet: bool = True
) -> Pairs:
    """How much toons resemble the people in their photos, and how many of them show a face.

    Photos without exactly one face are left out, with a warning.

    Args:
        pairs: paths of photo and toon; the toon is an aligned square crop, as `toonify` writes it.
        suite: of the metrics identity, identity-dlib, detection.
        aligned: the photos are also aligned square crops.

    Raises:
        ToonError: no pair is left, there is another metric, or a file cannot be read.
    """
    for metric in suite.metrics:
        if metric.kind not in ("identity", "detection"):
            raise ToonError(f"{metric.name} is not measured on pairs: use --network or --pictures for it.")
    rows: dict[str, list[float]] = defaultdict(list)
    shown, captions = [], []
    for photo_path, toon_path in progress(pairs, quiet=quiet, desc="pairs", unit="pair"):
        try:
            faces = open_photo(photo_path, SIZE, aligned=aligned).faces
        except ToonError as error:
            warnings.warn(f"{photo_path.name} is left out: {error}", stacklevel=2)
            continue
        if len(faces) > 1:
            warnings.warn(f"{photo_path.name} is left out: it shows several faces.", stacklevel=2)
            continue
        photo, toon = faces[0].image, read_image(toon_path).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        a, b = (to_tensor(image).to(suite.device) for image in (photo, toon))
        values = suite.features(to_bytes(b))
        values |= {name: embedder.similarity(a, b) for name, embedder in suite.embedders.items()}
        for metric in suite.metrics:
            rows[metric.name].append(float(values[metric.network]))
        if len(shown) < 2 * SHOWN:
            shown += [photo, toon]
            captions += [photo_path.stem, ", ".join(f"{values[-1]:.2f}" for values in rows.values())]
    if not shown:
        raise ToonError("No pair is left to measure: give photos in which one face is seen from the front.")
    (count, *_) = map(len, rows.values())
    means = {name: sum(values) / len(values) for name, values in rows.items()}
    return Pairs(means, count, image_grid(shown, columns=8, size=128, captions=captions))

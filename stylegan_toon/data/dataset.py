"""Picture sets for training: folders and zips, with labels in NVIDIA's ``dataset.json`` layout."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from ..errors import ToonError
from .archive import Archive
from .images import read_image

if TYPE_CHECKING:
    import torch

LABEL_FILE = "dataset.json"
MAX_CLASSES = 100_000  # a larger number is a mistake, and one-hot labels would fill the memory


class ImageDataset:
    """Square pictures of a folder or zip, in order of name; a map-style dataset for ``torch.utils.data``.

    Grey, palette, transparent, CMYK, 16-bit and EXIF-turned files come out as upright RGB. It may be sent to
    DataLoader workers; each opens the zip for itself.

    Args:
        path: folder or zip.
        resolution: side of the pictures in pixels; that of the first one if None.
        resize: cut pictures of another size to a square about their centre and resize them (antialiased),
            instead of refusing them.
        labels: read ``dataset.json``: ``{"labels": [["00000/img00000000.png", 3], …]}`` with a class number
            or a list of numbers for every picture.
        xflip: double the set by mirror images; picture ``i + len(names)`` is the mirror image of ``i``.

    Attributes:
        names: names of the pictures (without mirror images); row i of a table of latents belongs to ``names[i]``.
        resolution: side in pixels.
        label_dim: length of a label; 0 without labels.

    Raises:
        ToonError: as `Archive` does; the first picture is unreadable or not square; labels are missing or malformed.
            A picture that turns out bad later raises it, naming the file, when it is fetched.
    """

    def __init__(
        self,
        path: str | Path,
        resolution: int | None = None,
        *,
        resize: bool = False,
        labels: bool = False,
        xflip: bool = False,
    ) -> None:
        self._archive = Archive(path)
        self.path = self._archive.path
        self.names = self._archive.names
        self.xflip = xflip
        self._resize = resize
        if resolution is None:
            first = self._read(0)
            if first.width != first.height and not resize:
                raise self._wrong_size(0, first, "not square")
            resolution = min(first.size)
        self.resolution = resolution
        self._labels = self._read_labels() if labels else np.zeros((len(self.names), 0), np.float32)
        self.label_dim = self._labels.shape[1]
        self.image(0)  # a set that does not fit is refused now, not in a worker an hour later

    def __len__(self) -> int:
        return len(self.names) * (1 + self.xflip)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Picture uint8 ``[3, resolution, resolution]`` and label float32 ``[label_dim]``."""
        import torch

        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        flip, row = divmod(index % len(self), len(self.names))
        image = self.image(row)
        pixels = torch.from_numpy(np.array(ImageOps.mirror(image) if flip else image))
        return pixels.permute(2, 0, 1).contiguous(), torch.from_numpy(self._labels[row].copy())

    def image(self, row: int) -> Image.Image:
        """Picture ``row`` as RGB at the set's resolution, never mirrored."""
        image = self._read(row)
        size = (self.resolution, self.resolution)
        if image.size == size:
            return image
        if not self._resize:
            raise self._wrong_size(row, image, f"not {self.resolution}x{self.resolution}")
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)

    def label(self, row: int) -> np.ndarray:
        """Label ``row``, float32 ``[label_dim]``."""
        return self._labels[row].copy()

    def problems(self) -> Iterator[str]:
        """Read every picture once; yield a sentence for each that cannot be used."""
        for row in range(len(self.names)):
            try:
                self.image(row)
            except ToonError as error:
                yield str(error)

    def _read(self, row: int) -> Image.Image:
        name = self.names[row]
        return read_image(io.BytesIO(self._archive.read(name)), name=f"{name} in {self.path}")

    def _wrong_size(self, row: int, image: Image.Image, what: str) -> ToonError:
        return ToonError(
            f"{self.names[row]} in {self.path} is {image.width}x{image.height}, {what}: "
            "resize the set, or ask for resizing."
        )

    def _read_labels(self) -> np.ndarray:
        """float32 ``[pictures, label_dim]``; class numbers become one-hot rows."""
        if LABEL_FILE not in self._archive:
            raise ToonError(f"{self.path} has no {LABEL_FILE}, which holds the labels: add it or train without labels.")
        malformed = ToonError(
            f'{LABEL_FILE} in {self.path} is malformed: it must hold {{"labels": [["name", class or numbers], …]}}.'
        )
        try:
            pairs = dict(json.loads(self._archive.read(LABEL_FILE))["labels"])
            missing = [name for name in self.names if name not in pairs]
            if missing:
                raise ToonError(f"{LABEL_FILE} in {self.path} has no label for {missing[0]}: add it.")
            table = np.array([pairs[name] for name in self.names])
            if table.ndim == 1 and table.dtype.kind in "iu" and table.min() >= 0 and table.max() < MAX_CLASSES:
                return (table[:, None] == np.arange(table.max() + 1)).astype(np.float32)
            if table.ndim == 2 and table.dtype.kind in "iuf" and np.isfinite(table).all():
                return table.astype(np.float32)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise malformed from error
        raise malformed


class PairDataset:
    """Pictures with the latents they were made from.

    Args:
        images: a dataset without mirror images.
        latents: float array ``[rows, w_dim]``.
        first: row that belongs to picture 0, when the pictures are a later part of a larger set.

    Raises:
        ToonError: the table is too short, or the pictures are mirrored.
    """

    def __init__(self, images: ImageDataset, latents: np.ndarray, first: int = 0) -> None:
        if images.xflip:
            raise ToonError("Latents do not match mirrored pictures: train on pairs without --xflip.")
        if latents.ndim != 2 or len(latents) < first + len(images):
            raise ToonError(
                f"The table of latents has shape {list(latents.shape)}, too few rows for {len(images)} pictures "
                f"from row {first} on: give the table that belongs to these pictures."
            )
        self.images = images
        self.latents = np.asarray(latents[first : first + len(images)], np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Picture uint8 ``[3, H, W]`` and latent float32 ``[w_dim]``."""
        import torch

        return self.images[index][0], torch.from_numpy(self.latents[index].copy())


class InfiniteSampler:
    """Endless shuffled indices, shared out among processes, that can be taken up again anywhere.

    The whole stream is a function of (n, seed): epoch after epoch, each a fresh permutation in which every index
    occurs once. Process ``rank`` of ``num_replicas`` gets every ``num_replicas``-th of it.

    Args:
        n: size of the dataset.
        rank, num_replicas: which part of the stream.
        seed: the same in all processes.
        start: indices already used by all processes together; resuming with it continues the stream exactly.
    """

    def __init__(self, n: int, rank: int = 0, num_replicas: int = 1, seed: int = 0, start: int = 0) -> None:
        if n < 1 or not 0 <= rank < num_replicas or start < 0:
            raise ValueError(f"no sampler for n={n}, rank={rank} of {num_replicas}, start={start}")
        self.n, self.rank, self.num_replicas, self.seed, self.start = n, rank, num_replicas, seed, start

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.rank
        while True:
            epoch = position // self.n
            order = np.random.default_rng((self.seed, epoch)).permutation(self.n)
            while position // self.n == epoch:
                yield int(order[position % self.n])
                position += self.num_replicas

"""Picture sets for training: folders, zips, tar shards and more, with labels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from ..errors import ToonError
from .archive import malformed_labels
from .images import read_image
from .sampling import InfiniteSampler, ShardSampler
from .shards import Shards
from .sources import open_source

if TYPE_CHECKING:
    import torch

__all__ = ["ImageDataset", "InfiniteSampler", "PairDataset"]

MAX_CLASSES = 100_000  # a larger number is a mistake, and one-hot labels would fill the memory
MAX_BAD_IN_A_ROW = 100


class ImageDataset:
    """Square pictures of a set, in order of name; a map-style dataset for ``torch.utils.data``.

    Grey, palette, transparent, CMYK, 16-bit and EXIF-turned files become upright RGB. Instances may be sent to
    DataLoader workers; each opens the files again.

    Args:
        path: anything `open_source` takes: a folder, a zip, tar shards (also http addresses), lmdb, a video.
        resolution: side of the pictures in pixels; that of the first one if None.
        resize: cut pictures of another size to a square about their centre and resize them (antialiased),
            instead of refusing them.
        labels: read ``dataset.json``: ``{"labels": [["00000/img00000000.png", 3], …]}`` with a class number
            or a list of numbers for every picture (tar shards hold them as ``.cls`` or ``.json`` members).
        skip_bad: replace a picture that cannot be used by the next one that can, with a warning.
        xflip: double the set by mirror images; picture ``i + len(names)`` is the mirror image of ``i``.

    Attributes:
        names: names of the pictures (without mirror images); row i of a table of latents belongs to ``names[i]``.
        resolution: side in pixels.
        label_dim: length of a label; 0 without labels.

    Raises:
        ToonError: as `open_source`; the first picture is unreadable or not square; labels are missing or
            malformed. A picture that turns out bad later raises it, naming the file, when it is fetched, unless
            ``skip_bad`` passes over it.
    """

    def __init__(
        self,
        path: str | Path,
        resolution: int | None = None,
        *,
        resize: bool = False,
        labels: bool = False,
        xflip: bool = False,
        skip_bad: bool = False,
    ) -> None:
        self._source = open_source(path)
        self.path = self._source.path
        self.names = self._source.names
        self.xflip = xflip
        self._resize, self._skip_bad = resize, skip_bad
        self._warned: set[int] = set()
        if resolution is None:
            first, row = self._usable(0, self._read)
            if first.width != first.height and not resize:
                raise self._wrong_size(row, first, "not square")
            resolution = min(first.size)
        self.resolution = resolution
        self._labels, self.label_dim = self._read_labels() if labels else (None, 0)
        self._usable(0)  # refuse a set that does not fit now, and not later in a worker

    def __len__(self) -> int:
        return len(self.names) * (1 + self.xflip)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Picture uint8 ``[3, resolution, resolution]`` and label float32 ``[label_dim]``."""
        import torch

        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        flip, row = divmod(index % len(self), len(self.names))
        image, row = self._usable(row)
        pixels = torch.from_numpy(np.array(ImageOps.mirror(image) if flip else image))
        return pixels.permute(2, 0, 1).contiguous(), torch.from_numpy(self.label(row))

    def sampler(self, rank: int = 0, num_replicas: int = 1, seed: int = 0, start: int = 0) -> InfiniteSampler:
        """Endless shuffled indices of this set, see `InfiniteSampler`; tar shards are read from front to back."""
        if isinstance(self._source, Shards):
            return ShardSampler(self._source.sizes, rank, num_replicas, seed, start, copies=1 + self.xflip)
        return InfiniteSampler(len(self), rank, num_replicas, seed, start)

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
        if self._labels is None:
            return np.zeros(0, np.float32)
        label = self._labels[row]
        return (np.arange(self.label_dim) == label).astype(np.float32) if label.ndim == 0 else label.copy()

    def problem(self, row: int) -> str | None:
        """The error message of picture ``row`` if it cannot be used, else None."""
        try:
            self.image(row)
        except ToonError as error:
            return str(error)
        return None

    def _usable(self, row: int, read: Callable[[int], Image.Image] | None = None) -> tuple[Image.Image, int]:
        """The picture of ``row``, or with ``skip_bad`` of the next row that can be read, and that row."""
        last = row + (min(MAX_BAD_IN_A_ROW, len(self.names)) - 1 if self._skip_bad else 0)
        while True:
            here = row % len(self.names)
            try:
                return (read or self.image)(here), here
            except ToonError as error:
                if row == last:
                    raise
                if here not in self._warned:
                    self._warned.add(here)
                    warnings.warn(f"{error} The next picture takes its place.", stacklevel=2)
                row += 1

    def file(self, row: int) -> bytes:
        """The picture file of ``row`` as it is stored."""
        return self._source.read(self.names[row])

    def _read(self, row: int) -> Image.Image:
        return read_image(io.BytesIO(self.file(row)), name=f"{self.names[row]} in {self.path}")

    def _wrong_size(self, row: int, image: Image.Image, what: str) -> ToonError:
        return ToonError(
            f"{self.names[row]} in {self.path} is {image.width}x{image.height}, {what}: "
            "resize the set, or ask for resizing."
        )

    def _read_labels(self) -> tuple[np.ndarray, int]:
        """Classes int64 ``[pictures]`` or vectors float32 ``[pictures, label_dim]``, and ``label_dim``."""
        given = self._source.labels()
        if given is None:
            raise ToonError(
                f"{self.path} has no dataset.json with labels: make it (`stylegan-toon dataset --labels folders`) "
                "or train without labels."
            )
        try:
            table = np.array(given)
        except (ValueError, TypeError) as error:
            raise malformed_labels(self.path) from error
        if table.ndim == 1 and table.dtype.kind in "iu" and table.min() >= 0 and table.max() < MAX_CLASSES:
            return table.astype(np.int64), int(table.max()) + 1
        if table.ndim == 2 and table.dtype.kind in "iuf" and np.isfinite(table).all():
            return table.astype(np.float32), table.shape[1]
        raise malformed_labels(self.path)


class PairDataset:
    """Pictures with the latents they were made from; a map-style dataset for ``torch.utils.data``.

    Args:
        images: a dataset without mirror images.
        latents: float array ``[rows, w_dim]`` or ``[rows, num_ws, w_dim]``.
        first: row of picture 0, when the pictures are a later part of a larger set.

    Raises:
        ToonError: the table is too short, or the pictures are mirrored.
    """

    def __init__(self, images: ImageDataset, latents: np.ndarray, first: int = 0) -> None:
        if images.xflip:
            raise ToonError("Latents do not match mirrored pictures: train on pairs without --mirror.")
        if latents.ndim not in (2, 3) or len(latents) < first + len(images):
            raise ToonError(
                f"The table of latents has shape {list(latents.shape)}, too few rows for {len(images)} pictures "
                f"from row {first} on: give the table that belongs to these pictures."
            )
        self.images = images
        self.latents = np.asarray(latents[first : first + len(images)], np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Picture uint8 ``[3, H, W]`` and latent float32 ``[w_dim]`` or ``[num_ws, w_dim]``."""
        import torch

        return self.images[index][0], torch.from_numpy(self.latents[index].copy())

    def sampler(self, rank: int = 0, num_replicas: int = 1, seed: int = 0, start: int = 0) -> InfiniteSampler:
        """As `ImageDataset.sampler`."""
        return self.images.sampler(rank, num_replicas, seed, start)

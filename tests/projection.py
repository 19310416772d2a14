"""A feature network small enough to check by hand, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stylegan_toon.metrics import Extractor


class Project(Extractor):
    """Eight fixed random projections of the pixels of a picture of 32 px; counts the pictures it has seen."""

    name = "project"
    digest = "1"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(3 * 32 * 32, 8, generator=torch.Generator().manual_seed(0)))
        self.seen = 0

    def forward(self, pictures: Tensor) -> Tensor:
        self.seen += len(pictures)
        return pictures.float().flatten(1) @ self.matrix / 10_000


def write_pictures(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i:03d}.png")
    return folder

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stylegan_toon.data.dataset import ImageDataset
from stylegan_toon.metrics import Extractor


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only lose time by being shared among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A cache of its own for every test."""
    monkeypatch.setenv("STYLEGAN_TOON_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


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


@pytest.fixture
def project() -> Project:
    return Project()


def write_pictures(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def pictures(tmp_path) -> ImageDataset:
    return ImageDataset(write_pictures(tmp_path / "set", 12))

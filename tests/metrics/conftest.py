from __future__ import annotations

from pathlib import Path

import pytest
import torch
from projection import Project, write_pictures

from stylegan_toon.data.dataset import ImageDataset


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


@pytest.fixture
def project() -> Project:
    return Project()


@pytest.fixture
def pictures(tmp_path) -> ImageDataset:
    return ImageDataset(write_pictures(tmp_path / "set", 12))

from __future__ import annotations

from pathlib import Path

import pytest
from projection import Project, write_pictures
from threads import one_thread  # noqa: F401 (a fixture)

from stylegan_toon.data.datasets import ImageDataset


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

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import picture_set


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only lose time by being shared among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pictures(tmp_path) -> Path:
    return picture_set(tmp_path / "set")

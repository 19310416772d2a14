from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A dozen 32 px pictures of soft colours."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        colours = Image.fromarray(rng.integers(0, 255, (3, 3, 3), dtype=np.uint8))
        colours.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return folder

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def faces() -> list[Image.Image]:
    """Two synthetic faces of 256 px: one bare, one with spectacles."""
    row = np.array(Image.open(Path(__file__).parents[1] / "faces" / "faces.png").convert("RGB"))
    crops = [np.pad(row[:, k * 192 : k * 192 + 192], ((14, 0), (7, 7), (0, 0)), mode="edge") for k in range(2)]
    return [Image.fromarray(crop).resize((256, 256), Image.Resampling.BICUBIC) for crop in crops]

"""The network that finds persons, against an interpreter of the file it was read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_toon.faces.person import person_mask, person_network

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    row = np.array(Image.open(HERE / "faces.png").convert("RGB"))
    return [Image.fromarray(picture) for picture in np.split(row, 3, axis=1)]


def test_as_the_original_computes(pictures):
    """person.npz is LiteRT's answer, every fourth pixel of it; make_person_reference.py asked it."""
    reference = torch.from_numpy(np.load(HERE / "person.npz")["masks"])
    large = [np.asarray(p.resize((256, 256), Image.Resampling.BILINEAR), np.float32) / 255 for p in pictures]
    with torch.inference_mode():
        logits = person_network()(torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2))
    assert 0.2 < reference.mean() < 0.9 and reference.std() > 0.3  # there is something to differ
    torch.testing.assert_close(logits[:, ::4, ::4].sigmoid(), reference, atol=1e-4, rtol=0)


def test_a_face_is_a_person_and_a_gradient_is_not(pictures):
    mask = person_mask(pictures[1])
    assert mask.shape == (256, 256) and mask.dtype == np.float32
    assert mask[100:200, 90:166].min() > 0.9
    ramp = Image.linear_gradient("L").convert("RGB")
    assert person_mask(ramp).max() < 0.5


@pytest.mark.parametrize("size", [(32, 32), (300, 180), (900, 1200)])
def test_any_size(pictures, size):
    stretched = pictures[0].resize(size, Image.Resampling.BICUBIC)
    assert np.abs(person_mask(stretched) - person_mask(pictures[0])).mean() < 0.06

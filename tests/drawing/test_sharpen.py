"""Sharpening: against scipy's blur, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from stylegan_toon.drawing.sharpen import sharpen


@pytest.fixture
def drawing() -> np.ndarray:
    """A picture of 512 px with details of some pixels, 77 to 177."""
    noise = np.random.default_rng(0).standard_normal((512, 512, 3))
    smooth = gaussian_filter(noise, (1.5, 1.5, 0))
    return np.round(127 + 50 * smooth / np.abs(smooth).max()).astype(np.uint8)


@pytest.mark.parametrize("amount", [0.5, 1.5])
def test_it_adds_the_difference_to_the_blurred_picture(drawing, amount):
    blurred = gaussian_filter(drawing.astype(float), (1.5, 1.5, 0))
    wanted = drawing + amount * (drawing - blurred)
    found = np.asarray(sharpen(Image.fromarray(drawing), amount)).astype(float)
    inside = np.s_[8:-8, 8:-8]
    off, change = (np.abs(found - other)[inside].mean() for other in (wanted, drawing))
    assert off < 0.3 * change  # Pillow's blur is an approximation in 8 bits


def test_its_reach_follows_the_size():
    """An edge is as wide in a larger picture as its side is longer."""
    reach = []
    for side in (128, 512):
        picture = np.full((side, side, 3), 80, np.uint8)
        picture[:, side // 2 :] = 160
        row = np.asarray(sharpen(Image.fromarray(picture), 1.0))[side // 2, :, 0]
        reach.append(np.count_nonzero((row != 80) & (row != 160)) / side)
    assert reach[0] == pytest.approx(reach[1], abs=2 / 128)


def test_flat_areas_and_0_change_nothing(drawing):
    flat = Image.new("RGB", (64, 64), (200, 30, 90))
    assert np.array_equal(np.asarray(sharpen(flat, 1.0)), np.asarray(flat))
    picture = Image.fromarray(drawing)
    assert np.array_equal(np.asarray(sharpen(picture, 0)), drawing)

"""Sharpening: against scipy's blur, what it leaves alone, and the grid that it takes away."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from stylegan_toon.drawing.sharpen import sharpen, without_grid


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
    for side in (512, 1024):
        edge = gaussian_filter(np.where(np.arange(side) < side // 2, 80.0, 160.0), side / 512)
        picture = np.broadcast_to(edge.round().astype(np.uint8)[:, None], (side, side, 3))
        row = np.asarray(sharpen(Image.fromarray(picture), 1.0))[side // 2, :, 0]
        reach.append(np.count_nonzero((row < 79) | (row > 161)) / side)
    assert min(reach) > 0
    assert reach[0] == pytest.approx(reach[1], abs=2 / 512)


def test_flat_areas_and_0_change_nothing(drawing):
    flat = Image.new("RGB", (64, 64), (200, 30, 90))
    assert np.array_equal(np.asarray(sharpen(flat, 1.0)), np.asarray(flat))
    picture = Image.fromarray(drawing)
    assert np.array_equal(np.asarray(sharpen(picture, 0)), drawing)


@pytest.mark.parametrize(("by_row", "by_column"), [(0, 1), (1, 0), (1, 1)])
def test_a_grid_is_taken_away_and_the_drawing_stays(drawing, by_row, by_column):
    """A pattern of two pixels, stronger in the middle, over a drawing that has none."""
    down, across = np.mgrid[:512, :512]
    sign = (-1.0) ** (by_row * down + by_column * across)
    strength = 10 * np.exp(-(((down - 256) / 100) ** 2) - ((across - 256) / 100) ** 2)
    marked = np.round(np.clip(drawing + (sign * strength)[..., None], 0, 255)).astype(np.uint8)
    found = np.asarray(without_grid(Image.fromarray(marked))).astype(float)
    assert np.abs(marked - drawing.astype(float)).max() >= 9
    assert np.abs(found - drawing).max() < 1.6  # of rounding to whole levels, twice


def test_smooth_edges_and_photos_have_no_grid():
    """What a pattern is not stays within rounding: an edge, a ramp and a line three pixels wide."""
    along = np.arange(256.0)
    edge = 60 + 140 / (1 + np.exp(-(along - 100) / 0.8))
    line = 180 - 100 * np.exp(-0.5 * ((along - 180) / 1.2) ** 2)
    for profile in (edge, line, along):
        for picture in (np.tile(profile, (256, 1)), np.tile(profile[:, None], (1, 256))):
            levels = np.repeat(picture.round().astype(np.uint8)[..., None], 3, 2)
            found = np.asarray(without_grid(Image.fromarray(levels))).astype(float)
            assert np.abs(found - levels).max() <= 2

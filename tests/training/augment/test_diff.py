"""DiffAugment against its definition."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from stylegan_toon.training.augment import DiffAugment


def test_colour_is_three_uniform_numbers():
    """Mean + U(-.5, .5); deviations of luma x U(.5, 1.5); of the colours from luma x U(0, 2) besides."""
    torch.manual_seed(0)
    x = torch.randn(2000, 3, 4, 4, dtype=torch.float64)
    y = DiffAugment("color")(x)
    added = (y - x).mean(dim=(1, 2, 3))
    split = lambda x: (x.mean(1, keepdim=True) - x.mean((1, 2, 3), keepdim=True), x - x.mean(1, keepdim=True))  # noqa: E731
    (luma, chroma), (new_luma, new_chroma) = split(x), split(y)
    contrast, both = (new_luma / luma)[:, 0, 0, 0], (new_chroma / chroma)[:, 0, 0, 0]
    assert torch.allclose(new_luma, luma * contrast[:, None, None, None])  # and nothing else happens
    assert torch.allclose(new_chroma, chroma * both[:, None, None, None])
    for value, low, width in ((added, -0.5, 1), (contrast, 0.5, 1), (both / contrast, 0, 2)):
        assert stats.kstest(value.numpy(), stats.uniform(low, width).cdf).pvalue > 0.01
    assert abs(stats.pearsonr(added, contrast)[0]) < 0.08


def test_translation_moves_whole_pixels_and_brings_in_zeros():
    torch.manual_seed(0)
    x = torch.rand(1, 2, 16, 24) + 1
    y = DiffAugment("translation")(x.expand(3000, -1, -1, -1))
    zero = torch.nn.functional.pad(x, (3, 3, 2, 2))
    seen = torch.zeros(5, 7)
    for down in range(-2, 3):
        for right in range(-3, 4):
            moved = zero[:, :, 2 - down : 18 - down, 3 - right : 27 - right]
            seen[down + 2, right + 3] = (y == moved).flatten(1).all(dim=1).sum()
    assert seen.sum() == 3000
    assert stats.chisquare(seen.flatten()).pvalue > 0.01


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])  # sides whose half is even, and odd
def test_cutout_is_a_box_of_half_the_side_with_its_centre_inside(height, width):
    torch.manual_seed(0)
    kept = DiffAugment("cutout")(torch.ones(3000, 1, height, width))[:, 0]
    for size, along in ((height, kept.amin(dim=2)), (width, kept.amin(dim=1))):
        side = size // 2
        length = (1 - along).sum(dim=1)
        places = size + 1 if side % 2 == 0 else size
        boxes = torch.stack([torch.ones(size + 2 * side) for _ in range(places)])
        for i in range(places):
            boxes[i, i + side - side // 2 : i + 2 * side - side // 2] = 0
        boxes = boxes[:, side:-side]
        seen = (along[:, None] == boxes).all(dim=2).sum(dim=0)
        assert seen.sum() == 3000 and length.max() == side
        assert stats.chisquare(seen).pvalue > 0.01
    box = (1 - kept.amin(dim=2))[:, :, None] * (1 - kept.amin(dim=1))[:, None, :]
    assert torch.equal(kept, 1 - box)


def test_p_is_for_each_part_and_picture():
    torch.manual_seed(0)
    x = torch.rand(2000, 3, 8, 8) + 1
    same = (DiffAugment("color,cutout", p=0.3)(x) == x).flatten(1).all(dim=1)
    assert same.double().mean().item() == pytest.approx(0.7**2, abs=0.04)

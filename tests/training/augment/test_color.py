"""Colour maps against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from stylegan_toon.training.augment import color


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 4, dtype=torch.float64)


def luma_and_chroma(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    luma = x.mean(dim=1, keepdim=True)
    return luma, x - luma


def both(value: float) -> torch.Tensor:
    return torch.full((2,), value, dtype=torch.float64)


def test_brightness_then_contrast(x):
    matrix = color.contrast(both(1.5)) @ color.brightness(both(0.25))
    assert torch.allclose(color.recolor(x, matrix), (x + 0.25) * 1.5)


@pytest.mark.parametrize("angle", [0.3, -2.0])
def test_hue_keeps_luma_and_norm(x, angle):
    y = color.recolor(x, color.hue(both(angle)))
    assert torch.allclose(y.mean(dim=1), x.mean(dim=1))
    assert torch.allclose(y.norm(dim=1), x.norm(dim=1))
    (_, before), (_, after) = luma_and_chroma(x), luma_and_chroma(y)
    cosine = torch.cosine_similarity(before, after, dim=1)
    assert torch.allclose(cosine, torch.full_like(cosine, math.cos(angle)))


def test_a_third_of_a_turn_moves_red_to_green_to_blue(x):
    assert torch.allclose(color.recolor(x, color.hue(both(2 * math.pi / 3))), x[:, [2, 0, 1]])


def test_luma_flip_mirrors_luma_alone(x):
    luma, chroma = luma_and_chroma(x)
    flipped = color.recolor(x, color.luma_flip(torch.tensor([0.0, 1.0])))
    assert torch.equal(flipped[0], x[0])
    assert torch.allclose(flipped[1], (chroma - luma)[1])


def test_saturation_scales_chroma_alone(x):
    luma, chroma = luma_and_chroma(x)
    assert torch.allclose(color.recolor(x, color.saturation(both(2.5))), luma + 2.5 * chroma)


def test_a_grey_picture_equals_the_mean_of_equal_channels(x):
    torch.manual_seed(1)
    matrix = torch.eye(4, dtype=torch.float64) + 0.3 * torch.randn(2, 4, 4, dtype=torch.float64)
    grey = x[:, :1]
    assert torch.allclose(
        color.recolor(grey, matrix), color.recolor(grey.expand(-1, 3, -1, -1), matrix).mean(1, keepdim=True)
    )

"""Jitter against pictures whose change has a formula."""

from __future__ import annotations

import math

import pytest
import torch

from stylegan_toon.training.jitter import LIGHT, SCALE, SHIFT, TURN, Jitter

SIDE = 64


def ramp() -> torch.Tensor:
    """A linear picture [1, 2, SIDE, SIDE] whose channels are its own x and y, in half sides."""
    axis = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    return 0.5 * torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None]


def test_none_mirrors_at_most():
    change = Jitter.sample(40, torch.Generator().manual_seed(0), amount=0.0)
    img = torch.rand(40, 3, 8, 8) * 2 - 1
    changed = change(img)
    straight = (changed - img).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (changed - img.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert bool((straight | mirrored).all()) and 5 < int(mirrored.sum()) < 35


def test_places_and_light_of_a_ramp():
    """On a linear picture interpolation is exact, so the middle shows which place of the picture came there."""
    change = Jitter.sample(50, torch.Generator().manual_seed(1))
    changed = change(ramp().expand(50, -1, -1, -1))
    for i, (place, light) in enumerate(zip(*change)):
        middle = changed[i, :, SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1].mean((1, 2))
        expected = (0.5 * place[:, 2] + 1) * light.flatten() - 1
        torch.testing.assert_close(middle, expected.clamp(-1, 1), atol=2e-3, rtol=0)


def test_stays_within_its_limits():
    places, light = Jitter.sample(500, torch.Generator().manual_seed(2))
    size = torch.linalg.det(places[:, :, :2]).abs().sqrt()
    assert size.min() >= math.exp(-SCALE) - 1e-6 and size.max() <= math.exp(SCALE) + 1e-6
    turn = (places[:, 0, 1] / size).asin().abs()
    assert turn.max() <= TURN + 1e-6 and turn.max() > 0.9 * TURN
    assert places[:, :, 2].abs().max() <= SHIFT and (light - 1).abs().max() <= LIGHT
    assert turn.mean().item() == pytest.approx(TURN / 2, rel=0.1)


def test_gradients_reach_the_picture():
    img = torch.zeros(2, 3, 16, 16, requires_grad=True)
    Jitter.sample(2, torch.Generator().manual_seed(3))(img).sum().backward()
    assert img.grad is not None and bool(img.grad.abs().sum() > 0)

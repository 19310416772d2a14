"""The augmentation pipe against exact pixel moves, closed forms and the published distributions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stylegan_toon.training.augment import AdaController, AugmentPipe, _rotate, _Sample, _scale, _translate, warp


@pytest.fixture
def smooth() -> torch.Tensor:
    """Two square pictures without detail near the pixel grid's limit."""
    torch.manual_seed(0)
    x = F.interpolate(torch.randn(2, 3, 5, 5), size=(40, 40), mode="bicubic")
    return x / x.std()


def test_nothing_happens_at_p_zero(smooth):
    assert AugmentPipe(p=0)(smooth) is smooth


def test_warp_by_nothing_is_the_identity(smooth):
    assert (warp(smooth, torch.eye(3).repeat(2, 1, 1)) - smooth).abs().max() < 1e-4


def test_warp_moves_whole_pixels_exactly(smooth):
    one = torch.ones(2)
    moved = warp(smooth, _translate(3 * one, -2 * one))
    assert (moved - smooth.roll((2, -3), (2, 3)))[:, :, 4:-4, 4:-4].abs().max() < 1e-4


def test_warp_flips_and_turns(smooth):
    # Not exact: the wavelet is not quite symmetric. The published pipe shows the same error.
    one = torch.ones(2)
    assert (warp(smooth, _scale(-one, one)) - smooth.flip(3)).abs().max() < 0.1
    assert (warp(smooth, _rotate(one * math.pi / 2)) - smooth.rot90(1, (2, 3))).abs().max() < 0.1
    assert (smooth.rot90(1, (2, 3)) - smooth).abs().max() > 1  # and the bound means something


def test_sampling_differentiates_twice():
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([[[0.9, 0.2, 0.1], [-0.1, 1.1, 0.0]]], dtype=torch.float64)
    grid = F.affine_grid(theta, [1, 2, 6, 6], align_corners=False)
    assert torch.autograd.gradcheck(lambda a: _Sample.apply(a, grid), x)
    assert torch.autograd.gradgradcheck(lambda a: _Sample.apply(a, grid) ** 2, x)


def test_r1_passes_through_the_whole_pipe(smooth):
    torch.manual_seed(0)
    x = smooth.requires_grad_(True)
    score = AugmentPipe(p=1)(x).pow(3).sum()
    (grad,) = torch.autograd.grad(score, x, create_graph=True)
    grad.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_brightness_and_contrast_have_the_published_spread(p):
    """Of a grey picture g: brightness N(0.2) is added, contrast 2^N(0.5) multiplies the sum, the luma flip turns it."""
    torch.manual_seed(0)
    n, g = 40000, 0.5
    pipe = AugmentPipe(p=p, blit=0, geometry=0)
    value = pipe(torch.full((n, 3, 1, 1), g))[:, 0, 0, 0].double()
    b2 = p * 0.2**2  # variance of the brightness
    c2 = 1 - p + p * math.exp(2 * (0.5 * math.log(2)) ** 2)  # second moment of the contrast
    assert value.square().mean().item() == pytest.approx((g**2 + b2) * c2, rel=0.06)
    c1 = 1 - p + p * math.exp((0.5 * math.log(2)) ** 2 / 2)
    assert value.mean().item() == pytest.approx(g * c1 * (1 - p), abs=0.02)  # half of the fired flips turn it: p / 2


def test_hue_and_saturation_keep_the_luma():
    torch.manual_seed(0)
    x = torch.rand(64, 3, 1, 1)
    pipe = AugmentPipe(p=1, blit=0, geometry=0)
    torch.manual_seed(3)
    colours = pipe(x)
    torch.manual_seed(3)
    luma = pipe(x.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert torch.allclose(colours.mean(1), luma.mean(1), atol=1e-5)
    assert (colours - luma).abs().max() > 0.1


def test_grey_pictures_are_augmented_too():
    torch.manual_seed(0)
    x = torch.rand(8, 1, 16, 16)
    y = AugmentPipe(p=1)(x)
    assert y.shape == x.shape and not torch.allclose(y, x)


def test_how_often_a_picture_changes():
    """At p, all of flip, turn and shift stay off with (1 - p)^3, or do nothing by chance."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8).repeat(4000, 1, 1, 1)
    y = AugmentPipe(p=0.2, geometry=0, color=0)(x)
    same = ((y - x).abs().amax((1, 2, 3)) < 1e-3).float().mean().item()
    # A shift of up to 8 * 0.125 = 1 px rounds to 0 half the time, on either axis.
    flip, turn, shift = 1 - 0.2 / 2, 1 - 0.2 * 3 / 4, 1 - 0.2 * (1 - 0.25)
    assert same == pytest.approx(flip * turn * shift, abs=0.03)


def test_ada_moves_p_by_the_published_step():
    pipe = AugmentPipe(p=0.5)
    ada = AdaController(pipe, target=0.6, kimg=500, interval=4)
    ada.observe(torch.tensor([[1.0], [2.0], [3.0], [-1.0]]))  # mean sign 0.5: below the target
    assert ada.step(batch=32) == pytest.approx(0.5)
    assert pipe.p == pytest.approx(0.5 - 32 * 4 / 500_000)
    ada.observe(torch.ones(4, 1))
    ada.step(batch=32)
    assert pipe.p == pytest.approx(0.5)
    pipe.p = 0.0
    ada.observe(-torch.ones(4, 1))
    ada.step(batch=32)
    assert pipe.p == 0.0

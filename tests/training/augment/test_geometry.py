"""Geometry against torch's own flips, a float64 implementation with scipy, closed forms, and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
import torch.nn.functional as F

from stylegan_toon.training.augment.geometry import SYM6, Sample, permute, rotate, scale, translate, warp


def test_sym6_is_the_symlet():
    """Orthonormal, six vanishing moments, and of those filters the least asymmetric: that is the symlet."""
    h = np.array(SYM6)
    for shift in range(6):
        assert h[2 * shift :] @ h[: 12 - 2 * shift] == pytest.approx(float(shift == 0), abs=1e-10)
    high = h[::-1] * (-1.0) ** np.arange(12)
    for moment in range(6):
        assert high @ np.arange(12) ** moment == pytest.approx(0, abs=1e-5)
    assert h.sum() == pytest.approx(math.sqrt(2))
    assert abs(h @ np.arange(12) / h.sum() - 5.5) < 0.5  # db6, the other one, is centred on 9.1


def ones(n: int, value: float = 1.0) -> torch.Tensor:
    return torch.full((n,), value, dtype=torch.float64)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_blits_are_exact(size, flip, turns):
    """Flip, then quarter turns, then a shift that brings in the reflection."""
    x = torch.randn(2, 3, size, size)
    right, down = 3, -2
    inverse = scale(ones(2, -1.0 if flip else 1.0), ones(2)) @ rotate(ones(2, turns * math.pi / 2)).round()
    inverse = inverse @ translate(-torch.tensor([[right, down]] * 2).double())
    wanted = (x.flip(3) if flip else x).rot90(turns, (2, 3))
    padded = np.pad(wanted.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    wanted = padded[:, :, 4 - down : 4 - down + size, 4 - right : 4 - right + size]
    assert np.array_equal(permute(x, inverse.float()).numpy(), wanted)


def test_blits_of_oblong_pictures():
    x = torch.randn(1, 1, 6, 10)
    assert torch.equal(permute(x, scale(ones(1, -1), ones(1)).float()), x.flip(3))
    assert torch.equal(permute(x, rotate(ones(1, math.pi)).round().float()), x.flip((2, 3)))


def warp_by_scipy(image: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """``[H, W]`` float64: double with sym6, sample between pixels, mirrored outside, halve with sym6."""
    f = np.array(SYM6) / np.sum(SYM6)
    height, width = image.shape
    doubled = np.pad(image, 3, mode="reflect")
    for axis in (0, 1):
        doubled = scipy.signal.upfirdn(2 * f, doubled, up=2, axis=axis)
    # Pixel i of the padded picture is now at 2 i + 5 (the filter's middle), so pixel 0 is at 2 * 3 + 5.
    doubled = doubled[11 : 11 + 2 * height - 1, 11 : 11 + 2 * width - 1]
    y, x = np.mgrid[-5 : 2 * height + 5, -5 : 2 * width + 5] / 2
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    x, y = (inverse[i, 0] * x + inverse[i, 1] * y + inverse[i, 2] for i in (0, 1))
    at = [2 * (y + (height - 1) / 2), 2 * (x + (width - 1) / 2)]
    out = scipy.ndimage.map_coordinates(doubled, at, order=1, mode="mirror")
    for axis in (0, 1):
        out = scipy.signal.upfirdn(f[::-1], out, down=1, axis=axis)
    return out[11:-11, 11:-11][::2, ::2]  # where the filter lies within


@pytest.mark.parametrize("shape", [(12, 12), (9, 14)])
def test_warp_equals_a_float64_implementation(shape):
    torch.manual_seed(0)
    x = torch.randn(3, 2, *shape, dtype=torch.float64)
    inverse = scale(ones(3, 0.8), ones(3, 1.3)) @ rotate(torch.tensor([0.4, 2.0, -1.0]).double())
    inverse = inverse @ translate(torch.tensor([[1.3, -2.2], [0.0, 9.0], [-30.0, 0.25]]).double())
    result = warp(x, inverse)
    for n in range(3):
        for channel in range(2):
            wanted = warp_by_scipy(x[n, channel].numpy(), inverse[n].numpy())
            assert np.allclose(result[n, channel].numpy(), wanted, atol=1e-5)  # the taps are float32


def test_warp_of_a_wave_in_closed_form():
    """cos(k x) sampled at other positions, in closed form; the error bounds are those of the wavelet's response."""
    size, k = 32, torch.tensor([2 * math.pi / 14, 2 * math.pi / 17])
    position = torch.arange(size) - (size - 1) / 2
    grid = torch.stack(torch.meshgrid(position, position, indexing="xy"), dim=-1)  # (x, y)
    wave = lambda at: torch.cos(at @ k + 0.3)[None, None]  # noqa: E731
    inverse = scale(ones(1, 0.8), ones(1, 0.9)) @ rotate(ones(1, 0.5)) @ translate(torch.tensor([[1.7, -0.4]]).double())
    inverse = inverse.float()
    wanted = wave(grid @ inverse[0, :2, :2].T + inverse[0, :2, 2])
    inside = slice(8, -8)
    assert (warp(wave(grid), inverse) - wanted)[:, :, inside, inside].abs().max() < 0.05
    assert (wave(grid) - wanted)[
        :, :, inside, inside
    ].abs().max() > 0.5  # the wave has moved, so the comparison can fail


def test_warp_by_the_identity_and_by_whole_pixels():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 24, 24)
    inside = slice(9, -9)  # a shift of 3, and the support of the filters
    assert (warp(x, torch.eye(3)[None]) - x)[:, :, inside, inside].abs().max() < 1e-5
    moved = warp(x, translate(torch.tensor([[3.0, -2.0]]).double()).float())
    assert (moved - x.roll((2, -3), (2, 3)))[:, :, inside, inside].abs().max() < 1e-5


def test_far_outside_is_the_reflection():
    """A shift by two pictures, minus the two edges that are not repeated, is no shift at all."""
    torch.manual_seed(0)
    x = F.interpolate(torch.randn(1, 1, 5, 5), size=(20, 20), mode="bicubic")
    assert torch.allclose(warp(x, translate(torch.tensor([[38.0, -76.0]]).double()).float()), x, atol=0.05)


def test_sampling_differentiates_twice():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([[[1.4, 0.2, 0.1], [-0.1, 1.3, 0.0]]], dtype=torch.float64)  # beyond the edges too
    grid = F.affine_grid(theta, [1, 2, 6, 6], align_corners=False)
    assert torch.autograd.gradcheck(lambda a: Sample.apply(a, grid), x)
    assert torch.autograd.gradgradcheck(lambda a: Sample.apply(a, grid) ** 2, x)

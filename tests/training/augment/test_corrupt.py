"""The filter bank against scipy and closed forms; cutout by counting."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from stylegan_toon.training.augment.corrupt import SYM2, amplify, balanced_gains, cut_out, filter_bank


def test_sym2_is_orthonormal_with_two_vanishing_moments():
    assert pytest.approx(1) == SYM2 @ SYM2 and SYM2[2:] @ SYM2[:2] == pytest.approx(0)
    high = SYM2[::-1] * [1, -1, 1, -1]
    assert high.sum() == pytest.approx(0) and high @ np.arange(4) == pytest.approx(0)


def test_the_bands_are_octaves():
    bank = filter_bank().numpy()
    assert np.allclose(bank, bank[:, ::-1])  # zero phase
    frequency = np.linspace(0, np.pi, 513)
    response = (bank * np.exp(-1j * frequency[:, None, None] * (np.arange(43) - 21))).sum(-1)  # [513, 4]
    assert np.allclose(response.sum(axis=1), 1)
    assert np.allclose(response[0], [1, 0, 0, 0]) and np.allclose(response[-1], [0, 0, 0, 1])
    assert (response.real > -1e-9).all() and (response.real < 1 + 1e-9).all()
    for band, (low, high) in enumerate([(0, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2), (1 / 2, 1)]):
        share = frequency / np.pi
        assert response[(share > low) & (share < high)].real.mean(axis=0).argmax() == band


def test_gain_one_is_the_identity():
    x = torch.randn(2, 3, 16, 20, dtype=torch.float64)
    assert torch.allclose(amplify(x, torch.ones(2, 4, dtype=torch.float64)), x)


@pytest.mark.parametrize("shape", [(32, 24), (10, 12)])  # also where the filter is longer than the picture
def test_amplifying_equals_a_convolution_by_scipy(shape):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    gains = torch.rand(2, 4, dtype=torch.float64) * 2
    result = amplify(x, gains)
    for n in range(2):
        taps = (gains[n] @ filter_bank()).numpy()
        wanted = x[n].numpy()
        for axis in (1, 2):
            wanted = scipy.ndimage.convolve1d(wanted, taps, axis=axis, mode="mirror")
        assert np.allclose(result[n].numpy(), wanted)


def test_balanced_gains_keep_the_expected_power():
    """Band after band: amplify it, divide by the root of the power then expected of a 1/f picture."""
    log2_gain = np.random.default_rng(0).standard_normal((5, 4))
    power = np.array([10, 1, 1, 1]) / 13
    wanted = np.ones((5, 4))
    for band in range(4):
        step = np.ones((5, 4))
        step[:, band] = 2.0 ** log2_gain[:, band]
        wanted *= step / np.sqrt((power * step**2).sum(axis=1, keepdims=True))
    assert np.allclose(balanced_gains(torch.from_numpy(log2_gain)).numpy(), wanted)


def test_the_box_is_cut_out():
    x = torch.ones(2, 1, 8, 12)
    y = cut_out(x, torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.full((2, 2), 0.5))
    wanted = torch.ones(2, 1, 8, 12)
    wanted[0, 0, 2:6, 3:9] = 0
    wanted[1, 0, 6:, :3] = 0
    assert torch.equal(y, wanted)

"""Smoothing: known motion comes out as it was, noise does not."""

from __future__ import annotations

import numpy as np
import pytest

from stylegan_toon.faces.steady import OneEuro, fill_gaps, smooth


@pytest.mark.parametrize("degree", [1, 2])
def test_motion_of_its_degree_is_kept_at_uneven_times_and_at_the_ends(degree):
    times = np.sort(np.random.default_rng(0).uniform(0, 2, 60))
    values = np.stack([3 + 5 * times, 1 - times + (degree == 2) * 7 * times**2], 1)
    np.testing.assert_allclose(smooth(times, values, 0.1, degree), values, atol=1e-8)


def test_noise_is_reduced_as_theory_says_and_nothing_is_delayed():
    times, rng = np.arange(2000) / 25, np.random.default_rng(0)
    noise = rng.normal(size=2000)
    even = smooth(times, noise, 0.12)
    # A Gaussian window of sigma samples keeps the variance 1 / (2 sqrt(pi) sigma).
    assert even[50:-50].var() == pytest.approx(1 / (2 * np.sqrt(np.pi) * 3), rel=0.15)
    wave = np.sin(2 * np.pi * 0.7 * times)
    shown = smooth(times, wave, 0.12)
    delays = [float(np.dot(shown[50:-50], np.roll(wave, k)[50:-50])) for k in (-2, -1, 0, 1, 2)]
    assert int(np.argmax(delays)) == 2


def test_nothing_is_smoothed_with_sigma_0_or_two_samples():
    values = np.random.default_rng(0).normal(size=(2, 3, 4))
    assert np.array_equal(smooth(np.arange(2), values, 1.0), values)
    assert np.array_equal(smooth(np.arange(2), values, 0.0), values)


def test_gaps_are_filled_with_lines():
    known = np.array([True, False, False, True, True])
    values = np.array([0.0, 99, 99, 3, 5])
    assert fill_gaps(known, values).tolist() == [0, 1, 2, 3, 5]


def test_the_live_filter_is_still_when_nothing_moves_and_quick_when_it_does():
    rng, steady, quick = np.random.default_rng(0), OneEuro(1.0, 0.02), OneEuro(1.0, 0.02)
    noise = rng.normal(0, 0.5, 200)
    even = np.array([steady(i / 25, np.array([x]))[0] for i, x in enumerate(noise)])
    assert np.diff(even[50:]).std() < 0.3 * np.diff(noise[50:]).std()
    moving = [quick(i / 25, np.array([400 * i / 25]))[0] for i in range(50)]
    assert abs(moving[-1] - 400 * 49 / 25) < 2.5 * 400 / 25  # fewer than three frames behind, at 400 px/s
    slow = OneEuro(1.0, 0.0)
    lagging = [slow(i / 25, np.array([400 * i / 25]))[0] for i in range(50)]
    assert abs(lagging[-1] - 400 * 49 / 25) > abs(moving[-1] - 400 * 49 / 25)

"""The image filters of the renderers against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan_toon.drawing.colour import from_oklab, to_oklab
from stylegan_toon.drawing.filters import blur, guided_filter, soft_levels, spread
from stylegan_toon.drawing.flow import Flow
from stylegan_toon.drawing.segmentation import segment

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # CSS Color 4 gives these for the primaries
        ((255, 255, 255), (1.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 255, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 255), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_of_the_primaries(rgb, lab):
    np.testing.assert_allclose(to_oklab(np.array([[rgb]], np.uint8))[0, 0], lab, atol=2e-4)


def test_oklab_round_trip_is_exact():
    rgb = RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    np.testing.assert_array_equal(from_oklab(to_oklab(rgb)), rgb)


def naive_guided_filter(guide, x, radius, eps):
    """He, Sun and Tang 2010, equations 5 to 8, one window at a time; edges repeated."""

    def windows(a):
        padded = np.pad(a, radius, mode="edge")
        return np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2).reshape(*a.shape, -1)

    g, p = windows(guide), windows(x)
    slope = ((g * p).mean(-1) - g.mean(-1) * p.mean(-1)) / (g.var(-1) + eps)
    offset = p.mean(-1) - slope * g.mean(-1)
    return windows(slope).mean(-1) * guide + windows(offset).mean(-1)


def test_guided_filter_equals_the_paper():
    guide, x = RNG.random((2, 20, 24))
    expected = naive_guided_filter(guide, x, 3, 0.01)
    np.testing.assert_allclose(guided_filter(guide, x, 3, 0.01), expected, atol=1e-9)
    channels = guided_filter(guide, np.stack([x, 2 * x], -1), 3, 0.01)
    np.testing.assert_allclose(channels[..., 1], 2 * expected, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.floats(0.5, 5))
def test_soft_levels_are_monotonic_and_close(levels, sharpness):
    x = np.linspace(0, 1, 4001)[:-1]
    y = soft_levels(x, levels, sharpness)
    assert (np.diff(y) >= -1e-12).all()
    assert np.abs(np.diff(y)).max() < 0.02
    assert np.abs(y - x).max() <= 0.5 / levels


def test_flow_smooths_along_stripes_and_not_across():
    y, x = np.mgrid[:96, :96].astype(np.float32)
    stripes = 0.5 + 0.4 * np.sin((x + 0.5 * y) * 0.6)
    noisy = stripes + RNG.normal(0, 0.05, stripes.shape).astype(np.float32)
    result = Flow(noisy, 1.0).smooth(noisy, 4.0)
    inner = np.s_[10:-10, 10:-10]
    assert np.std((result - stripes)[inner]) < 0.5 * np.std((noisy - stripes)[inner])
    # An isotropic average over as many pixels would wash the stripes out.
    assert np.std(result[inner]) > 0.93 * np.std(stripes[inner])
    assert np.std(blur(stripes, 3.0)[inner]) < 0.5 * np.std(stripes[inner])


def test_flow_keeps_a_constant():
    flow = Flow(RNG.random((32, 32)).astype(np.float32), 1.0)
    np.testing.assert_allclose(flow.smooth(np.full((32, 32, 2), 0.3, np.float32), 4), 0.3, rtol=1e-5)


def test_segment_finds_a_shape_from_a_rough_prior():
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    truth = np.hypot((x - 0.45) / 1.2, y - 0.55) < 0.3
    lab = np.where(truth[..., None], (0.55, 0.03, 0.05), (0.45, -0.04, 0.02)) + RNG.normal(0, 0.01, (64, 64, 3))
    prior = np.clip(1 - 1.6 * np.hypot(x - 0.5, y - 0.5), 0.05, 0.95)
    kinds = segment(lab.astype(np.float32), np.stack([1 - prior, prior], -1))
    np.testing.assert_allclose(kinds.sum(-1), 1, atol=1e-5)
    actual, hinted = kinds[..., 1] > 0.5, prior > 0.5
    assert (actual & truth).sum() / (actual | truth).sum() > 0.93 > (hinted & truth).sum() / (hinted | truth).sum()


def test_spread_keeps_a_constant_and_ignores_what_has_no_weight():
    weight = (RNG.random((96, 96)) > 0.3).astype(np.float32)
    x = np.where(weight[..., None] > 0, np.float32((0.5, 0.1, -0.1)), np.float32(9))
    np.testing.assert_allclose(spread(x, weight, 6.0), np.broadcast_to((0.5, 0.1, -0.1), x.shape), atol=2e-3)

"""The distances, against closed forms, plain loops, scipy and torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from stylegan_toon.errors import ToonError
from stylegan_toon.metrics import frechet_distance, kernel_distance, mmd, moments, precision_recall


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_scipy(mu1, s1, mu2, s2) -> float:
    root = scipy.linalg.sqrtm(s1.numpy() @ s2.numpy())
    return float((mu1 - mu2) @ (mu1 - mu2) + (s1 + s2).trace()) - 2 * np.trace(root).real


# Moments


def test_moments_equal_numpy_over_several_chunks():
    rows = normal(5000, 3) @ normal(3, 3, seed=1)
    mean, cov = moments(rows)
    np.testing.assert_allclose(mean, rows.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(rows.numpy(), rowvar=False), rtol=1e-12)


def test_moments_far_from_the_origin():
    rows = normal(1000, 4)
    torch.testing.assert_close(moments(rows + 1e6)[1], moments(rows)[1], rtol=1e-7, atol=1e-8)


def test_moments_of_float32_are_float64():
    rows = normal(100, 3).float()
    torch.testing.assert_close(moments(rows)[1], moments(rows.double())[1], rtol=0, atol=0)
    with pytest.raises(ToonError, match="at least 2"):
        moments(rows[:1])


# Frechet distance


def test_frechet_distance_of_one_dimension():
    """(3 - 1)^2 + (sqrt 4 - sqrt 9)^2"""
    args = ([3.0], [[4.0]], [1.0], [[9.0]])
    assert frechet_distance(*map(torch.tensor, args)) == pytest.approx(5, abs=1e-12)


def test_frechet_distance_of_covariances_that_commute():
    q = torch.linalg.qr(normal(6, 6)).Q
    a, b = torch.arange(1.0, 7).double(), torch.tensor([5.0, 0, 2, 0, 1, 9]).double()
    mu = normal(6, seed=1)
    truth = mu.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    result = frechet_distance(mu, q @ a.diag() @ q.T, torch.zeros(6), q @ b.diag() @ q.T)
    assert result == pytest.approx(float(truth), rel=1e-7)


def test_frechet_distance_equals_scipys_root():
    one, two = moments(normal(100, 20)), moments(normal(90, 20, seed=1) @ normal(20, 20, seed=2))
    assert frechet_distance(*one, *two) == pytest.approx(by_scipy(*one, *two), rel=1e-9)


def test_frechet_distance_of_fewer_pictures_than_features():
    """In 60 dimensions 9 points span only 8; turned into those alone, the distance is the same and well defined."""
    few, more = normal(9, 7), normal(40, 7, seed=1) * 2 + 1
    turn = torch.linalg.qr(normal(60, 60, seed=2)).Q[:7]
    truth = by_scipy(*moments(few), *moments(more))
    assert frechet_distance(*moments(few @ turn), *moments(more @ turn)) == pytest.approx(truth, rel=1e-8)
    assert frechet_distance(*moments(few @ turn), *moments(few @ turn)) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_of_no_variance_at_all():
    zero = torch.zeros(5, 5)
    assert frechet_distance(torch.ones(5), zero, torch.zeros(5), zero) == 5


# Torch-fidelity on the same features


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Like those of a network: not negative, correlated, on different scales."""
    mix = normal(32, 32, seed=2)
    return (normal(300, 32) @ mix).relu().float(), (normal(300, 32, seed=1) @ mix + 0.5).relu().float()


def test_frechet_distance_equals_torch_fidelity(features):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    (truth,) = fid_statistics_to_metric(*map(fid_features_to_statistics, features), verbose=False).values()
    assert frechet_distance(*moments(features[0]), *moments(features[1])) == pytest.approx(truth, rel=1e-6)


def test_kernel_distance_equals_torch_fidelity(features):
    from torch_fidelity.metric_kid import kid_features_to_metric

    double = [x.double() for x in features]
    settings = {"kid_subsets": 1, "kid_subset_size": 300, "verbose": False}
    truth = kid_features_to_metric(*double, **settings)["kernel_inception_distance_mean"]
    assert kernel_distance(*features) == pytest.approx(truth, rel=1e-9)


def test_precision_recall_equals_torch_fidelity(features):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = (x.double() for x in features)
    truth = calculate_precision_recall_full(fake, real)
    assert precision_recall(real, fake) == pytest.approx(truth, abs=1e-6)  # averaged in float32 there
    assert 0 < truth[0] < 1 and 0 < truth[1] < 1


# Kernel distance


def test_mmd_equals_plain_loops():
    x, y = normal(7, 3).numpy(), normal(5, 3, seed=1).numpy() + 0.5

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b)) / 3 + 1) ** 3

    within_x = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    within_y = sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    across = sum(k(a, b) for a in x for b in y) / (7 * 5)
    truth = within_x + within_y - 2 * across
    assert float(mmd(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(truth, rel=1e-12)
    assert kernel_distance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(truth, rel=1e-12)


def test_random_subsets_average_to_the_whole():
    """Every subset estimates what the whole does without bias, so the mean over many comes near it."""
    x, y = normal(40, 3), normal(25, 3, seed=1) + 1
    truth = float(mmd(x, y))
    means = [kernel_distance(x, y, subsets=100, size=10, seed=seed) for seed in range(20)]
    error = np.std(means, ddof=1) / np.sqrt(len(means))
    assert abs(np.mean(means) - truth) < 4 * error < abs(truth)
    assert means[0] == kernel_distance(x, y, subsets=100, size=10, seed=0) != means[1]


def test_kernel_distance_needs_two_pictures():
    with pytest.raises(ToonError, match="at least 2"):
        kernel_distance(normal(1, 3), normal(5, 3))


# Precision and recall


def test_precision_and_recall_on_a_line():
    """Reals 0 1 2 3 reach 1 each (k = 1); fakes 0.5 and 3.5 lie inside, 6 and 8 do not; fakes reach 3, 2.5, 2, 2."""
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    fake = torch.tensor([[0.5], [3.5], [6.0], [8.0]])
    assert precision_recall(real, fake, k=1) == (0.5, 1.0)
    assert precision_recall(fake, real, k=1) == (1.0, 0.5)
    assert precision_recall(real, fake + 100, k=1) == (0.0, 0.0)


def test_the_same_pictures_have_both():
    rows = normal(50, 8).float() + 100
    assert precision_recall(rows, rows.clone()) == (1.0, 1.0)


def test_a_collapsed_network_has_precision_but_no_recall():
    """Every fake is the same real picture, and the balls of the fakes are points."""
    real = normal(50, 8).float() + 100
    assert precision_recall(real, real[:1].repeat(20, 1)) == (1.0, 1 / 50)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_equal_plain_loops(k):
    real, fake = normal(30, 4), normal(20, 4, seed=1) * 1.3 + 0.5

    def share(points, centres):
        inside = 0
        for p in points:
            for c in centres:
                reach = sorted(float((c - other).norm()) for other in centres)[k]
                if float((p - c).norm()) <= reach:
                    inside += 1
                    break
        return inside / len(points)

    assert precision_recall(real, fake, k=k) == pytest.approx((share(fake, real), share(real, fake)))


def test_precision_and_recall_need_neighbours():
    with pytest.raises(ToonError, match="more than 3"):
        precision_recall(normal(3, 2), normal(10, 2))

"""Random numbers that depend on the sample alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from stylegan_toon.training.keyed_random import KeyedRandom


def numbers(rows: range, *key: int) -> list[torch.Tensor]:
    """One of each kind of draw, in order."""
    n = len(rows)
    with KeyedRandom(rows, *key):
        like = torch.empty(n, 2)
        return [
            torch.rand(n), torch.randn(n, 3), torch.randn((n, 1, 4, 4), device="cpu"), torch.rand([n, 2]),
            torch.randint(0, 1000, (n,)), torch.randint(7, size=(n, 2)), torch.randn_like(like), torch.rand_like(like),
            torch.rand([]), torch.randint(1, 1000, []),
        ]  # fmt: skip


@pytest.mark.parametrize("cuts", [[0, 12], [0, 4, 8, 12], [0, 8, 12], [0, 1, 2, 5, 12], [0, 6, 12]])
def test_numbers_do_not_depend_on_the_parts_of_a_batch(cuts):
    whole = numbers(range(12), 5, 1)
    parts = [numbers(range(a, b), 5, 1) for a, b in itertools.pairwise(cuts)]
    for i, wanted in enumerate(whole[:8]):
        assert torch.equal(torch.cat([part[i] for part in parts]), wanted)
    for part in parts:  # scalars are the same for the whole batch
        assert part[8] == whole[8] and part[9] == whole[9]


def test_every_key_and_sample_gets_different_numbers():
    seen = [numbers(range(8), *key)[1] for key in ((0, 0), (0, 1), (1, 0), (0, 0, 0), (1, 1))]
    values = torch.cat(seen).flatten()
    assert len(values.unique()) == len(values)


def test_distributions():
    with KeyedRandom(range(4000), 3):
        normal, uniform, whole = torch.randn(4000), torch.rand(4000), torch.randint(2, 6, (4000,))
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert stats.chisquare(torch.bincount(whole)[2:].numpy()).pvalue > 1e-3 and whole.min() == 2 and whole.max() == 5
    lanes = normal.view(-1, 4)
    assert abs(torch.corrcoef(lanes.T).fill_diagonal_(0)).max() < 5 / math.sqrt(len(lanes))


def test_the_global_generator_is_unchanged():
    before = torch.get_rng_state()
    numbers(range(4), 0)
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(3)
    with KeyedRandom(range(4), 0):
        own = torch.randn(2, generator=generator)
    assert torch.equal(own, torch.randn(2, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(2, 4), lambda: torch.randint(0, 9, [3]), lambda: torch.empty(4).normal_(),
        lambda: torch.bernoulli(torch.ones(4)), lambda: torch.randperm(4), lambda: torch.rand(4, 4).uniform_(),
    ],
)  # fmt: skip
def test_calls_that_depend_on_the_parts_are_refused(draw):
    with KeyedRandom(range(4), 0), pytest.raises(ValueError, match=r"batch \(4\) first|no meaning"):
        draw()

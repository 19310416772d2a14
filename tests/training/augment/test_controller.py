"""How ADA adapts p."""

from __future__ import annotations

import warnings

import pytest
import torch

from stylegan_toon.training.augment import AdaController, AugmentPipe


def test_p_moves_by_the_published_step():
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


def test_p_crosses_from_0_to_1_in_ada_kimg_and_stays_with_one_warning():
    ada = AdaController(AugmentPipe(), kimg=1, interval=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(25):  # 25 * 4 * 10 pictures
            ada.observe(torch.ones(10))
            ada.step(batch=10)
        assert ada.pipe.p == pytest.approx(1)
        for _ in range(3):
            ada.observe(torch.ones(10))
            ada.step(batch=10)
    assert ada.pipe.p == 1.0
    assert len(caught) == 1 and "above 1" in str(caught[0].message)


@pytest.mark.parametrize("logits", [[1.0, 1.0, 1.0, 1.0, -1.0], []])
def test_p_stays_at_the_target_and_without_scores(logits):
    ada = AdaController(AugmentPipe(p=0.5), target=0.6)
    ada.observe(torch.tensor(logits))
    ada.step(batch=32)
    assert ada.pipe.p == 0.5


def test_several_processes_move_p_as_one_does():
    """Each observes its share; with the sums added up, p is that of a single process that observes everything."""
    torch.manual_seed(0)
    alone, *ranks = (AdaController(AugmentPipe(p=0.5)) for _ in range(4))
    summed = AdaController(AugmentPipe(p=0.5))
    for _ in range(5):
        logits = torch.randn(24, 1) + 0.7
        alone.observe(logits)
        for rank, share in zip(ranks, logits.split([12, 8, 4])):
            rank.observe(share)
        total, count = sum(rank.sum for rank in ranks), sum(rank.count for rank in ranks)
        summed.update(total, count, batch=24)
        for rank in ranks:  # as an all-reduce leaves them
            rank.sum.copy_(total)
            rank.count.copy_(count)
        wanted = alone.step(batch=24)
        assert {rank.step(batch=24) for rank in ranks} == {wanted}
        assert {rank.pipe.p for rank in ranks} | {summed.pipe.p} == {alone.pipe.p}


def test_resuming_is_exact():
    torch.manual_seed(0)
    logits = torch.randn(12, 8, 1) + 0.8

    def run(ada: AdaController, batches: range) -> None:
        for i in batches:
            ada.observe(logits[i])
            if (i + 1) % ada.interval == 0:
                ada.step(batch=8)

    whole, first, second = (AdaController(AugmentPipe(p=0.3), kimg=3) for _ in range(3))
    run(whole, range(12))
    run(first, range(6))  # stops between two steps
    second.load_state_dict(first.state_dict())
    run(second, range(6, 12))
    assert second.pipe.p == whole.pipe.p != 0.3
    assert torch.equal(second.sum, whole.sum) and torch.equal(second.count, whole.count)


def test_kimg_must_be_positive():
    with pytest.raises(ValueError, match="kimg"):
        AdaController(AugmentPipe(), kimg=0)

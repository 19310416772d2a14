"""Steps, time budgets and plateaus of a search, with a clock of our own."""

from __future__ import annotations

import pytest

from stylegan_toon.inversion.optimise import learning_rate
from stylegan_toon.inversion.pace import Pace


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def walk(pace: Pace, clock: Clock, durations, distance=lambda share: 1 - 0.9 * share) -> list[float]:
    """The shares of a search whose step ``i`` takes ``durations(i)`` seconds."""
    shares = []
    for share in pace:
        shares.append(share)
        clock.now += durations(pace.done)
        pace.record(distance(share))
    return shares


def test_without_a_budget_the_share_is_that_of_the_steps():
    clock = Clock()
    pace = Pace(8, clock=clock)
    assert walk(pace, clock, lambda _: 5.0) == [i / 8 for i in range(8)]
    assert pace.done == pace.planned == 8


def test_no_steps_are_no_search():
    assert list(Pace(0)) == [] and list(Pace(0, 10.0)) == []


@pytest.mark.parametrize("seconds", [3.0, 10.0, 47.0])
@pytest.mark.parametrize("durations", [lambda i: 0.5, lambda i: 1.5 if i < 3 else 0.25, lambda i: 0.2 + 0.02 * i])
def test_a_budget_is_kept_and_used(seconds, durations):
    """It ends before the time is up, with less than two of its slowest steps to spare."""
    clock = Clock()
    pace = Pace(1000, seconds, clock=clock)
    shares = walk(pace, clock, durations)
    assert clock.now - 100 <= seconds
    assert seconds - (clock.now - 100) < 2 * max(durations(i) for i in range(max(0, len(shares) - 3), len(shares) + 1))
    assert shares == sorted(shares)


def test_the_learning_rate_has_fallen_when_the_time_is_up():
    clock = Clock()
    shares = walk(Pace(400, 20.0, clock=clock), clock, lambda _: 0.25)
    rates = [learning_rate(share, 1, 0.1) for share in shares]
    assert len(shares) in (79, 80) and max(rates) == 0.1
    assert rates[-1] < 0.002 and rates[0] == 0


def test_the_number_of_steps_is_foreseen():
    clock = Clock()
    pace, planned = Pace(400, 21.0, clock=clock), []
    for _ in pace:
        clock.now += 0.5
        pace.record(1.0)
        planned.append(pace.planned)
    assert planned[0] == 400 and planned[1:] == [41] * (len(planned) - 1) and pace.done == 41


def test_steps_bound_a_long_budget():
    clock = Clock()
    assert walk(Pace(10, 1e6, clock=clock), clock, lambda _: 1.0) == [i / 10 for i in range(10)]


def test_a_budget_shorter_than_a_step_takes_one():
    clock = Clock()
    assert walk(Pace(10, 0.5, clock=clock), clock, lambda _: 3.0) == [0.0]


def test_a_plateau_goes_on_at_the_next_stage_and_then_at_the_fall():
    clock = Clock()
    pace = Pace(400, plateau=0.02, milestones=[0.5, 0.75], clock=clock)
    shares = walk(pace, clock, lambda _: 1.0, distance=lambda _: 1.0)
    # 20 flat steps, 20 flat steps of the second stage, and the whole last quarter.
    assert shares == pytest.approx([i / 400 for i in range(20)] + [0.5 + i / 400 for i in range(20)] + [
        0.75 + i / 400 for i in range(100)
    ])  # fmt: skip
    assert pace.planned == pace.done == 140


def test_a_search_that_gets_nearer_is_no_plateau():
    """Ten steps bring 1 % of the way: that is a plateau for 2 % and none for 0.5 %."""
    clock = Clock()

    def slow(share: float) -> float:
        return 0.99 ** (40 * share)  # by 1 % in ten of 400 steps

    assert len(walk(Pace(400, plateau=0.005, milestones=[0.75], clock=clock), clock, lambda _: 1.0, slow)) == 400
    assert len(walk(Pace(400, plateau=0.02, milestones=[0.75], clock=clock), clock, lambda _: 1.0, slow)) == 120


def test_another_stage_is_not_compared_with_the_one_before():
    """A jump up at a milestone, as from another size of the pictures, is no plateau."""
    clock = Clock()

    def saw(share: float) -> float:
        return (2.0 if share >= 0.4 else 1.0) * 0.9 ** (40 * share)

    assert len(walk(Pace(400, plateau=0.05, milestones=[0.4, 0.75], clock=clock), clock, lambda _: 1.0, saw)) == 400


def test_a_plateau_shortens_a_budgeted_search_too():
    clock = Clock()
    pace = Pace(1000, 50.0, plateau=0.02, milestones=[0.75], clock=clock)
    walk(pace, clock, lambda _: 0.5, distance=lambda _: 1.0)
    assert clock.now - 100 == pytest.approx(0.5 * 20 + 0.25 * 49.5, abs=0.5)

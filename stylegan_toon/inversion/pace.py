"""How far a search has come: by its steps, by the clock, or because the distance has stopped falling."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

WINDOW = 10  # steps whose mean distance is compared with that of as many before them
FALL = 0.75  # share of a search from which on its learning rate falls; learning_rate() of `optimise`


class Pace:
    """Gives the share of a search that is done, from 0 to 1, before every step; the schedules of a search follow it.

    Without a budget the share is step / steps. With one it is the share of the time that has passed, if that is larger:
    the learning rate has then fallen when the time is up. A step that would end after the budget is not begun, going
    by the slowest of the last few. The first step is always taken.

    On a plateau, where the mean distance of ten steps lies less than ``plateau`` below that of the ten before, the
    search goes on at the next of ``milestones``. After the last of them plateaus end nothing: there the learning rate
    falls, and with it the distance.

    Args:
        steps: at most this many.
        seconds: wall-clock time, counted from now; None = no limit.
        plateau: share by which the distance must fall; 0 = never look.
        milestones: shares at which a stage of the search begins, such as another size of the pictures.
        clock: seconds; None = `time.monotonic`.
    """

    def __init__(
        self,
        steps: int,
        seconds: float | None = None,
        *,
        plateau: float = 0.0,
        milestones: Sequence[float] = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.steps, self.seconds, self.plateau = steps, seconds, plateau
        self.done = 0
        self._milestones, self._clock = sorted(milestones), clock or time.monotonic
        self._begun = self._last = self._clock()
        self._durations: list[float] = []
        self._distances: list[float] = []
        self._jumped = self._share = 0.0

    def __iter__(self) -> Iterator[float]:
        """The share before each step, until the search is over; `record` must be called after each step."""
        while self.steps and (not self.done or self._share < 1 - 1e-9):
            yield self._share

    @property
    def planned(self) -> int:
        """How many steps there will be, as far as can be told now: all until two have been taken."""
        own = self._share - self._jumped
        if self.done < 2 or own <= 0:
            return self.steps
        return self.done + math.ceil(max(0.0, 1 - self._share) * self.done / own - 1e-6)

    def record(self, distance: float) -> None:
        """Count a step that was taken, and the distance that it found."""
        now = self._clock()
        self._durations = [*self._durations[-2:], now - self._last]
        self._last, self.done = now, self.done + 1
        before, self._share = self._share, max(self._share, self._progress(now))
        if any(before < at <= self._share for at in self._milestones):
            self._distances = []  # another stage: its distances are not comparable
        self._distances.append(distance)
        following = [at for at in self._milestones if at > self._share]
        if following and self._flat():
            self._jumped += following[0] - self._share
            self._share, self._distances = following[0], []

    def _progress(self, now: float) -> float:
        share = self.done / self.steps
        if self.seconds is not None:
            usable = self.seconds - max(self._durations)
            share = max(share, (now - self._begun) / usable if usable > 0 else 1.0)
        return share + self._jumped

    def _flat(self) -> bool:
        if not self.plateau or len(self._distances) < 2 * WINDOW:
            return False
        older, newer = self._distances[-2 * WINDOW : -WINDOW], self._distances[-WINDOW:]
        return sum(newer) > (1 - self.plateau) * sum(older)

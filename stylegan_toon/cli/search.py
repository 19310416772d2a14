"""Progress of a search, as the commands show it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..progress import progress

if TYPE_CHECKING:
    from ..inversion.optimise import Progress


@contextlib.contextmanager
def search_progress(steps: int, name: str, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A progress bar for ``steps`` steps of inversion; gives the callback that moves it.

    A search that will take fewer steps than planned, because of a time budget or a plateau, shortens the bar.
    """
    with progress(total=steps, desc=name, unit="step", quiet=quiet) as bar:
        planned = 0

        def move(at: Progress) -> None:
            nonlocal planned
            if at.step > 1 and bar.total is not None:
                bar.total += at.steps - planned
            planned = at.steps
            bar.set_postfix(stage=at.stage, distance=f"{at.distance:.3f}", refresh=False)
            bar.update()

        yield move

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
    """A progress bar for ``steps`` steps of inversion; gives the callback that moves it."""
    with progress(total=steps, desc=name, unit="step", quiet=quiet) as bar:

        def move(at: Progress) -> None:
            bar.set_postfix(stage=at.stage, distance=f"{at.distance:.3f}", refresh=False)
            bar.update()

        yield move

"""Progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def progress(items: Iterable[Any] | None = None, *, quiet: bool = False, **settings: Any) -> Any:
    """A tqdm bar on stderr with rate and remaining time: ``for x in progress(items, desc="...", unit="img"):``.

    It moves ten times a second on a terminal, and twice a minute in a log file.

    Args:
        items: what to iterate over; None for a bar that is moved with ``update()``.
        quiet: show nothing.
        settings: passed to tqdm.
    """
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 30.0  # s
    return tqdm(
        items, disable=quiet, dynamic_ncols=True, mininterval=interval, maxinterval=max(10.0, interval), **settings
    )

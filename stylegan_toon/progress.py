"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def progress(items: Iterable[Any] | None = None, *, quiet: bool = False, **settings: Any) -> Any:
    """A tqdm bar on stderr with rate and remaining time: ``for x in progress(items, desc="...", unit="img"):``.

    Args:
        items: what to iterate over; None for a bar that is moved with ``update()``.
        quiet: show nothing.
        settings: passed to tqdm.
    """
    from tqdm import tqdm

    return tqdm(items, disable=quiet, dynamic_ncols=True, **settings)

"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def progress(items: Iterable[T] | None = None, *, quiet: bool = False, **settings: Any) -> Any:
    """A tqdm bar on stderr with rate and ETA: ``for x in progress(items, desc="...", unit="img"):``."""
    from tqdm import tqdm

    return tqdm(items, disable=quiet, dynamic_ncols=True, **settings)

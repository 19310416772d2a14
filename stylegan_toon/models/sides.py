"""The sides of the pictures that a network makes, and which of them to take. All in pixels."""

from __future__ import annotations

from ..errors import ToonError
from .stylegan2 import Generator


def checked_side(G: Generator, resolution: int | None) -> int:
    """``resolution``, or the largest side if it is None.

    Raises:
        ToonError: ``G`` does not make pictures of that side.
    """
    sides = G.config.head_resolutions
    if resolution is None:
        return sides[-1]
    if resolution not in sides:
        raise ToonError(f"These networks make pictures of {', '.join(map(str, sides))} px: choose one of them.")
    return resolution


def side_or_largest(G: Generator, wanted: int) -> int:
    """``wanted`` if the network makes it, or else its largest side."""
    sides = G.config.head_resolutions
    return wanted if wanted in sides else sides[-1]


def largest_side(G: Generator, most: int) -> int:
    """``most``, or the next smaller side that the network makes; its smallest if all are larger."""
    sides = G.config.head_resolutions
    return max([side for side in sides if side <= most] or sides[:1])

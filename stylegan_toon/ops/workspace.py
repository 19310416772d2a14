"""Memory for what lives only until the next layer, used again and again.

The first touch of new memory costs a page fault, which on a CPU is several times what a layer's arithmetic costs. A
synthesis network needs two buffers: every layer reads one and writes the other.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from . import library


class _Buffers(threading.local):
    """Of each thread: two, and whose turn it is. ``depth`` counts open contexts."""

    def __init__(self) -> None:
        self.pair: list[Tensor] = [torch.empty(0), torch.empty(0)]
        self.turn = self.depth = 0


_buffers = _Buffers()


@contextlib.contextmanager
def workspace() -> Iterator[None]:
    """Within this context `take` lends memory; a tensor of its is overwritten by the next but one."""
    _buffers.depth += 1
    try:
        yield
    finally:
        _buffers.depth -= 1


def take(shape: Sequence[int]) -> Tensor | None:
    """A float32 channels_last CPU tensor of this shape; None outside the context, and where gradients are recorded."""
    if _buffers.depth != 1 or torch.is_grad_enabled():
        return None
    n, c, h, w = shape
    numel, turn = n * c * h * w, _buffers.turn
    _buffers.turn = 1 - turn
    if _buffers.pair[turn].numel() < numel:
        _buffers.pair[turn] = torch.empty(0)  # free the old one first
        _buffers.pair[turn] = library.on_huge_pages(torch.empty(numel))
    return _buffers.pair[turn][:numel].view(n, h, w, c).permute(0, 3, 1, 2)


def release() -> None:
    """Give this thread's buffers back to the system."""
    _buffers.pair = [torch.empty(0), torch.empty(0)]

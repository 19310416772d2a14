"""Memory for what lives only until the next layer, used again and again.

The first touch of new memory costs a page fault, which on a CPU is several times what a layer's arithmetic costs. A
network without gradients needs three buffers of the size of its largest layer: what a layer reads, what it writes, and
what its block began with. A backward pass needs as many.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import library

_MOST = 4  # buffers of a thread
_SMALL = 1 << 15  # numbers that malloc has at hand


@dataclass(eq=False)
class _Buffer:
    memory: np.ndarray
    borrower: weakref.ref  # dead when no tensor is in this memory any more

    @property
    def free(self) -> bool:
        return self.borrower() is None


class _Pool(threading.local):
    """Of each thread."""

    def __init__(self) -> None:
        self.buffers: list[_Buffer] = []


_pool = _Pool()


def take(shape: Sequence[int]) -> Tensor:
    """A float32 channels_last CPU tensor of this shape, with anything in it.

    Its memory is lent: it is used again as soon as the tensor and all views of it are gone. At most four large tensors
    are lent to a thread at a time, what is more is new memory.
    """
    n, c, h, w = shape
    return numbers(n * c * h * w).view(n, h, w, c).permute(0, 3, 1, 2)


def numbers(count: int) -> Tensor:
    """So many float32 numbers on the CPU, lent as by `take`."""
    buffers = _pool.buffers
    free = [buffer for buffer in buffers if buffer.free]
    if count <= _SMALL or (not free and len(buffers) == _MOST):
        return library.on_huge_pages(torch.empty(count))
    free.sort(key=lambda buffer: buffer.memory.size)
    found = next((buffer for buffer in free if buffer.memory.size >= count), None)
    if found is None:
        if free:
            buffers.remove(free.pop())  # the old one goes first
        # A numpy array, because torch holds on to the very object it was given as long as a tensor is in it.
        found = _Buffer(library.on_huge_pages(torch.empty(count)).numpy(), lambda: None)
        buffers.append(found)
    lent = found.memory[:count]
    found.borrower = weakref.ref(lent)
    return torch.from_numpy(lent)


def release() -> None:
    """Give this thread's buffers back to the system, those in use as soon as they are free."""
    _pool.buffers = []

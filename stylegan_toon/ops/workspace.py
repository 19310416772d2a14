"""Memory that is used again and again.

The first touch of new memory costs a page fault, which on a CPU is several times what a layer's arithmetic costs. A
network without gradients needs three buffers of the size of its largest layer: what a layer reads, what it writes, and
what its block began with. A backward pass needs as many. What an op returns is lent, too, while there is some to lend.
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

_MOST = 4  # buffers of a pool
_SMALL = 1 << 17  # bytes that malloc has at hand
_OUTPUTS = (1 << 22, 1 << 27)  # smallest and largest output that gets lent memory, in bytes


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

    def lend(self, nbytes: int) -> Tensor | None:
        """So many bytes, or None if every buffer is in use."""
        free = sorted((buffer for buffer in self.buffers if buffer.free), key=lambda buffer: buffer.memory.size)
        if not free and len(self.buffers) == _MOST:
            return None
        found = next((buffer for buffer in free if buffer.memory.size >= nbytes), None)
        if found is None:
            if free:
                self.buffers.remove(free.pop())  # the old one goes first
            # A numpy array, because torch holds on to the very object it was given as long as a tensor is in it.
            memory = library.on_huge_pages(torch.empty(nbytes, dtype=torch.uint8)).numpy()
            found = _Buffer(memory, lambda: None)
            self.buffers.append(found)
        lent = found.memory[:nbytes]
        found.borrower = weakref.ref(lent)
        return torch.from_numpy(lent)


_pool = _Pool()  # of what lives until the next layer
_outputs = _Pool()  # of what callers get: they may keep it, which must not slow the layers down


def take(shape: Sequence[int]) -> Tensor:
    """A float32 channels_last CPU tensor of this shape, with anything in it.

    Its memory is lent: it is used again as soon as the tensor and all views of it are gone. At most four large tensors
    are lent to a thread at a time, what is more is new memory.
    """
    n, c, h, w = shape
    return numbers(n * c * h * w).view(n, h, w, c).permute(0, 3, 1, 2)


def numbers(count: int) -> Tensor:
    """So many float32 numbers on the CPU, lent as by `take`."""
    lent = _pool.lend(4 * count) if 4 * count > _SMALL else None
    return library.on_huge_pages(torch.empty(count)) if lent is None else lent.view(torch.float32)


def lent(out: Tensor) -> Tensor:
    """``out``, a new tensor; or if it is large and on the CPU one like it, in memory that was in use before.

    Four such tensors of a thread, of up to 128 MiB each, at a time.
    """
    smallest, largest = _OUTPUTS
    memory = _outputs.lend(out.nbytes) if out.is_cpu and smallest <= out.nbytes <= largest else None
    if memory is None:
        return library.on_huge_pages(out)
    return torch.empty(0, dtype=out.dtype).set_(memory.untyped_storage(), 0, out.shape, out.stride())


def release() -> None:
    """Give this thread's buffers back to the system, those in use as soon as they are free."""
    _pool.buffers, _outputs.buffers = [], []

"""Memory that is used again and again.

The first write to new memory costs page faults, which on a CPU take several times as long as a layer's arithmetic. A
network without gradients needs three buffers of the size of its largest layer: for what a layer reads, for what it
writes, and for the input of its block. A backward pass needs as many. So each thread keeps a few buffers, and a tensor
in one of them is a view of it: the buffer is free again when no tensor refers to it any more.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import library

_MAX_BUFFERS = 4
_SMALL = 1 << 17  # bytes up to which malloc reuses memory itself
_OUTPUT_BYTES = (1 << 22, 1 << 27)  # the smallest and the largest output that is placed in the workspace


@dataclass(eq=False)
class _Buffer:
    memory: np.ndarray
    user: Callable[[], np.ndarray | None]  # a weak reference to the array that tensors in this memory hold

    @property
    def free(self) -> bool:
        return self.user() is None


class _Workspace(threading.local):
    """At most four buffers for each thread."""

    def __init__(self) -> None:
        self.buffers: list[_Buffer] = []

    def allocate(self, nbytes: int) -> Tensor | None:
        """A uint8 tensor of this size, or None if every buffer is in use."""
        free = sorted((buffer for buffer in self.buffers if buffer.free), key=lambda buffer: buffer.memory.size)
        if not free and len(self.buffers) == _MAX_BUFFERS:
            return None
        buffer = next((buffer for buffer in free if buffer.memory.size >= nbytes), None)
        if buffer is None:
            if free:
                self.buffers.remove(free.pop())  # the largest free one is too small: replace it
            # A numpy array, because torch holds the very object that it was given as long as a tensor uses its memory.
            memory = library.on_huge_pages(torch.empty(nbytes, dtype=torch.uint8)).numpy()
            buffer = _Buffer(memory, lambda: None)
            self.buffers.append(buffer)
        array = buffer.memory[:nbytes]
        buffer.user = weakref.ref(array)
        return torch.from_numpy(array)


_layers = _Workspace()  # what lives until the next layer
_outputs = _Workspace()  # what callers get and may keep for long: apart, so that layers do not run out of buffers


class _PackingBuffer(threading.local):
    data = torch.empty(0)


_packing = _PackingBuffer()


def empty(shape: Sequence[int]) -> Tensor:
    """An uninitialised float32 channels_last CPU tensor ``[N, C, H, W]`` in the workspace.

    Its memory is used again as soon as the tensor and all views of it are gone. At most four large tensors of a thread
    are in the workspace at a time; further ones get new memory.
    """
    n, c, h, w = shape
    return empty_flat(n * c * h * w).view(n, h, w, c).permute(0, 3, 1, 2)


def empty_flat(numel: int) -> Tensor:
    """An uninitialised float32 CPU tensor ``[numel]`` in the workspace; see `empty`."""
    memory = _layers.allocate(4 * numel) if 4 * numel > _SMALL else None
    return library.on_huge_pages(torch.empty(numel)) if memory is None else memory.view(torch.float32)


def reused(out: Tensor) -> Tensor:
    """``out``, which is new and not written to yet; or, if it is a large CPU tensor, one like it in the workspace.

    At most four tensors of a thread, of 4 to 128 MiB each, are in the workspace at a time.
    """
    smallest, largest = _OUTPUT_BYTES
    memory = _outputs.allocate(out.nbytes) if out.is_cpu and smallest <= out.nbytes <= largest else None
    if memory is None:
        return library.on_huge_pages(out)
    return torch.empty(0, dtype=out.dtype).set_(memory.untyped_storage(), 0, out.shape, out.stride())


def packing_buffer(numel: int) -> Tensor:
    """At least ``numel`` float32 numbers to rearrange weights into; this thread's next call returns the same memory."""
    if _packing.data.numel() < numel:
        _packing.data = library.on_huge_pages(torch.empty(numel))
    return _packing.data


def release() -> None:
    """Free this thread's workspace; buffers in use are freed when the last tensor in them is gone."""
    _layers.buffers, _outputs.buffers = [], []
    _packing.data = torch.empty(0)

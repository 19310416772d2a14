"""Endless batches for training: each process reads its own rows of every global batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.datasets import ImageDataset, PairDataset
from ..errors import ToonError
from .stop import ignore_interrupts


@dataclass(frozen=True)
class Rows:
    """Batch sampler: of every ``batch`` indices of the endless stream, those at ``rows``; ``start`` are used."""

    data: ImageDataset | PairDataset
    batch: int
    rows: range
    seed: int
    start: int

    def __iter__(self) -> Iterator[list[int]]:
        stream = iter(self.data.sampler(seed=self.seed, start=self.start))
        while True:
            yield list(itertools.islice(stream, self.batch))[self.rows.start : self.rows.stop]


def batches(rows: Rows, *, device: torch.device, workers: int, channels: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Endless ``(pictures [N, channels, R, R] in [-1, 1], label or latent [N, dim])``, N = ``len(rows.rows)``.

    A picture that cannot be read raises ToonError, told without the traceback of the process that found it.
    """
    loader = DataLoader(
        rows.data,
        batch_sampler=rows,
        num_workers=workers,
        worker_init_fn=ignore_interrupts,
        pin_memory=device.type == "cuda",
    )
    try:
        for pictures, extra in loader:
            pictures = pictures.to(device, torch.float32, non_blocking=True) / 127.5 - 1
            if channels == 1:
                pictures = pictures.mean(dim=1, keepdim=True)
            yield pictures, extra.to(device, non_blocking=True) if extra.shape[1] else None
    except ToonError as error:
        raise ToonError(str(error).strip().rpartition("ToonError: ")[2]) from None

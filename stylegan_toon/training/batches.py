"""Endless batches for training: each process reads its own rows of every global batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.datasets import ImageDataset, PairDataset
from ..errors import ToonError
from .stop import ignore_interrupts


@dataclass(frozen=True)
class BatchRows:
    """Batch sampler: of every ``batch`` indices of the set's endless order, those at ``rows``.

    Attributes:
        data: the set, whose sampler gives the order.
        batch: pictures of the global batch.
        rows: the part of each batch that this process reads.
        seed: of the order.
        start: indices to pass over, because they were used before.
    """

    data: ImageDataset | PairDataset
    batch: int
    rows: range
    seed: int
    start: int

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.data.sampler(seed=self.seed, start=self.start))
        while True:
            yield list(itertools.islice(order, self.batch))[self.rows.start : self.rows.stop]


def batches(
    sampler: BatchRows, *, device: torch.device, workers: int, channels: int = 3
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Endless ``(pictures [N, channels, R, R] in [-1, 1], label or latent [N, dim])``, N = ``len(sampler.rows)``.

    Raises:
        ToonError: a picture cannot be read; without the traceback of the process that read it.
    """
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", sampler.data),
        batch_sampler=sampler,
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

"""Weights in 8 bits: whole numbers from -127 to 127, and one factor for each row (output channel)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from .pickled_tensors import StoredTensor

SUFFIX = ":scale"  # a colon, which no tensor of a network has in its name
SMALLEST = 65536  # numbers; smaller tensors save little


def worth_it(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is stored in 8 bits: large, of floating type, with rows.

    Not the mapping network: its errors add up over eight layers and affect every picture.
    """
    large = tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() >= SMALLEST
    return large and not name.startswith("mapping.")


def quantise(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """``[O, ...]`` -> int8 of the same shape and factors float32 ``[O]``; the largest number of a row becomes 127."""
    rows = tensor.detach().float().flatten(1)
    scale = rows.abs().amax(dim=1).clamp(min=1e-30) / 127
    return (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8).view(tensor.shape), scale


@dataclass(frozen=True)
class Quantised:
    """A float32 tensor that is stored in 8 bits and has not been read yet."""

    levels: StoredTensor
    scale: StoredTensor
    dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.levels.shape)

    def is_floating_point(self) -> bool:
        return True

    def read(self, file: BinaryIO) -> Tensor:
        """The tensor in float32, on the CPU."""
        levels = self.levels.read(file).float()
        return levels * self.scale.read(file).float().view(-1, *[1] * (levels.ndim - 1))

"""What all augmentations share: the probability, random numbers for each picture, and transforms of some rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Augment(nn.Module, ABC):
    """``pipe(images, generator=None)`` augments ``[N, C, H, W]``, each picture independently, with probability ``p``.

    ``p`` is a plain number, so that no step waits for a GPU to read it; ``state_dict`` holds it.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def p(self) -> float:
        """Overall probability, 0 to 1; takes a number or a tensor of one element. Raises ValueError outside."""
        return self._p

    @p.setter
    def p(self, value: float | Tensor) -> None:
        value = float(value)
        if not 0 <= value <= 1:
            raise ValueError(f"the augmentation probability p is {value}, but must be between 0 and 1")
        self._p = value

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.p, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.p = state

    def forward(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """``[N, C, H, W] -> [N, C, H, W]``, same dtype; untouched at ``p`` 0. Differentiable twice (R1).

        Args:
            images: floating point, about [-1, 1].
            generator: of the CPU, whatever the device; torch's global one if None. All random choices come from it.
        """
        if self.p == 0:
            return images
        # Positions and sums over taps need float32: half precision would show as jitter and steps of grey.
        wide = images if images.dtype == torch.float64 else images.float()
        with torch.autocast(images.device.type, enabled=False):
            return self.augment(wide, RandomNumbers(len(images), generator)).to(images.dtype)

    @abstractmethod
    def augment(self, images: Tensor, random: RandomNumbers) -> Tensor:
        """``[N, C, H, W] -> [N, C, H, W]`` in float32 or float64, ``p`` being above 0."""


class RandomNumbers:
    """Random numbers for each of ``n`` pictures, float64 on the CPU.

    On the CPU they are the same for every device, and whether a transform applies is known without waiting for a GPU.
    """

    def __init__(self, n: int, generator: torch.Generator | None = None) -> None:
        self.n = n
        self._options: dict[str, Any] = {} if generator is None else {"generator": generator}

    def uniform(self, *size: int) -> Tensor:
        """``[n, *size]`` in [0, 1)."""
        return torch.rand(self.n, *size, dtype=torch.float64, **self._options)

    def symmetric(self, *size: int) -> Tensor:
        """``[n, *size]`` in [-1, 1)."""
        return self.uniform(*size) * 2 - 1

    def normal(self, *size: int) -> Tensor:
        """``[n, *size]`` from the standard normal distribution."""
        return torch.randn(self.n, *size, dtype=torch.float64, **self._options)

    def integer(self, low: int, high: int) -> Tensor:
        """``[n]`` from ``low`` to ``high - 1``, exact up to 2^53."""
        return torch.randint(low, high, (self.n,), **self._options).double()

    def gate(self, value: Tensor, probability: float) -> Tensor:
        """Keep the values ``[n, ...]`` of a picture with ``probability``, else set them all to 0."""
        return value * (self.uniform(*[1] * (value.ndim - 1)) < probability)


def on_rows(images: Tensor, rows: Tensor, transform: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """``transform(images, *parameters)`` of the pictures in ``rows`` (bool ``[N]``, CPU); the others stay unchanged.

    ``parameters`` are ``[N, ...]`` on the CPU; the transform gets them with the device and dtype of the images.
    """
    if not rows.any():
        return images
    chosen = [parameter[rows].to(images) for parameter in parameters]
    if rows.all():
        return transform(images, *chosen)
    index = rows.nonzero()[:, 0].to(images.device)
    return images.index_copy(0, index, transform(images.index_select(0, index), *chosen))

"""Adaptive discriminator augmentation: adapts p to how far the discriminator overfits."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from .base import Augment


class AdaController(nn.Module):
    """Raises or lowers ``p`` so that the mean sign of the scores of real pictures stays at ``target``.

    The heuristic r_t of Karras et al. 2020, section 3.1. ``state_dict`` holds ``p`` and the statistics since the last
    step, so that a training goes on exactly where it stopped.

    With several processes: sum the buffers ``sum`` and ``count`` over them (all-reduce), then call ``step`` with the
    pictures of all processes; or give sums of your own to ``update``. All processes arrive at the same ``p``.

    Args:
        pipe: the augmentation whose ``p`` is adapted.
        target: the mean sign to reach, -1 to 1.
        kimg: thousands of pictures in which ``p`` can go from 0 to 1.
        interval: batches between two steps.

    Raises:
        ValueError: ``kimg`` is not positive.
    """

    sum: Tensor
    count: Tensor

    def __init__(self, pipe: Augment, *, target: float = 0.6, kimg: float = 500, interval: int = 4) -> None:
        super().__init__()
        if kimg <= 0:
            raise ValueError(f"kimg is {kimg}, but must be positive")
        self.pipe, self.target, self.kimg, self.interval = pipe, target, kimg, interval
        self.register_buffer("sum", torch.zeros([]))
        self.register_buffer("count", torch.zeros([]))
        self._warned = False

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        """Add the scores ``[N, 1]`` of a batch of real pictures to the statistics."""
        self.sum += real_logits.sign().sum()
        self.count += real_logits.numel()

    def step(self, batch: int) -> float:
        """Move ``p`` by one step for ``interval`` batches of ``batch`` pictures and reset the statistics.

        Returns:
            the mean sign.
        """
        sign = self.update(self.sum, self.count, batch)
        self.sum.zero_()
        self.count.zero_()
        return sign

    def update(self, sum: Tensor, count: Tensor, batch: int) -> float:
        """As `step`, from a sum of signs and a number of scores (scalars) that the caller has gathered.

        ``p`` stays in [0, 1] (in the published code it has no upper limit); it warns the first time that ``p`` would
        exceed 1. Without scores ``p`` does not change.

        Args:
            sum, count: over the ``interval`` batches and all processes.
            batch: pictures in a batch, of all processes.
        """
        sign = float(sum) / max(float(count), 1)
        direction = (sign > self.target) - (sign < self.target) if count > 0 else 0
        wanted = self.pipe.p + direction * batch * self.interval / (self.kimg * 1000)
        if wanted > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                "ADA asks for p above 1 and stays at 1: the discriminator overfits; take more "
                "pictures, or use an earlier snapshot.",
                stacklevel=2,
            )
        self.pipe.p = min(max(wanted, 0.0), 1.0)
        return sign

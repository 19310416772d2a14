"""What a StyleGAN2-ADA training keeps from step to step, and what one step learns from."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..config import option
from .task import MOST, TaskState


@dataclass(frozen=True)
class StyleGAN2State(TaskState):
    """Numbers that StyleGAN2-ADA needs to go on exactly."""

    p: float = option(0.0, "Augmentation probability.", low=0, high=1)
    batch_gpu: int = option(0, "Pictures a process computes at a time; 0 = not chosen yet.", low=0, high=MOST)
    pairs_drawn: int = option(0, "Pairs taken from the set, in both phases.", low=0, high=MOST)
    pictures: int = option(0, "In the training set.", low=0, high=MOST)


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes:
        real: this process's pictures, ``[n, C, R, R]`` in [-1, 1]; None in the pairs phase.
        labels: of the whole batch, ``[batch, c_dim]``; None without labels.
        pairs: this process's pictures with known latents, ``[n, C, R, R]`` and ``[n, ...]``; None in most steps.
        fakes: with ``pairs_only``, what G showed for these latents in its own update, by the first row of each part.
    """

    real: Tensor | None = None
    labels: Tensor | None = None
    pairs: tuple[Tensor, Tensor] | None = None
    fakes: dict[int, Tensor] = field(default_factory=dict)

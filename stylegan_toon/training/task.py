"""What is trained: a task has networks, optimisers and a step; `loop.Trainer` runs it.

`stylegan2.StyleGAN2Task` is one task, each project's ``train.py`` defines another.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from ..config import Config, ConfigError
from ..distributed import ProcessGroup
from ..errors import ToonError
from .config import LoopConfig

MOST = 2**53  # no training comes here; larger numbers would not survive JSON readers that use floats


@dataclass
class Counters:
    """How far a phase is.

    Attributes:
        steps: optimiser steps.
        images: pictures of each set, over all processes.
    """

    steps: int = 0
    images: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.steps < MOST and 0 <= self.images < MOST):
            raise ConfigError("The counters of a snapshot must be numbers from 0 up: take another snapshot.")


@dataclass(frozen=True)
class TaskState(Config):
    """Numbers beside the counters that a task needs to go on exactly; stored as JSON in a snapshot."""


class Task(ABC):
    """What is trained.

    Args:
        config: how long, with which options.
        networks: all networks by name, on the device to train on; each of a kind in `weights.KINDS`. They are put
            into training mode.
        optimizers: Adams by name; each holds parameters of these networks.
        group: the processes that train together.

    Attributes:
        config_class, state_class: the types of ``config`` and ``state``, to read snapshots with.
        phases: names of the phases, in order; each has counters of its own.
        published: names of the networks in the final file; empty = all.
        counters: how far each phase is.
        state: other numbers, see `TaskState`.
        device: that of the networks.
    """

    config_class: ClassVar[type[LoopConfig]] = LoopConfig
    state_class: ClassVar[type[TaskState]] = TaskState
    phases: ClassVar[tuple[str, ...]] = ("train",)
    published: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        config: LoopConfig,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Adam],
        group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    ) -> None:
        self.config, self.networks, self.optimizers, self.group = config, dict(networks), dict(optimizers), group
        self.counters = {phase: Counters() for phase in self.phases}
        self.state = self.state_class()
        self.device = next(next(iter(self.networks.values())).parameters()).device
        for network in self.networks.values():
            network.train()

    # ------------------------------------------------------------ what a task must define

    @abstractmethod
    def batches(self, phase: str) -> Iterator[Any]:
        """Endless batches for `step`, from where the counters stand."""

    @abstractmethod
    def step(self, phase: str, batch: Any) -> Mapping[str, Tensor | float]:
        """Learn from one batch; returns losses and other numbers for the log, tensors standing for their mean."""

    @abstractmethod
    def samples(self) -> Image.Image:
        """A picture that shows how far the training is; networks are in eval mode."""

    # ------------------------------------------------------------ what a task may add

    def images_wanted(self, phase: str) -> int:
        """Pictures at which a phase ends."""
        return int(self.config.kimg * 1000)

    def status(self) -> dict[str, float]:
        """Numbers for every line of the log, as they are now."""
        return {}

    def measure(self) -> dict[str, float]:
        """Metrics by name, measured at every snapshot; all processes call it."""
        return {}

    def check(self, means: Mapping[str, float]) -> None:
        """Raise ToonError when the means of a line of the log show that the training has diverged."""
        for name, value in means.items():
            if not math.isfinite(value):
                raise ToonError(
                    f"The loss {name} is {value}, so the training has diverged: go on from an earlier snapshot with "
                    "a smaller --lr, or with --dtype float32."
                )

    def provenance(self) -> dict[str, Any]:
        """What the networks say about this training, see `weights.descend`."""
        return {"config": asdict(self.config), "images_seen": self.counters[self.phases[-1]].images}

    # ------------------------------------------------------------ what a snapshot keeps

    def tensors(self) -> dict[str, Tensor]:
        """Tensors beside networks and optimisers that the task needs to go on exactly."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave, in place.

        Raises:
            ToonError: a tensor is missing or has another shape.
        """
        for name, tensor in self.tensors().items():
            if name not in tensors or tensors[name].shape != tensor.shape:
                raise ToonError(f"The snapshot does not fit these options at {name}: leave them as they were.")
            tensor.copy_(tensors[name])

    def load_state(self, state: Any) -> None:
        """Restore ``state``; called after `load_tensors`."""
        self.state = state

    # ------------------------------------------------------------

    @property
    def images_seen(self) -> int:
        """Pictures of all phases."""
        return sum(counters.images for counters in self.counters.values())

    @torch.no_grad()
    def samples_in_eval_mode(self) -> Image.Image:
        """`samples` with the networks in eval mode; afterwards each is in the mode it was in."""
        modes = {name: network.training for name, network in self.networks.items()}
        for network in self.networks.values():
            network.eval()
        try:
            return self.samples()
        finally:
            for name, network in self.networks.items():
                network.train(modes[name])

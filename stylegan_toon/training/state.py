"""Everything a StyleGAN2 training needs to go on as if it had never stopped, in a snapshot (see `snapshots`).

The networks are G, G_ema and D; beside Adam's moments stand the path length mean and ADA's sums. No random state is
stored: all random numbers are functions of the counters (`draws.Draws`), as is the order of the pictures
(`data.sampling.InfiniteSampler`), so a snapshot fits any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..config import from_values
from .config import TrainConfig
from .snapshots import newest_whole, read_folder


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        steps, images: of the adversarial phase; images are real pictures shown to D, over all processes.
        pairs_steps: of the pairs phase.
        pairs_images: shown in the pairs phase.
        pairs_drawn: pairs taken from the set in both phases.
        p: augmentation probability.
        batch_gpu: pictures a process computes at a time; 0 = not chosen yet.
        pictures: in the training set.
    """

    steps: int = 0
    images: int = 0
    pairs_steps: int = 0
    pairs_images: int = 0
    pairs_drawn: int = 0
    p: float = 0.0
    batch_gpu: int = 0
    pictures: int = 0

    @property
    def seen(self) -> int:
        """Pictures of both phases."""
        return self.images + self.pairs_images


@dataclass
class Snapshot:
    """One read back: networks in eval mode on the CPU, the other tensors by name, and the options it was made with."""

    path: Path
    networks: dict[str, nn.Module]
    tensors: dict[str, Tensor]
    progress: Progress
    config: TrainConfig


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot and check every byte of it.

    Raises:
        ToonError: it is not one, or damaged.
    """
    which = ("G", "G_ema", "D")
    return Snapshot(path, *read_folder(path, _progress, _config, which=which))


def _progress(values: Mapping[str, Any]) -> Progress:
    whole = {field.name: values[field.name] for field in fields(Progress)}
    p = whole["p"]
    if not all(type(v) is int and 0 <= v < 2**53 for k, v in whole.items() if k != "p"):
        raise ValueError("the counters are no numbers from 0 up")
    if type(p) not in (int, float) or not (math.isfinite(p) and 0 <= p <= 1):
        raise ValueError("p is no number from 0 to 1")
    return Progress(**whole)


def _config(values: Mapping[str, Any]) -> TrainConfig:
    values = dict(values)
    if values.get("dtype", "") is None:
        values["dtype"] = "auto"
    if values.get("batch_gpu") == 0:
        values["batch_gpu"] = "auto"
    return from_values(TrainConfig, values)


def find_snapshot(resume: str, run: Path) -> Snapshot | None:
    """What ``--resume`` means, see `snapshots.newest_whole`."""
    return newest_whole(resume, run, read_snapshot)

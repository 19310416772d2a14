"""Everything a training needs to go on as if it had never stopped: snapshots that are whole or not there.

A snapshot is a folder that appears under its name in one rename:

- ``networks.safetensors``: G, G_ema and D, an ordinary network file;
- ``optimizers.safetensors``: Adam's moments by parameter name, the path length mean, ADA's sums;
- ``state.json``: the counters, p, the options, and the sha256 of both other files.

No random state is stored: all random numbers are functions of the counters (`draws.Draws`), as is the order of the
pictures (`data.dataset.InfiniteSampler`), so a snapshot fits any number of processes.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..errors import ToonError
from ..files import atomic_folder, remove_folder
from ..weights import load_networks, save_networks, sha256_of
from ..weights.checkpoint import fits
from .config import TrainConfig

FORMAT_VERSION = 1
NETWORKS, OPTIMIZERS, STATE = "networks.safetensors", "optimizers.safetensors", "state.json"
_MAX_STATE = 1 << 20  # bytes; a real one has 3 kB
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


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


def write_snapshot(
    run: Path,
    networks: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
    progress: Progress,
    config: TrainConfig,
    *,
    provenance: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write ``run/snapshot-IMAGES``, then remove the oldest beyond ``keep``; returns the folder.

    Raises:
        ToonError: what the operating system refuses; older snapshots are then all still there.
    """
    path = run / f"snapshot-{progress.seen:09d}"
    with atomic_folder(path) as folder:
        save_networks(folder / NETWORKS, networks, provenance=provenance)
        (folder / OPTIMIZERS).write_bytes(
            to_safetensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        )
        state = {
            "format_version": FORMAT_VERSION,
            "progress": asdict(progress),
            "config": asdict(config),
            "sha256": {name: sha256_of(folder / name) for name in (NETWORKS, OPTIMIZERS)},
        }
        (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for old in snapshots(run)[keep:]:
        remove_folder(old)
    return path


def snapshots(run: Path) -> list[Path]:
    """The snapshots in a training's folder, newest first."""
    found = [path for path in run.glob("snapshot-*") if re.fullmatch(r"snapshot-\d{9,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot and check every byte of it.

    Raises:
        ToonError: it is not one, or damaged.
    """
    try:
        with open(path / STATE, "rb") as file:
            state = json.loads(file.read(_MAX_STATE))
        version, progress, config, digests = (state[k] for k in ("format_version", "progress", "config", "sha256"))
        if version > FORMAT_VERSION:
            raise ToonError(f"{path} was made by a newer version (format {version}): upgrade stylegan_toon.")
        progress, config = _progress(progress), _config(config)
        for name in (NETWORKS, OPTIMIZERS):
            if sha256_of(path / name) != digests[name]:
                raise ValueError(f"{name} is not what was written")
        tensors = load_file(path / OPTIMIZERS)
        networks = load_networks(path / NETWORKS, which=("G", "G_ema", "D"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ToonError(f"{path} is no whole snapshot ({reason}): take another.") from error
    return Snapshot(path, networks, tensors, progress, config)


def _progress(values: Mapping[str, Any]) -> Progress:
    whole = {field.name: values[field.name] for field in fields(Progress)}
    p = whole["p"]
    if not all(type(v) is int and 0 <= v < 2**53 for k, v in whole.items() if k != "p"):
        raise ValueError("the counters are no numbers from 0 up")
    if type(p) not in (int, float) or not (math.isfinite(p) and 0 <= p <= 1):
        raise ValueError("p is no number from 0 to 1")
    return Progress(**whole)


def _config(values: Mapping[str, Any]) -> TrainConfig:
    hints = get_type_hints(TrainConfig)
    if odd := [name for name, value in values.items() if name not in hints or not fits(value, hints[name])]:
        raise ValueError(f"the option {odd[0]} is {values[odd[0]]!r}")
    return TrainConfig(**values)


def find_snapshot(resume: str, run: Path) -> Snapshot | None:
    """What ``--resume`` means: ``auto`` is the newest whole snapshot in ``run``, else it is a snapshot or a run.

    A damaged one is told of and passed over for the one before. None: "auto" in a folder without any.

    Raises:
        ToonError: there is none, or none is whole.
    """
    folder = run if resume == "auto" else Path(resume)
    if (folder / STATE).exists() or re.fullmatch(r"snapshot-\d+", folder.name):
        return read_snapshot(folder)
    found = snapshots(folder)
    for path in found:
        try:
            return read_snapshot(path)
        except ToonError as error:
            warnings.warn(f"{str(error).rpartition(':')[0]}: going on from the one before it.", stacklevel=2)
    if resume == "auto" and not found:
        return None
    raise ToonError(f"{folder} holds no whole snapshot to go on from: give another folder, or start without --resume.")


def set_aside(run: Path, after: Snapshot) -> None:
    """Rename the snapshots in ``run`` that are newer than the one gone on from, so that they are never taken for later.

    They are damaged, or of a future that is now trained anew.
    """
    for path in snapshots(run):
        if path.parent.resolve() == after.path.parent.resolve() and path.name > after.path.name:
            aside = path.with_name(f"{path.name}.aside")
            remove_folder(aside)
            os.replace(path, aside)


# ---------------------------------------------------------------- optimisers


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Adam's state as ``NAME.PARAMETER.exp_avg`` and so on."""
    return {
        f"{name}.{key}.{moment}": optimizer.state[parameter][moment]
        for key, parameter in network.named_parameters()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def restore_optimizer(
    name: str, optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`; parameters that were not trained before start anew.

    Raises:
        ToonError: a tensor has the wrong shape.
    """
    for key, parameter in network.named_parameters():
        found = {
            moment: tensors[f"{name}.{key}.{moment}"] for moment in _MOMENTS if f"{name}.{key}.{moment}" in tensors
        }
        if not found:
            continue
        shapes = [found[moment].shape for moment in found if moment != "step"]
        if len(found) < len(_MOMENTS) or any(shape != parameter.shape for shape in shapes):
            raise ToonError(f"The snapshot's optimiser does not fit the network at {key}: take another snapshot.")
        # Adam keeps its step count on the CPU and the moments beside the parameter.
        moved = {moment: tensor.to(parameter.device) for moment, tensor in found.items() if moment != "step"}
        optimizer.state[parameter] = {"step": found["step"], **moved}

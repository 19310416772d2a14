"""Snapshots of a training on disk: written atomically, checked by digest, with everything that exact resume needs.

A snapshot is a folder that appears under its name in one rename:

- ``networks.safetensors``: the networks, an ordinary network file;
- ``optimizers.safetensors``: Adam's moments as ``OPTIMIZER.NETWORK.PARAMETER.exp_avg`` and so on, and the task's other
  tensors as ``task.NAME``;
- ``state.json``: the counters of each phase, the task's other numbers, its options, and the sha256 of both other files.

A snapshot fits any number of processes. Those of format 1 are read too, see `snapshot_format1`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..config import from_values
from ..errors import ToonError
from ..files import atomic_folder, remove_folder, remove_leftovers
from ..weights import load_networks, save_networks, sha256_of
from .snapshot_format1 import upgrade_state, upgrade_tensors
from .task import Counters, Task, TaskState

FORMAT_VERSION = 2
NETWORKS, OPTIMIZERS, STATE = "networks.safetensors", "optimizers.safetensors", "state.json"
FINAL = "network.safetensors"  # the file at the end of a training
_MAX_STATE = 1 << 20  # bytes; a real one has 3 kB
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Snapshot:
    """A snapshot read back.

    Attributes:
        path: its folder.
        networks: in eval mode, on the CPU.
        tensors: Adam's moments and the task's other tensors, by name.
        counters: of each phase.
        state: the task's other numbers.
        config: the options the training had, an instance of the task's config class.
    """

    path: Path
    networks: dict[str, nn.Module]
    tensors: dict[str, Tensor]
    counters: dict[str, Counters]
    state: TaskState
    config: Any

    @property
    def images_seen(self) -> int:
        """Pictures of all phases."""
        return sum(counters.images for counters in self.counters.values())


def write_snapshot(folder: Path, task: Task, provenance: Mapping[str, Any]) -> Path:
    """Write ``folder/snapshot-IMAGES``, then remove the oldest beyond ``config.keep``; returns the new folder.

    Raises:
        ToonError: what the operating system refuses; older snapshots are then all still there.
    """
    tensors = {f"task.{name}": tensor for name, tensor in task.tensors().items()}
    for name, optimizer in task.optimizers.items():
        for network_name, network in task.networks.items():
            tensors |= _moments(f"{name}.{network_name}", optimizer, network)
    path = folder / f"snapshot-{task.images_seen:09d}"
    with atomic_folder(path) as temporary:
        save_networks(temporary / NETWORKS, task.networks, provenance=provenance)
        stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        (temporary / OPTIMIZERS).write_bytes(to_safetensors(stored))
        state = {
            "format_version": FORMAT_VERSION,
            "counters": {phase: asdict(counters) for phase, counters in task.counters.items()},
            "state": asdict(task.state),
            "config": asdict(task.config),
            "sha256": {name: sha256_of(temporary / name) for name in (NETWORKS, OPTIMIZERS)},
        }
        (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for old in snapshots(folder)[task.config.keep :]:
        remove_folder(old)
    return path


def restore_task(task: Task, snapshot: Snapshot) -> None:
    """Set counters, numbers, tensors and optimisers to those of a snapshot; the networks must already be its own.

    Raises:
        ToonError: the snapshot is of another task, or does not fit its options.
    """
    if snapshot.networks.keys() != task.networks.keys():
        names = ", ".join(snapshot.networks)
        raise ToonError(f"{snapshot.path} holds {names}: go on with the command that has made it.")
    task.counters = {phase: Counters(**asdict(snapshot.counters[phase])) for phase in task.phases}
    own = {name.removeprefix("task."): t for name, t in snapshot.tensors.items() if name.startswith("task.")}
    task.load_tensors(own)
    task.load_state(snapshot.state)
    for name, optimizer in task.optimizers.items():
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for network_name, network in task.networks.items():
            if any(id(parameter) in trained for parameter in network.parameters()):
                _restore_moments(f"{name}.{network_name}", optimizer, network, snapshot.tensors)


def read_snapshot(path: Path, task_class: type[Task]) -> Snapshot:
    """Read a snapshot of a task and check every byte of it.

    Raises:
        ToonError: it is not one, or damaged.
    """
    try:
        with open(path / STATE, "rb") as file:
            state = json.loads(file.read(_MAX_STATE))
        version = state["format_version"]
        if version > FORMAT_VERSION:
            raise ToonError(f"{path} was made by a newer version (format {version}): upgrade stylegan_toon.")
        if version == 1:
            state = upgrade_state(state)
        counters = {phase: from_values(Counters, state["counters"][phase]) for phase in task_class.phases}
        numbers = from_values(task_class.state_class, state["state"])
        config = from_values(task_class.config_class, state["config"])
        for name in (NETWORKS, OPTIMIZERS):
            if sha256_of(path / name) != state["sha256"][name]:
                raise ValueError(f"{name} is not what was written")
        tensors = load_file(path / OPTIMIZERS)
        networks = load_networks(path / NETWORKS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ToonError(f"{path} is no whole snapshot ({reason}): take another.") from error
    if version == 1:
        tensors = upgrade_tensors(tensors)
    return Snapshot(path, networks, tensors, counters, numbers, config)


def find_snapshot(resume: str, folder: Path, task_class: type[Task]) -> Snapshot | None:
    """The snapshot that ``--resume`` names.

    Args:
        resume: "auto" = the newest whole snapshot in ``folder``; else the path of a snapshot, or of a training, of
            which the newest whole one is taken.
        folder: of the training.
        task_class: what is trained.

    Returns:
        the snapshot; None for "auto" in a folder without any. A damaged one causes a warning, and the one before it
        is taken.

    Raises:
        ToonError: there is none, or none is complete.
    """
    place = folder if resume == "auto" else Path(resume)
    if (place / STATE).exists() or re.fullmatch(r"snapshot-\d+", place.name):
        return read_snapshot(place, task_class)
    paths = snapshots(place)
    for path in paths:
        try:
            return read_snapshot(path, task_class)
        except ToonError as error:
            warnings.warn(f"{str(error).rpartition(':')[0]}: going on from the one before it.", stacklevel=2)
    if resume == "auto" and not paths:
        return None
    raise ToonError(f"{place} holds no whole snapshot to go on from: give another folder, or start without --resume.")


def snapshots(folder: Path) -> list[Path]:
    """The snapshots in a training's folder, newest first."""
    paths = [path for path in folder.glob("snapshot-*") if re.fullmatch(r"snapshot-\d{9,}", path.name)]
    return sorted(paths, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


# ---------------------------------------------------------------- the folder of a training


def refuse_another(folder: Path) -> None:
    """Raise ToonError if there is a training in the folder already."""
    if _files_of_training(folder):
        raise ToonError(
            f"{folder} holds a training: say --resume auto to go on with it, --overwrite, or another --out."
        )


def start_folder(folder: Path, resumed: Snapshot | None) -> None:
    """Prepare the folder of a training: remove half-written files, and what does not belong to this training.

    Args:
        folder: of the training.
        resumed: the snapshot that the training goes on from. Newer ones in ``folder`` are renamed to ``.aside``,
            because the training will write its own in their place. None: an earlier training is removed.
    """
    remove_leftovers(folder)
    if resumed is None:
        for path in _files_of_training(folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    for path in snapshots(folder):
        if path.parent.resolve() == resumed.path.parent.resolve() and path.name > resumed.path.name:
            aside = path.with_name(f"{path.name}.aside")
            remove_folder(aside)
            os.replace(path, aside)


def _files_of_training(folder: Path) -> list[Path]:
    names = ("snapshot-*", "fakes-*.png", FINAL, "log.jsonl", "curves.png", "tensorboard")
    return [path for name in names for path in folder.glob(name)]


# ---------------------------------------------------------------- optimisers


def _moments(name: str, optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Adam's state as ``NAME.PARAMETER.exp_avg`` and so on."""
    return {
        f"{name}.{key}.{moment}": optimizer.state[parameter][moment]
        for key, parameter in network.named_parameters()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def _restore_moments(
    name: str, optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `_moments`; parameters that were not trained before start anew.

    Raises:
        ToonError: a tensor has the wrong shape.
    """
    for key, parameter in network.named_parameters():
        moments = {moment: tensors.get(f"{name}.{key}.{moment}") for moment in _MOMENTS}
        stored = {moment: tensor for moment, tensor in moments.items() if tensor is not None}
        if not stored:
            continue
        shapes: Collection[torch.Size] = [stored[moment].shape for moment in stored if moment != "step"]
        if len(stored) < len(_MOMENTS) or any(shape != parameter.shape for shape in shapes):
            raise ToonError(f"The snapshot's optimiser does not fit the network at {key}: take another snapshot.")
        # Adam keeps its step count on the CPU and the moments beside the parameter.
        moved = {moment: tensor.to(parameter.device) for moment, tensor in stored.items() if moment != "step"}
        optimizer.state[parameter] = {"step": stored["step"], **moved}

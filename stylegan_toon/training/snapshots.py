"""Snapshots of a training on disk: whole or not there, checked to the last byte, the newest whole one found again.

A snapshot is a folder that appears under its name in one rename:

- ``networks.safetensors``: the networks, an ordinary network file;
- ``optimizers.safetensors``: Adam's moments by parameter name, and whatever other tensors the training needs;
- ``state.json``: counters and options, and the sha256 of both other files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..errors import ToonError
from ..files import atomic_folder, remove_folder, remove_leftovers
from ..weights import load_networks, save_networks, sha256_of

FORMAT_VERSION = 1
NETWORKS, OPTIMIZERS, STATE = "networks.safetensors", "optimizers.safetensors", "state.json"
FINAL = "network.safetensors"  # what a training that has ended leaves behind
_MAX_STATE = 1 << 20  # bytes; a real one has 3 kB
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Snapshot(Protocol):
    """What a training makes of one: at least where it lies."""

    path: Path


P, C, S = TypeVar("P"), TypeVar("C"), TypeVar("S", bound=Snapshot)


def write_folder(
    run: Path,
    images: int,
    networks: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
    progress: Any,
    config: Any,
    *,
    provenance: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write ``run/snapshot-IMAGES``, then remove the oldest beyond ``keep``; returns the folder.

    Args:
        progress, config: dataclasses of plain values.

    Raises:
        ToonError: what the operating system refuses; older snapshots are then all still there.
    """
    path = run / f"snapshot-{images:09d}"
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


def read_folder(
    path: Path,
    progress: Callable[[dict[str, Any]], P],
    config: Callable[[dict[str, Any]], C],
    *,
    which: Collection[str] | None = None,
) -> tuple[dict[str, nn.Module], dict[str, Tensor], P, C]:
    """Read a snapshot and check every byte of it.

    Args:
        progress, config: make of the stored values what was written; they raise ValueError for those nobody wrote.
        which: the networks it must hold; None = whatever there is.

    Returns:
        networks in eval mode on the CPU, the other tensors by name, progress and config.

    Raises:
        ToonError: it is not one, or damaged.
    """
    try:
        with open(path / STATE, "rb") as file:
            state = json.loads(file.read(_MAX_STATE))
        version, counters, options, digests = (state[k] for k in ("format_version", "progress", "config", "sha256"))
        if version > FORMAT_VERSION:
            raise ToonError(f"{path} was made by a newer version (format {version}): upgrade stylegan_toon.")
        found = progress(counters), config(options)
        for name in (NETWORKS, OPTIMIZERS):
            if sha256_of(path / name) != digests[name]:
                raise ValueError(f"{name} is not what was written")
        tensors = load_file(path / OPTIMIZERS)
        networks = load_networks(path / NETWORKS, which=which)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ToonError(f"{path} is no whole snapshot ({reason}): take another.") from error
    return networks, tensors, *found


def newest_whole(resume: str, run: Path, read: Callable[[Path], S]) -> S | None:
    """What ``--resume`` means: ``auto`` is the newest whole snapshot in ``run``, else it is a snapshot or a run.

    A damaged one is told of and passed over for the one before. None: "auto" in a folder without any.

    Raises:
        ToonError: there is none, or none is whole.
    """
    folder = run if resume == "auto" else Path(resume)
    if (folder / STATE).exists() or re.fullmatch(r"snapshot-\d+", folder.name):
        return read(folder)
    found = snapshots(folder)
    for path in found:
        try:
            return read(path)
        except ToonError as error:
            warnings.warn(f"{str(error).rpartition(':')[0]}: going on from the one before it.", stacklevel=3)
    if resume == "auto" and not found:
        return None
    raise ToonError(f"{folder} holds no whole snapshot to go on from: give another folder, or start without --resume.")


def refuse_another(run: Path) -> None:
    """Raise ToonError if there is a training in the folder already."""
    if _earlier(run):
        raise ToonError(f"{run} holds a training: say --resume auto to go on with it, --overwrite, or another --out.")


def start_folder(run: Path, after: Snapshot | None) -> None:
    """Make ready the folder of a training: nothing half-written, nothing of another training or another future.

    Args:
        after: the snapshot gone on from. Newer ones in ``run`` are renamed, so that they are never taken for later:
            they are damaged, or of a future that is now trained anew. None: an earlier training is removed.
    """
    remove_leftovers(run)
    if after is None:
        for path in _earlier(run):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    for path in snapshots(run):
        if path.parent.resolve() == after.path.parent.resolve() and path.name > after.path.name:
            aside = path.with_name(f"{path.name}.aside")
            remove_folder(aside)
            os.replace(path, aside)


def _earlier(run: Path) -> list[Path]:
    """What a training has left in its folder."""
    names = ("snapshot-*", "fakes-*.png", FINAL, "log.jsonl", "curves.png", "tensorboard")
    return [path for name in names for path in run.glob(name)]


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

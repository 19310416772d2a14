"""Snapshots of format 1, which StyleGAN2-ADA and the projects wrote in two layouts before version 0.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def upgrade_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """``state.json`` of format 1 as format 2.

    Raises:
        KeyError, TypeError: it is not of format 1.
    """
    progress, config = dict(state["progress"]), dict(state["config"])
    if "pairs_steps" not in progress:  # a project
        counters, numbers = {"train": progress}, {}
    else:
        counters = {
            "pairs": {"steps": progress.pop("pairs_steps"), "images": progress.pop("pairs_images")},
            "train": {"steps": progress.pop("steps"), "images": progress.pop("images")},
        }
        numbers = progress
        if config.get("dtype", "auto") is None:
            config["dtype"] = "auto"
        if config.get("batch_gpu") == 0:
            config["batch_gpu"] = "auto"
    return {**state, "counters": counters, "state": numbers, "config": config}


def upgrade_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``optimizers.safetensors`` of format 1 under the names of format 2."""
    stylegan2 = "path_length" in tensors
    return {_new_name(name, stylegan2): tensor for name, tensor in tensors.items()}


def _new_name(name: str, stylegan2: bool) -> str:
    first, _, rest = name.partition(".")
    if not stylegan2:
        return f"task.{rest}" if first == "extra" else f"task.{name}" if first == "scaler" else name
    if first in ("path_length", "ada", "broken"):
        return f"task.{name}"
    return {"G": f"G.G.{rest}", "D": f"D.D.{rest}", "pairs": f"pairs.G.synthesis.{rest}"}.get(first, name)

"""Versions, devices, kernels, networks and folders: the first thing to look at when something does not work."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

import torch

from .. import __version__, ops
from ..errors import ToonError
from ..weights import Entry, cache_folder, catalogue, pretrained_folder, sha256_of

PACKAGES = (
    "torchvision", "numpy", "scipy", "pillow", "click", "tqdm", "safetensors", "lpips", "facenet-pytorch",
    "torch-fidelity", "ninja",
)  # fmt: skip


def env() -> dict[str, Any]:
    """Versions, devices, which kernels are in use and why, networks and folders; nothing is compiled or downloaded.

    Returns:
        sections that can be written as JSON: ``versions``, ``machine``, ``kernels``, ``networks``, ``folders``.
    """
    status = ops.status()
    return {
        "versions": {
            "stylegan_toon": __version__,
            "python": platform.python_version(),
            "torch": f"{torch.__version__} (built for {_torch_build()})",
            **{name: _version(name) for name in PACKAGES},
        },
        "machine": {
            "system": platform.platform(),
            "cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
            "cuda": _cuda_devices() or "torch sees no CUDA device",
            "mps": torch.backends.mps.is_available(),
            "nvcc": shutil.which("nvcc") or "not found (only needed to build CUDA kernels)",
        },
        "kernels": {"library": status.path, "build": status.build, **status.live},
        "networks": _networks(),
        "folders": {"pretrained": str(pretrained_folder()), "cache": str(cache_folder())},
    }


def _torch_build() -> str:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else "CPU"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cuda_devices() -> list[str]:
    if not torch.cuda.is_available():
        return []
    devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB" for p in devices]


def _networks() -> dict[str, str]:
    try:
        return {name: _state(entry) for name, entry in catalogue().items()}
    except ToonError as error:
        return {"none": str(error)}


def _state(entry: Entry) -> str:
    if entry.same_as is not None:
        return f"same as {entry.same_as}"
    if entry.swap is not None:
        return f"blend of {entry.base} and {entry.toon}, {entry.swap}"
    path = pretrained_folder() / str(entry.file)
    if path.exists():
        changed = entry.sha256 is not None and sha256_of(path) != entry.sha256
        return "shipped, but changed: reinstall stylegan_toon" if changed else "shipped"
    if entry.url is None:
        return "missing: reinstall stylegan_toon"
    verified = "" if entry.sha256 else " (not verified here)"
    return f"downloaded when asked for, from {entry.url}{verified}"

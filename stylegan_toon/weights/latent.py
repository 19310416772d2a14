"""Latent files: the ``ws`` of pictures, as `project` writes them (kind "projection")."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..errors import ToonError
from ..files import atomic_path
from ..models import Generator
from .checkpoint import _opened

MAX_PICTURES = 64  # in one file
_FLOATS = ("F64", "F32", "F16", "BF16")


def read_latent(path: str | Path, G: Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """The ws of a latent file, and the noise that goes with them; other tensors are left unread.

    Args:
        path: written by `save_latent` or `project`. It is not trusted: shapes are checked before memory is taken.
        G: the network that is to show them.

    Returns:
        ``[N, num_ws, w_dim]`` float32 on the CPU, and noise ``[R, R]`` by its name in the synthesis network, where
        the network has noise of that name and size.

    Raises:
        ToonError: what is wrong with the file, in one sentence.
    """
    path = Path(path)
    buffers = {
        name: tuple(buffer.shape) for name, buffer in G.synthesis.named_buffers() if name.endswith("noise_const")
    }
    with _opened(path) as file:
        if (file.metadata() or {}).get("kind") != "projection":
            raise ToonError(f"{path} is not a latent: give a .safetensors that project or edit has written.")
        names = set(file.keys())
        if "ws" not in names:
            raise ToonError(f"{path} holds no ws: give a .safetensors that project or edit has written.")
        shape = tuple(file.get_slice("ws").get_shape())
        if len(shape) != 3 or shape[1:] != (G.num_ws, G.config.w_dim) or not 1 <= shape[0] <= MAX_PICTURES:
            raise ToonError(
                f"{path} holds ws of {list(shape)}, and this network takes [N, {G.num_ws}, {G.config.w_dim}]: "
                "give --network the one that the latent was found in."
            )
        if file.get_slice("ws").get_dtype() not in _FLOATS:
            raise ToonError(f"{path} holds ws that are no floating-point numbers: project the photo again.")
        ws = file.get_tensor("ws").float()
        noise = {
            name: file.get_tensor(f"noise.{name}").float()
            for name, size in buffers.items()
            if f"noise.{name}" in names
            and tuple(file.get_slice(f"noise.{name}").get_shape()) == size
            and file.get_slice(f"noise.{name}").get_dtype() in _FLOATS
        }
    if not all(bool(tensor.isfinite().all()) for tensor in (ws, *noise.values())):
        raise ToonError(f"{path} holds infinite numbers or NaN: project the photo again.")
    return ws, noise


def save_latent(
    path: str | Path, ws: Tensor, *, noise: Mapping[str, Tensor] | None = None,
    scores: Mapping[str, Any] | None = None, provenance: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write ``ws`` ``[N, num_ws, w_dim]`` and ``noise.*`` with a header of kind "projection", completely or not at all.

    Raises:
        ToonError: the file cannot be written.
        ValueError: ws that are not of three axes.
    """
    if ws.ndim != 3 or math.prod(ws.shape) == 0:
        raise ValueError(f"ws must be [N, num_ws, w_dim], not {list(ws.shape)}")
    tensors = {"ws": ws, **{f"noise.{name}": tensor for name, tensor in (noise or {}).items()}}
    header = {
        "kind": "projection",
        "scores": json.dumps(dict(scores or {})),
        "provenance": json.dumps(dict(provenance or {})),
    }
    data = to_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)

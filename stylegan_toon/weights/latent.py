"""Latent files: the ``ws`` of pictures, their noise, and what tuning added to the weights of their network.

The one format of `project`, `toonify`, `edit` and `generate`: safetensors with ``ws``, ``noise.NAME`` and
``tuned.NAME``, and a header of kind "projection". A file is never trusted: names, shapes and types are checked against
the network before memory is taken, and numbers must be finite.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..errors import ToonError, short
from ..files import atomic_path
from ..models import Generator
from .checkpoint import FLOATS, open_safetensors
from .provenance import lineage, name_of, provenance_of

MAX_PICTURES = 64  # in one file


@dataclass(frozen=True, eq=False)
class Latent:
    """One face or several, as a network is to show them.

    Attributes:
        ws: ``[N, num_ws, w_dim]``.
        noise: constant noise ``[R, R]`` by its name in the synthesis network; what is missing stays the network's own.
        tuned: what tuning added to parameters of the synthesis network, by name.
        tuned_in: ``name`` and ``sha256`` of the network that was tuned, as far as they are known.
        ancestors: sha256 of the files that the latent comes from.
    """

    ws: Tensor
    noise: dict[str, Tensor] = field(default_factory=dict)
    tuned: dict[str, Tensor] = field(default_factory=dict)
    tuned_in: dict[str, str] = field(default_factory=dict)
    ancestors: frozenset[str] = frozenset()

    def moved(self, ws: Tensor) -> Latent:
        """The same face with other ws."""
        return Latent(ws, self.noise, self.tuned, self.tuned_in, self.ancestors)

    def to(self, device: str | torch.device) -> Latent:
        """Every tensor on ``device``."""
        noise, tuned = ({name: t.to(device) for name, t in part.items()} for part in (self.noise, self.tuned))
        return Latent(self.ws.to(device), noise, tuned, self.tuned_in, self.ancestors)


def tuning_of(base: Generator, tuned: Generator) -> dict[str, Tensor]:
    """What tuning added to the parameters of ``base.synthesis``, by name; parameters that stayed are left out."""
    before = dict(base.synthesis.named_parameters())
    changes = {name: (now - before[name]).detach() for name, now in tuned.synthesis.named_parameters()}
    return {name: change for name, change in changes.items() if bool(change.any())}


@torch.no_grad()
def network_of(latent: Latent, G: Generator) -> Generator:
    """A copy of ``G`` with the latent's noise in place and its tuning added: what shows ``latent.ws`` as it was."""
    G = copy.deepcopy(G).eval().requires_grad_(False)
    tensors = dict(G.synthesis.named_parameters()) | dict(G.synthesis.named_buffers())
    for name, noise in latent.noise.items():
        tensors[name].copy_(noise)
    for name, change in latent.tuned.items():
        tensors[name] += change.to(tensors[name])
    return G


def read_latent(path: str | Path, G: Generator, *, tuned: bool = True) -> Latent:
    """The latent of a file, on the CPU in float32; tensors of other names are left unread.

    Args:
        path: written by `save_latent`.
        G: the network that is to show it. Noise is read where the network has noise of that name and size.
        tuned: also read what tuning added. Of a network that `project` has tuned it is part already, and left out.

    Raises:
        ToonError: what is wrong with the file, or that it belongs to another network, in one sentence.
    """
    path = Path(path)
    with open_safetensors(path) as file:
        metadata = file.metadata() or {}
        if metadata.get("kind") != "projection":
            raise ToonError(
                f"{path} is not a latent: give a .safetensors that project, toonify, edit or generate has written."
            )
        reader = _Reader(file, path, G)
        ws = reader.ws()
        noise = reader.noise()
        ancestors = _ancestors(metadata)
        if ancestors and lineage(G) and ancestors.isdisjoint(lineage(G)):
            raise ToonError(
                f"{path} was found in a network that {name_of(G, 'this one')} does not come from: give the one that "
                "it was found in."
            )
        changes = reader.tuned() if tuned and provenance_of(G).get("verb") != "project" else {}
    if not all(bool(tensor.isfinite().all()) for tensor in (ws, *noise.values(), *changes.values())):
        raise ToonError(f"{path} holds infinite numbers or NaN: project the photo again.")
    return Latent(ws, noise, changes, _tuned_in(metadata) if changes else {}, frozenset(ancestors))


@dataclass(frozen=True)
class _Reader:
    file: Any
    path: Path
    G: Generator

    def ws(self) -> Tensor:
        if "ws" not in self.file.keys():  # noqa: SIM118 (a safe_open is not a mapping)
            raise ToonError(f"{self.path} holds no ws: give a .safetensors that project or edit has written.")
        shape, G = self._shape("ws"), self.G
        if len(shape) != 3 or shape[1:] != (G.num_ws, G.config.w_dim) or not 1 <= shape[0] <= MAX_PICTURES:
            raise ToonError(
                f"{self.path} holds ws of {list(shape)}, and this network takes [N, {G.num_ws}, {G.config.w_dim}]: "
                "give the network that the latent was found in."
            )
        if not self._is_float("ws"):
            raise ToonError(f"{self.path} holds ws that are no floating-point numbers: project the photo again.")
        return self.file.get_tensor("ws").float()

    def noise(self) -> dict[str, Tensor]:
        sizes = {name: b.shape for name, b in self.G.synthesis.named_buffers() if name.endswith("noise_const")}
        return {
            name: self.file.get_tensor(key).float()
            for key, name in self._below("noise.")
            if name in sizes and self._shape(key) == sizes[name] and self._is_float(key)
        }

    def tuned(self) -> dict[str, Tensor]:
        shapes = {name: p.shape for name, p in self.G.synthesis.named_parameters()}
        result = {}
        for key, name in self._below("tuned."):
            if name not in shapes or self._shape(key) != shapes[name] or not self._is_float(key):
                raise ToonError(
                    f"{self.path} was tuned in another network than {name_of(self.G, 'this one')} ({short(name)} does "
                    "not fit): give the one that it was tuned in."
                )
            result[name] = self.file.get_tensor(key).float()
        return result

    def _below(self, prefix: str) -> list[tuple[str, str]]:
        return [(key, key.removeprefix(prefix)) for key in self.file.keys() if key.startswith(prefix)]  # noqa: SIM118

    def _shape(self, key: str) -> tuple[int, ...]:
        return tuple(self.file.get_slice(key).get_shape())

    def _is_float(self, key: str) -> bool:
        return self.file.get_slice(key).get_dtype() in FLOATS


def _json(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """An entry of a header that holds JSON; empty if it is missing or malformed."""
    try:
        found = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _ancestors(metadata: Mapping[str, str]) -> set[str]:
    found = _json(metadata, "provenance").get("ancestors")
    return {digest for digest in found if isinstance(digest, str)} if isinstance(found, list) else set()


def _tuned_in(metadata: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in _json(metadata, "tuned_in").items() if k in ("name", "sha256") and isinstance(v, str)}


def save_latent(
    path: str | Path, latent: Latent, *, scores: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a latent, completely or not at all; what tuning added is stored as float16.

    Args:
        path: usually ends in ``.safetensors``.
        latent: ws of three axes.
        scores: of the projection, see `pipelines.project.Projection.scores`.
        provenance: see `provenance.descend`; the latent's own ancestors are added.

    Raises:
        ToonError: the file cannot be written.
        ValueError: ws that are not of three axes.
    """
    ws = latent.ws
    if ws.ndim != 3 or math.prod(ws.shape) == 0:
        raise ValueError(f"ws must be [N, num_ws, w_dim], not {list(ws.shape)}")
    tensors = {"ws": ws, **{f"noise.{name}": tensor for name, tensor in latent.noise.items()}}
    for name, change in latent.tuned.items():
        half = change.half()
        tensors[f"tuned.{name}"] = half if bool(half.isfinite().all()) else change
    history = dict(provenance or {})
    if latent.ancestors:
        history["ancestors"] = sorted({*history.get("ancestors", ()), *latent.ancestors})
    header = {"kind": "projection", "scores": json.dumps(dict(scores or {})), "provenance": json.dumps(history)}
    if latent.tuned:
        header["tuned_in"] = json.dumps(latent.tuned_in)
    data = to_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def origin_of(G: Generator) -> dict[str, str]:
    """``name`` and ``sha256`` of a network, as far as they are known, for `Latent.tuned_in`."""
    history = provenance_of(G)
    return {key: str(history[key]) for key in ("name", "sha256") if history.get(key)}


def refuse_other_base(latent: Latent, base: Generator, path: str | Path) -> None:
    """Raise ToonError if a latent was tuned in another network than ``base``, as far as both are known."""
    there, here = latent.tuned_in.get("sha256"), provenance_of(base).get("sha256")
    if latent.tuned and there and here and there != here:
        raise ToonError(
            f"{path} was tuned in {short(latent.tuned_in.get('name', 'another network'))} (sha256 {short(there, 12)}), "
            f"and --base is {name_of(base, 'another one')}: give --base the network that it was tuned in."
        )

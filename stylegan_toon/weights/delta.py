"""What training changed in a network, without the rest: a small file that is added to the network it started from.

A safetensors file whose metadata says ``kind`` "delta". A tensor has the name that it has in the network and holds the
difference of the values that the network computes with, so of a `models.scaled.Scaled` one value times gain. Of a
matrix (a filter is one with a row for each output channel) the file may hold two thin factors, ``NAME:left`` and
``NAME:right``, as in LoRA (Hu et al. 2021, arXiv 2106.09685).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..errors import ToonError
from ..files import atomic_path, refuse_overwrite
from ..models import Generator
from .checkpoint import FLOATS, open_safetensors, sha256_of
from .provenance import provenance_of, set_provenance

LEFT, RIGHT = ":left", ":right"  # colons, which no tensor of a network has in its name


def difference(before: Generator, after: Generator) -> dict[str, Tensor]:
    """What changed from one to the other, by name of the tensor; tensors that are equal are left out.

    Raises:
        ToonError: the two have different tensors.
    """
    ours, theirs = before.state_dict(), after.state_dict()
    if {name: t.shape for name, t in ours.items()} != {name: t.shape for name, t in theirs.items()}:
        raise ToonError("The two networks have different layers: a delta is made of one network at two times.")
    changed = {}
    for name, tensor in theirs.items():
        if name.endswith(".gain") or torch.equal(tensor, ours[name]):
            continue
        changed[name] = tensor * _gain(theirs, name) - ours[name] * _gain(ours, name)
    return changed


def save_delta(
    path: str | Path,
    before: Generator,
    after: Generator,
    *,
    provenance: Mapping[str, Any] | None = None,
    rank: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write the difference of two networks in float16, completely or not at all.

    Args:
        path: usually ends in ``.safetensors``.
        before, after: the network at two times.
        provenance: anything JSON can hold.
        rank: of the factors that large matrices are stored as, the nearest of that rank; None = every number.
        overwrite: replace ``path`` if it exists.

    Raises:
        ToonError: the networks have different tensors, or the file exists or cannot be written.
    """
    path = Path(path)
    refuse_overwrite([path], overwrite)
    tensors: dict[str, Tensor] = {}
    for name, tensor in difference(before, after).items():
        rows = tensor.detach().float().cpu()
        rows = rows.flatten(1) if rows.ndim > 1 else rows[None]
        if rank is not None and 2 * rank * sum(rows.shape) < rows.numel():
            u, s, v = torch.linalg.svd(rows, full_matrices=False)
            root = s[:rank].sqrt()  # shared, so that neither factor leaves the range of float16
            factors = {LEFT: u[:, :rank] * root, RIGHT: root[:, None] * v[:rank]}
            tensors |= {name + side: factor.half().contiguous() for side, factor in factors.items()}
        else:
            tensors[name] = rows.half().view(tensor.shape).contiguous()
    metadata = {"kind": "delta", "provenance": json.dumps(dict(provenance or {}))}
    data = to_safetensors(tensors, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def add_delta(G: Generator, path: str | Path, *, strength: float = 1.0, sha256: str | None = None) -> None:
    """Add a file of differences to a network, in place. Nothing is changed if the file does not fit.

    Args:
        G: the network.
        path: written by `save_delta`; it is not trusted, and shapes are checked before memory is taken.
        strength: factor of the differences.
        sha256: refuse a file with another digest.

    Raises:
        ToonError: what is wrong with the file, in one sentence.
    """
    path, state = Path(path), G.state_dict()
    with open_safetensors(path) as file:
        if (file.metadata() or {}).get("kind") != "delta":
            raise ToonError(f"{path} is not a delta: give the finetoon-delta.safetensors that finetoon has written.")
        digest = sha256_of(path, sha256)
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        for name in shapes:
            if not _fits(name, shapes, state) or file.get_slice(name).get_dtype() not in FLOATS:
                raise ToonError(f"{path} does not fit this network ({name}): give the network that it was made from.")
        changes = {name: file.get_tensor(name).float() for name in shapes}
        teacher = _teacher(file.metadata())
    for name in [name.removesuffix(LEFT) for name in shapes if name.endswith(LEFT)]:
        changes[name] = (changes.pop(name + LEFT) @ changes.pop(name + RIGHT)).view(state[name].shape)
    if not all(change.isfinite().all() for change in changes.values()):
        raise ToonError(f"{path} holds numbers that are not finite: get it again.")
    with torch.no_grad():
        for name, change in changes.items():
            state[name] += strength * change.to(state[name]) / _gain(state, name)
    history = provenance_of(G)
    ancestors = sorted({*history.get("ancestors", []), digest})
    set_provenance(
        G, history, ancestors=ancestors, delta={"name": path.name, "sha256": digest, "strength": strength}, **teacher
    )


def _fits(name: str, shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> bool:
    """Whether a tensor of the file, or a factor of one, belongs to one of the network."""
    whole = name.removesuffix(LEFT).removesuffix(RIGHT)
    if whole not in state or (whole != name and whole in shapes):
        return False
    shape = tuple(state[whole].shape)
    if whole == name:
        return shapes[name] == shape
    left, right = shapes.get(whole + LEFT, ()), shapes.get(whole + RIGHT, ())
    if len(left) != 2 or len(right) != 2 or len(shape) < 2:
        return False
    columns = math.prod(shape[1:])
    return left[1] == right[0] <= min(shape[0], columns) and (left[0], right[1]) == (shape[0], columns)


def _teacher(metadata: Mapping[str, str]) -> dict[str, str]:
    """The recogniser that the differences were trained with, which must not judge the network."""
    try:
        name = json.loads(metadata.get("provenance", "{}")).get("identity")
    except (ValueError, AttributeError, RecursionError):
        return {}
    return {"identity": name} if isinstance(name, str) else {}


def _gain(state: Mapping[str, Tensor], name: str) -> Tensor | float:
    """What a stored value is multiplied by in the network."""
    return state.get(f"{name.removesuffix('value')}gain", 1.0) if name.endswith(".value") else 1.0

"""Carry networks between this package, the NVIDIA repositories and rosinality's, and prove that nothing was lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from ..errors import ToonError
from ..files import output_folder, refuse_overwrite
from ..models import Generator, MobileGenerator
from ..models.heads import cut
from ..weights import descend, load_family, read_networks, write_networks
from ..weights.formats import ending
from .generate import generate

SEEDS = range(4)


def convert(
    network: str | Path,
    out: str | Path,
    *,
    only: list[str] | None = None,
    layout: str = "ada",
    half: bool = False,
    resolution: int | None = None,
    overwrite: bool = False,
) -> tuple[dict[str, nn.Module], list[str]]:
    """Read a family of networks from any source and write it in the format that the ending of ``out`` names.

    Args:
        network: source for `load_family`.
        out: ``.safetensors``, ``.pkl`` (NVIDIA) or ``.pt`` (rosinality).
        only: members to take: ``"G_ema"``, ``"G"``, ``"D"``. None = all.
        layout: for ``.pkl``, the repository that shall load it: "ada" or "stylegan3".
        half: store ``.safetensors`` in float16, half the size.
        resolution: cut mobile generators to what they paint at this size; see `nn.heads.cut`.
        overwrite: replace ``out`` if it exists.

    Returns:
        the networks that were written, and sentences about what was left out, added or taken as published.

    Raises:
        ToonError: what cannot be read or written, in one sentence.
    """
    out, dtype = Path(out), torch.float16 if half else None
    ending(out, dtype)
    refuse_overwrite([out], overwrite)
    networks = load_family(network, which=only)
    notes = _notes(networks)
    options = {"half": half} | ({} if resolution is None else {"resolution": resolution})
    history = descend("convert", options, list(networks.values()))
    if resolution is not None:
        networks = _cut(networks, resolution)
    output_folder(out.parent)
    notes += write_networks(out, networks, layout=layout, provenance=history, dtype=dtype, overwrite=overwrite)
    return networks, notes


def _cut(networks: dict[str, nn.Module], resolution: int) -> dict[str, nn.Module]:
    """All of them cut to ``resolution``.

    Raises:
        ToonError: one of them cannot be cut.
    """
    for name, network in networks.items():
        if not isinstance(network, MobileGenerator):
            raise ToonError(
                f"{name} cannot be cut to {resolution} px, only mobile generators can: leave out --resolution, or "
                "choose with --only."
            )
    return {name: cut(network, resolution) for name, network in networks.items()}


def _notes(networks: dict[str, nn.Module]) -> list[str]:
    notes = []
    for known in (network.provenance for network in networks.values()):
        notes += known.get("notes", [])
        if known.get("dropped"):
            notes.append(f"left out, as no network: {', '.join(known['dropped'])}")
        if known.get("augment_pipe"):
            notes.append("the augmentation pipe is not a network; its settings are kept in the provenance")
    return list(dict.fromkeys(notes))


def round_trip(networks: dict[str, nn.Module], path: str | Path) -> dict[str, float]:
    """Largest difference of pictures (generators, seeds 0 to 3) and of scores of them (D) between ``networks`` and
    those in the file at ``path``."""
    again = read_networks(path, which=list(networks))
    pictures, found = {}, {}
    for name, network in networks.items():
        if isinstance(network, Generator):
            pictures[name] = _pictures(network)
            found[name] = (_pictures(again[name]) - pictures[name]).abs().max().item()
    for name, network in networks.items():
        if not isinstance(network, Generator):
            c = network.config
            shape = (len(SEEDS), c.img_channels, c.resolution, c.resolution)
            shown = next((p for p in pictures.values() if p.shape == shape), None)
            if shown is None:
                shown = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                found[name] = (again[name](shown) - network(shown)).abs().max().item()
    return found


def _pictures(network: Generator) -> torch.Tensor:
    return generate(network, SEEDS, psi=1.0, label=0 if network.config.c_dim else None)


def table(networks: dict[str, nn.Module]) -> str:
    """The configurations of a family side by side, a line for each field."""
    configs = {name: dataclasses.asdict(network.config) for name, network in networks.items()}
    fields = list(dict.fromkeys(field for config in configs.values() for field in config))
    rows = [["", *configs], *([field, *(str(c.get(field, "")) for c in configs.values())] for field in fields)]
    parameters = [f"{sum(p.numel() for p in network.parameters()):,}" for network in networks.values()]
    rows.append(["parameters", *parameters])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)

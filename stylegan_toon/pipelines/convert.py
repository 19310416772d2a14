"""Convert networks between this package, the NVIDIA repositories and rosinality's, and compare their pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..errors import ToonError
from ..files import refuse_overwrite, results_folder
from ..models import Discriminator, Generator, MobileGenerator
from ..models.heads import cut
from ..weights import descend, load_family, provenance_of, read_networks, write_networks
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
    mirror: str | None = None,
    overwrite: bool = False,
) -> tuple[dict[str, nn.Module], list[str]]:
    """Read a family of networks from any source and write it in the format that the ending of ``out`` names.

    Args:
        network: source for `load_family`.
        out: ``.safetensors``, ``.pkl`` (NVIDIA) or ``.pt`` (rosinality).
        only: members to take: ``"G_ema"``, ``"G"``, ``"D"``. None = all.
        layout: for ``.pkl``, the repository that will load it: "ada" or "stylegan3".
        half: store ``.safetensors`` in float16, half the size.
        resolution: cut mobile generators to pictures of this side in pixels; see `models.heads.cut`.
        mirror: https address of a folder to download from instead, see `weights.download.download`.
        overwrite: replace ``out`` if it exists.

    Returns:
        the networks that were written, and sentences about what was left out, added or taken as published.

    Raises:
        ToonError: the source cannot be read, ``out`` cannot be written or is the source, in one sentence.
    """
    out, dtype = Path(out), torch.float16 if half else None
    ending(out, dtype)
    refuse_overwrite([out], overwrite)
    if out.exists() and Path(network).exists() and out.samefile(network):
        raise ToonError(f"{out} is the network that is to be converted: choose another --out.")
    networks = load_family(network, which=only, mirror=mirror)
    notes = _notes(networks)
    options = {"half": half} | ({} if resolution is None else {"resolution": resolution})
    history = descend("convert", options, list(networks.values()))
    if resolution is not None:
        networks = _cut(networks, resolution)
    with results_folder(out.parent):
        notes += write_networks(out, networks, layout=layout, provenance=history, dtype=dtype, overwrite=overwrite)
    return networks, notes


def _cut(networks: dict[str, nn.Module], resolution: int) -> dict[str, nn.Module]:
    """All of them cut to ``resolution``.

    Raises:
        ToonError: one of them cannot be cut.
    """
    smaller: dict[str, nn.Module] = {}
    for name, network in networks.items():
        if not isinstance(network, MobileGenerator):
            raise ToonError(
                f"{name} cannot be cut to {resolution} px, only mobile generators can: leave out --resolution, or "
                "choose with --only."
            )
        smaller[name] = cut(network, resolution)
    return smaller


def _notes(networks: dict[str, nn.Module]) -> list[str]:
    notes = []
    for provenance in map(provenance_of, networks.values()):
        notes += provenance.get("notes", [])
        if provenance.get("dropped"):
            notes.append(f"left out, because they are not networks: {', '.join(provenance['dropped'])}")
        if provenance.get("augment_pipe"):
            notes.append("the augmentation pipe is not a network; its settings are kept in the provenance")
    return list(dict.fromkeys(notes))


def round_trip(networks: dict[str, nn.Module], path: str | Path) -> dict[str, float]:
    """How much the networks in the file at ``path`` differ from ``networks``.

    Returns:
        for each network the largest absolute difference: of pictures (generators, seeds 0 to 3) or of the scores of
        such pictures (discriminators).
    """
    again = read_networks(path, which=list(networks))
    pictures, differences = {}, {}
    for name, network in networks.items():
        if isinstance(network, Generator):
            pictures[name] = _pictures(network)
            differences[name] = (_pictures(cast(Generator, again[name])) - pictures[name]).abs().max().item()
    for name, network in networks.items():
        if isinstance(network, Discriminator):
            c = network.config
            shape = (len(SEEDS), c.img_channels, c.resolution, c.resolution)
            shown = next((p for p in pictures.values() if p.shape == shape), None)
            if shown is None:
                shown = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                differences[name] = (again[name](shown) - network(shown)).abs().max().item()
    return differences


def _pictures(network: Generator) -> torch.Tensor:
    return generate(network, SEEDS, psi=1.0, label=0 if network.config.c_dim else None)


def table(networks: dict[str, nn.Module]) -> str:
    """The configurations of a family side by side, a line for each field."""
    configs = {name: dataclasses.asdict(cast(Any, network.config)) for name, network in networks.items()}
    fields = list(dict.fromkeys(field for config in configs.values() for field in config))
    rows = [["", *configs], *([field, *(str(c.get(field, "")) for c in configs.values())] for field in fields)]
    parameters = [f"{sum(p.numel() for p in network.parameters()):,}" for network in networks.values()]
    rows.append(["parameters", *parameters])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)

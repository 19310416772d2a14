"""Swap layers between two networks: the person's structure in the drawing's colours, or the reverse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import cli
from .data.images import save_image
from .files import refuse_overwrite, results_folder
from .pipelines.blend import blend, comparison
from .pipelines.defaults import BLEND_SWAP
from .weights import load_network, name_of, provenance_of, save_networks

if TYPE_CHECKING:
    import torch


@cli.command(
    "python -m stylegan_toon.blend --swap b64,b128\n"
    "python -m stylegan_toon.blend --base faces --toon comic --swap b32-,mapping=0.3 --seeds 0-7"
)
@cli.base()
@cli.toon()
@cli.swap(BLEND_SWAP)
@cli.width()
@cli.seeds("0-5", help="Seeds on the picture, like 0-5,33.")
@cli.psi()
@cli.out("out/blend")
@cli.device()
@cli.dtype()
@cli.overwrite()
def main(
    base: str, toon: str, swap: str, width: float | None, seeds: list[int], psi: float, out: Path,
    device: torch.device, dtype: torch.dtype | None, overwrite: bool,
) -> None:  # fmt: skip
    """Swap layers between two networks.

    Writes blend.safetensors, a network whose header names its parents, and blend.png: base, toon and blend side by
    side.
    """
    network, picture = out / "blend.safetensors", out / "blend.png"
    refuse_overwrite([network, picture], overwrite)
    parents = load_network(base, device=device), load_network(toon, device=device)
    blended = blend(*parents, swap, width)
    labels = [f"{role}: {Path(name_of(G, role)).stem}" for role, G in zip(("base", "toon"), parents)]
    with results_folder(out):
        sheet = comparison(dict(zip([*labels, "blend"], [*parents, blended])), seeds, psi=psi, dtype=dtype)
        save_networks(network, {"G_ema": blended}, provenance=provenance_of(blended), overwrite=overwrite)
        save_image(sheet, picture)
    click.echo(out)


if __name__ == "__main__":
    main()

"""Swap layers between two networks: the person's structure in the drawing's colours, or the reverse."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from . import cli
from .data.images import save_image
from .files import output_folder, refuse_overwrite
from .pipelines.blend import blend, comparison
from .weights import load_network, name_of, save_networks


@cli.command(
    "python -m stylegan_toon.blend --swap b64,b128\n"
    "python -m stylegan_toon.blend --base faces --toon comic --swap b32-,mapping=0.3 --seeds 0-7"
)
@cli.base()
@cli.toon()
@cli.swap()
@click.option("--width", type=float, help="Smooth the swap with a logistic curve of this width in octaves.")
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

    Writes blend.safetensors, a network that remembers its parents, and blend.png: base, toon and blend side by side.
    """
    network, picture = out / "blend.safetensors", out / "blend.png"
    refuse_overwrite([network, picture], overwrite)
    parents = [load_network(source, device=device) for source in (base, toon)]
    blended = blend(*parents, swap, width)
    output_folder(out)
    labels = [f"{role}: {Path(name_of(G, role)).stem}" for role, G in zip(("base", "toon"), parents)]
    sheet = comparison(dict(zip([*labels, "blend"], [*parents, blended])), seeds, psi=psi, dtype=dtype)
    save_networks(network, {"G_ema": blended}, provenance=blended.provenance, overwrite=overwrite)
    save_image(sheet, picture)
    click.echo(out)


if __name__ == "__main__":
    main()

"""Make pictures from seeds."""

from __future__ import annotations

import math
from pathlib import Path

import click
import torch
from PIL import Image

from . import cli
from .data.images import image_grid, save_image, to_pil
from .files import refuse_overwrite, results_folder
from .models.family import NOISE_MODES
from .pipelines.generate import batches
from .weights import load_network

GRID = 64  # pictures on grid.png at most


@cli.command("python -m stylegan_toon.generate --network faces --seeds 0-15,33 --psi 0.7")
@cli.network()
@cli.seeds("0-15")
@cli.psi()
@click.option("--class", "label", type=cli.integer(0, 1_000_000), help="Class, for conditional networks.")
@click.option("--noise-mode", type=click.Choice(NOISE_MODES), default="const", help="Noise inputs.")
@cli.batch(8)
@cli.out("out/generate")
@cli.seed(help="Seed of --noise-mode random.")
@cli.device()
@cli.dtype()
@cli.accelerate()
@cli.quiet()
@cli.overwrite()
def main(
    network: str, seeds: list[int], psi: float, label: int | None, noise_mode: str, batch: int, out: Path, seed: int,
    device: torch.device, dtype: torch.dtype | None, accelerate: str, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Make pictures from seeds: seedNNNN.png for each, and grid.png with the first 64."""
    seeds = list(dict.fromkeys(seeds))
    files = {number: out / f"seed{number:04d}.png" for number in seeds}
    refuse_overwrite([*files.values(), out / "grid.png"], overwrite)
    G = load_network(network, device=device)
    torch.manual_seed(seed)
    shown: list[Image.Image] = []
    made = batches(G, seeds, psi, label, noise_mode, batch, dtype, accelerate)
    with results_folder(out), cli.progress(total=len(seeds), quiet=quiet, unit="img") as bar:
        for start, pictures in zip(range(0, len(seeds), batch), made):
            for number, picture in zip(seeds[start:], map(to_pil, pictures)):
                save_image(picture, files[number])
                shown += [picture] if len(shown) < GRID else []
            bar.update(len(pictures))
    captions = [f"seed {number}" for number in seeds[:GRID]]
    save_image(image_grid(shown, math.ceil(math.sqrt(len(shown))), captions=captions), out / "grid.png")
    click.echo(out)


if __name__ == "__main__":
    main()

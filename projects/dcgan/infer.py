"""Pictures from a trained DCGAN: samples by seed, and interpolations between seeds."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import click
import torch
from torch import Tensor

from projects._common import load_of_project
from stylegan_toon import cli
from stylegan_toon.data.images import image_grid, save_image, to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.files import output_folder, refuse_overwrite
from stylegan_toon.models.latents import slerp
from stylegan_toon.pipelines.generate import latents

from .model import Generator, sample

WEIGHTS = Path(__file__).with_name("faces64.safetensors")
GRID = 64  # pictures on grid.png at most


def load_generator(path: Path, device: torch.device | str = "cpu", which: str = "G_ema") -> Generator:
    """The generator of a file that `train` wrote; a snapshot's file also holds "G", not averaged.

    Raises:
        ToonError: no such file, damaged, or of another project.
    """
    return load_of_project(path, which, Generator, "dcgan", device)


def path(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """``[steps, z_dim]`` from ``a`` to ``b`` ``[z_dim]``, both included: directions on a great circle, linear lengths.

    A straight line between Gaussian latents has lengths that the generator never saw in training (White 2016,
    arXiv 1609.04468).
    """
    a, b = a.double()[None], b.double()[None]
    t = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    return (slerp(a, b, t) * torch.lerp(a.norm(), b.norm(), t)).float()


_WHICH = click.option("--which", type=click.Choice(["G_ema", "G"]), default="G_ema", help="G: that of a snapshot.")
_NETWORK = click.option("--network", type=cli.PATH, default=WEIGHTS, show_default=WEIGHTS.name, help="A trained file.")


@cli.command_group(
    """python -m projects.dcgan.infer --seeds 0-63
python -m projects.dcgan.infer interpolate --seeds 3,8,21,4 --steps 8""",
    default="sample",
)
def main() -> None:
    """Pictures from a trained DCGAN; "infer --seeds 0-63" is short for "infer sample --seeds 0-63"."""


@main.subcommand(
    "sample", "python -m projects.dcgan.infer sample --network runs/dcgan/network.safetensors --seeds 0-63"
)
@_NETWORK
@_WHICH
@cli.seeds("0-63")
@cli.out("out/dcgan")
@cli.device()
@cli.quiet()
@cli.overwrite()
def sample_command(
    network: Path, which: str, seeds: list[int], out: Path, device: torch.device, quiet: bool, overwrite: bool
) -> None:
    """Make seedNNNN.png for each seed, and grid.png with the first 64."""
    files = {number: out / f"seed{number:04d}.png" for number in dict.fromkeys(seeds)}
    refuse_overwrite([*files.values(), out / "grid.png"], overwrite)
    G, numbers, shown = load_generator(network, device, which), list(files), []
    output_folder(out)
    with cli.progress(total=len(numbers), quiet=quiet, unit="img") as bar:
        for start in range(0, len(numbers), 16):
            part = numbers[start : start + 16]
            for number, picture in zip(part, map(to_pil, sample(G, latents(part, G.config.z_dim)))):
                save_image(picture, files[number])
                shown += [picture] if len(shown) < GRID else []
            bar.update(len(part))
    save_image(image_grid(shown, math.ceil(math.sqrt(len(shown)))), out / "grid.png")
    click.echo(out)


@main.subcommand("interpolate", "python -m projects.dcgan.infer interpolate --seeds 3,8,21,4 --steps 8")
@_NETWORK
@cli.seeds("0-4")
@click.option("--steps", type=click.IntRange(2, 1000), default=8, help="Pictures from one seed to the next.")
@cli.out("out/dcgan")
@cli.device()
@cli.overwrite()
def interpolate(network: Path, seeds: list[int], steps: int, out: Path, device: torch.device, overwrite: bool) -> None:
    """Interpolate from each seed to the next, one row for each pair: interpolate.png."""
    if len(seeds) < 2:
        raise ToonError("An interpolation needs two --seeds or more: give for example --seeds 3,8.")
    refuse_overwrite([out / "interpolate.png"], overwrite)
    G = load_generator(network, device)
    output_folder(out)
    z = latents(seeds, G.config.z_dim)
    rows = [picture for a, b in pairwise(z) for picture in sample(G, path(a, b, steps))]
    labels = [f"{a} to {b}" for a, b in pairwise(seeds)]
    save_image(image_grid(list(map(to_pil, rows)), steps, row_labels=labels), out / "interpolate.png")
    click.echo(out / "interpolate.png")


if __name__ == "__main__":
    main()

"""Make pictures from seeds."""

from __future__ import annotations

import math
from pathlib import Path

import click
import torch
from PIL import Image

from . import cli
from .data.images import image_grid, save_image, to_pil
from .errors import ToonError
from .files import refuse_overwrite, results_folder
from .models.family import NOISE_MODES
from .models.sides import checked_side
from .pipelines.generate import batches, shown_latents
from .weights import descend, load_network
from .weights.latent import Latent, read_latent, save_latent

GRID = 64  # pictures on grid.png at most


@cli.command(
    "python -m stylegan_toon.generate --network faces --seeds 0-15,33 --psi 0.7\n"
    "python -m stylegan_toon.generate --seeds 0-3 --save-w out/latents\n"
    "python -m stylegan_toon.generate --network animated --latent out/latents/seed0003.safetensors --out out/animated"
)
@cli.network()
@cli.seeds("0-15")
@click.option("--latent", "given", type=cli.PATH, multiple=True, help="Latent file to show, instead of --seeds.")
@click.option("--save-w", type=cli.PATH, help="Folder for the latent of each picture, for --latent, edit and toonify.")
@cli.psi()
@click.option(
    "--resolution",
    type=cli.integer(4, 4096),
    help="Side of the pictures in pixels; the largest that the network makes if not given.",
)
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
    network: str, seeds: list[int], given: tuple[Path, ...], save_w: Path | None, psi: float, resolution: int | None,
    label: int | None, noise_mode: str, batch: int, out: Path, seed: int, device: torch.device,
    dtype: torch.dtype | None, accelerate: str, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Make pictures from seeds: seedNNNN.png for each, and grid.png with the first 64.

    With --latent a picture for each file in place of those: NAME.png, with the file's noise and tuning.
    """
    seeds = list(dict.fromkeys(seeds))
    names = [path.stem for path in given] if given else [f"seed{number:04d}" for number in seeds]
    if len(set(names)) < len(names):
        raise ToonError("Two latent files have the same name, and so would their pictures: rename one.")
    if given and (save_w or label is not None):
        raise ToonError("--save-w and --class are for seeds: leave out --latent.")
    files = [out / f"{name}.png" for name in names]
    kept = [save_w / f"{name}.safetensors" for name in names] if save_w else []
    refuse_overwrite([*files, *kept, out / "grid.png"], overwrite)
    G = load_network(network, device=device)
    side = checked_side(G, resolution)
    torch.manual_seed(seed)
    if given:
        latents = [(path, read_latent(path, G)) for path in given]
        if several := next((path for path, latent in latents if len(latent.ws) != 1), None):
            raise ToonError(f"{several} holds several latents: give files with one.")
        made = shown_latents(G, [latent for _, latent in latents], noise_mode, dtype, side)
    else:
        made = batches(
            G, seeds, psi, label, noise_mode, batch, dtype, accelerate, resolution=side, with_ws=save_w is not None
        )
    history = descend("generate", {"psi": psi, "class": label}, [G]) if save_w else {}
    shown: list[Image.Image] = []
    with (
        results_folder(out),
        results_folder(save_w or out),
        cli.progress(total=len(names), quiet=quiet, unit="img") as bar,
    ):
        done = 0
        for pictures, ws in made:
            for at, picture in enumerate(map(to_pil, pictures), done):
                save_image(picture, files[at])
                if save_w:
                    save_latent(kept[at], Latent(ws[at - done : at - done + 1]), provenance=history)
                shown += [picture] if len(shown) < GRID else []
            done += len(pictures)
            bar.update(len(pictures))
    captions = names[:GRID] if given else [f"seed {number}" for number in seeds[:GRID]]
    save_image(image_grid(shown, math.ceil(math.sqrt(len(shown))), captions=captions), out / "grid.png")
    click.echo(out)


if __name__ == "__main__":
    main()

"""Project a photo: find the latent (and the noise) with which a generator shows it."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from . import cli
from .data.images import image_grid, save_image, to_pil
from .faces.photo import open_photo
from .features.identity import face_embedder
from .features.perceptual import perceptual
from .files import atomic_path, output_folder, refuse_overwrite
from .memory import keep_pages
from .pipelines.project import STEPS, progress_bar, project, save_projection, search_size
from .weights import descend, load_network, save_networks


@cli.command(
    "python -m stylegan_toon.project photo.jpg\n"
    "python -m stylegan_toon.project photo.jpg --space w --steps 1000 --out out/w"
)
@click.argument("photo", type=cli.PATH)
@cli.network()
@click.option("--space", type=click.Choice(list(STEPS)), default="w+", help="One w for all layers, or one for each.")
@click.option("--steps", type=click.IntRange(1), help="Steps; 400 in w+, 1000 in w.")
@click.option("--tune", "tune_steps", type=click.IntRange(0), default=0, help="Steps of pivotal tuning afterwards.")
@click.option("--features", default="vgg", help="Perceptual distance: vgg, lpips or a file.")
@click.option("--aligned", is_flag=True, help="The photo is an aligned square crop already.")
@click.option("--face", type=click.IntRange(1), default=1, help="Which face, counted from the left.")
@cli.out("out/project")
@cli.device()
@cli.accelerate()
@cli.seed(303)
@cli.quiet()
@cli.overwrite()
def main(
    photo: Path, network: str, space: str, steps: int | None, tune_steps: int, features: str, aligned: bool, face: int,
    out: Path, device: torch.device, accelerate: str, seed: int, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Find the latent behind a photo.

    Writes NAME.safetensors (ws and noise), NAME-projected.png (aligned and projected side by side) and NAME.json
    (how close it came, in how many seconds); with --tune also NAME-network.safetensors, the tuned network.
    """
    latent, picture, report, tuned = (
        out / f"{photo.stem}{ending}" for ending in (".safetensors", "-projected.png", ".json", "-network.safetensors")
    )
    refuse_overwrite([latent, picture, report, *([tuned] if tune_steps else [])], overwrite)

    keep_pages()
    G = load_network(network, device=device)
    crop = open_photo(photo, search_size(G), aligned=aligned, face=None if aligned else face).faces[0].image
    output_folder(out)
    measure = perceptual(features, device=device)
    embedder = face_embedder(device=device)
    bar, move = progress_bar((steps or STEPS[space]) + tune_steps, "project", quiet)
    with bar:
        found = project(
            G, crop, space=space, steps=steps, tune_steps=tune_steps, seed=seed, features=measure,
            accelerate=accelerate, callback=move,
        )  # fmt: skip
    with torch.no_grad():
        identity = float(embedder.similarity(found.image, found.target))
    scores = {**found.scores(), "identity": round(identity, 4), "identity_network": embedder.name}
    options = {"space": space, "steps": steps, "tune": tune_steps, "seed": seed, "features": features}
    history = descend("project", options, [G])
    save_projection(found, latent, history)
    if tune_steps:
        save_networks(tuned, {"G_ema": found.generator}, provenance=history, overwrite=overwrite)
    sheet = image_grid([crop, to_pil(found.image[0])], columns=2, size=256, column_labels=["aligned", "projected"])
    save_image(sheet, picture)
    with atomic_path(report) as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n")
    if found.interrupted:
        click.echo(f"Stopped early; what was found is in {out}.", err=True)
        raise click.Abort
    click.echo(out)


if __name__ == "__main__":
    main()

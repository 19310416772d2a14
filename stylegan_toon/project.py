"""Project a photo: find the latent, and the noise, with which a generator shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import cli
from .files import atomic_path, refuse_overwrite, results_folder
from .inversion.config import InversionConfig

if TYPE_CHECKING:
    import torch

# The modules that need torch are imported when a command runs, so that a missing photo is reported at once.


@cli.command(
    "python -m stylegan_toon.project photo.jpg\n"
    "python -m stylegan_toon.project photo.jpg --space w --steps 1000 --out out/w"
)
@click.argument("photo", type=cli.PHOTO, is_eager=True)
@cli.network()
@cli.with_config(
    InversionConfig, defaults={"tune_steps": 0}, help={"steps": "Steps of the search; 400 in w+, 1000 in w."}
)
@cli.aligned("The photo is an aligned square crop already.")
@click.option("--face", type=cli.integer(1, 1000), default=1, help="Which face, counted from the left.")
@cli.out("out/project")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    photo: Path, network: str, config: InversionConfig, aligned: bool, face: int, out: Path, device: torch.device,
    quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Find the latent behind a photo.

    Writes NAME.safetensors (ws and noise), NAME-projected.png (aligned and projected side by side) and NAME.json
    (how close it came, in how many seconds); with --tune also NAME-network.safetensors, the tuned network.
    """
    latent, picture, report, tuned = (
        out / f"{photo.stem}{ending}" for ending in (".safetensors", "-projected.png", ".json", "-network.safetensors")
    )
    refuse_overwrite([latent, picture, report, *([tuned] if config.tune_steps else [])], overwrite)

    import torch

    from .data.images import image_grid, save_image, to_pil
    from .faces.photo import open_photo
    from .features.identity import face_embedder
    from .features.perceptual import perceptual
    from .memory import keep_pages
    from .pipelines.project import project, save_projection, search_size
    from .weights import descend, load_network, save_networks

    keep_pages()
    G = load_network(network, device=device)
    crop = open_photo(photo, search_size(G), aligned=aligned, face=None if aligned else face).faces[0].image
    measure, embedder = perceptual(config.features, device=device), face_embedder(device=device)
    with results_folder(out):
        with cli.search_progress(config.total_steps, "project", quiet) as move:
            projection = project(G, crop, config, measure=measure, callback=move)
        with torch.no_grad():
            identity = float(embedder.similarity(projection.image, projection.target))
        scores = {**projection.scores(), "identity": round(identity, 4), "identity_network": embedder.name}
        options = {
            "space": config.space, "steps": config.steps, "tune": config.tune_steps, "seed": config.seed,
            "features": Path(config.features).name,
        }  # fmt: skip
        history = descend("project", options, [G])
        save_projection(projection, latent, history, G)
        if config.tune_steps:
            save_networks(tuned, {"G_ema": projection.generator}, provenance=history, overwrite=overwrite)
        pictures = [crop, to_pil(projection.image[0])]
        save_image(image_grid(pictures, columns=2, size=256, column_labels=["aligned", "projected"]), picture)
        with atomic_path(report) as temporary:
            temporary.write_text(json.dumps(scores, indent=2) + "\n")
    if projection.interrupted:
        click.echo(f"Stopped early; the best so far is in {out}.", err=True)
        raise click.Abort
    click.echo(out)


if __name__ == "__main__":
    main()

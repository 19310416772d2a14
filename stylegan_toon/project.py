"""Project photos: find the latent, and the noise, with which a generator shows each face."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import cli
from .errors import ToonError
from .files import refuse_overwrite, results_folder
from .inversion.config import InversionConfig

if TYPE_CHECKING:
    import torch

# The modules that need torch are imported when a command runs, so that a missing photo is reported at once.


@cli.command(
    "python -m stylegan_toon.project photo.jpg\n"
    "python -m stylegan_toon.project party.jpg me.jpg --time-budget 60 --no-noise --way webp\n"
    "python -m stylegan_toon.project photo.jpg --legacy --out out/w"
)
@click.argument("photos", type=cli.PHOTO, nargs=-1, required=True, is_eager=True)
@cli.network()
@cli.with_config(
    InversionConfig, defaults={"tune_steps": 0}, help={"steps": "Steps of the search; 400 in w+, 1000 in w."}
)
@click.option(
    "--noise/--no-noise", default=True, help="Search for the noise, too; without it, faces are searched together."
)
@click.option("--way", type=click.Choice(["webp", "gif", "mp4"]), help="Also a film of the way to each result.")
@cli.aligned("The photos are aligned square crops already.")
@click.option("--face", type=cli.integer(1, 1000), help="Only this face, counted from the left; all if not given.")
@cli.out("out/project")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    photos: tuple[Path, ...], network: str, config: InversionConfig, noise: bool, way: str | None, aligned: bool,
    face: int | None, out: Path, device: torch.device, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Find the latents behind the faces of photos.

    Writes NAME.safetensors (ws and noise), NAME-projected.png (aligned and projected side by side) and NAME.json
    (how close it came, in how many seconds, and where the face lies in the photo); with --tune also
    NAME-network.safetensors, the tuned network; with --way NAME-way.webp. Several faces of a photo are NAME-1 and so
    on, from left to right.
    """
    if len({photo.stem for photo in photos}) < len(photos):
        raise ToonError("Two of the photos have the same name and would overwrite each other: do them one at a time.")

    from .data.video import av_module
    from .features.identity import face_embedder
    from .features.perceptual import perceptual
    from .memory import keep_pages
    from .pipelines.project import TOGETHER, compared_size, project_all
    from .pipelines.project_files import Found, find_faces
    from .pipelines.way import Way
    from .weights import descend, load_network

    if way == "mp4":
        av_module()  # raises ToonError if films cannot be written
    keep_pages()
    G = load_network(network, device=device)
    faces = find_faces(photos, compared_size(G, config), aligned=aligned, face=face)
    refuse_overwrite([file for one in faces for file in Found.files(out, one.name, config, way)], overwrite)
    measure, embedder = perceptual(config.features, device=device), face_embedder(device=device)
    options = {
        "space": config.with_defaults().space, "steps": config.with_defaults().steps, "tune": config.tune_steps,
        "seed": config.seed, "features": Path(config.features).name, "legacy": config.legacy,
    }  # fmt: skip
    history = descend("project", options, [G])
    together = 1 if noise else TOGETHER
    with results_folder(out):
        for i in range(0, len(faces), together):
            group = faces[i : i + together]
            ways = [Way() for _ in group]
            resolved = config.with_defaults()
            total = (resolved.steps or 0) + (resolved.tune_steps or 0) * len(group)
            with cli.search_progress(total, group[0].name, quiet) as move:

                def step(at, move=move, ways=ways) -> None:
                    if way:
                        for number, picture in enumerate(at.image):
                            ways[at.first + number].add(picture)
                    move(at)

                crops = [one.aligned.image for one in group]
                projections = project_all(G, crops, config, noise=noise, measure=measure, callback=step)
            for one, projection, film in zip(group, projections, ways):
                found = Found(one, projection, embedder, history, G)
                found.save(out, config, overwrite=overwrite, way=way, film=film)
            if any(projection.interrupted for projection in projections):
                click.echo(f"Stopped early; the best so far is in {out}.", err=True)
                raise click.Abort
    click.echo(out)


if __name__ == "__main__":
    main()

"""Edit faces: move latents along directions, mix two of them, walk from one to the next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import cli
from .cli.amounts import NAMED, NUMBERED
from .errors import ToonError
from .files import refuse_overwrite, results_folder, spare_originals

if TYPE_CHECKING:
    import torch

STEPS = 5  # pictures of a row of the strip, before and after included
LARGEST_WALK = 1000  # frames

# The modules that need torch are imported when a command runs, so that a mistake is reported at once.


@cli.command(
    "python -m stylegan_toon.edit --list\n"
    "python -m stylegan_toon.edit --seeds 3-6 --set mouth-open=1.5 --set yaw=-1\n"
    "python -m stylegan_toon.edit --latent me.safetensors --network comic --sefa 0=3 --layers b4-b16 --walk webp"
)
@cli.network()
@cli.seeds("0-3", show_default=True)
@click.option(
    "--latent", "latents", type=cli.PATH, multiple=True, help="Latent file of project or edit, instead of --seeds."
)
@cli.psi()
@click.option(
    "--set", "named", type=NAMED, multiple=True, help="NAME=AMOUNT of a direction, like mouth-open=1.5; see --list."
)
@click.option("--sefa", "numbered", type=NUMBERED, multiple=True, help="NUMBER=AMOUNT of a direction without a name.")
@click.option("--layers", type=cli.TEXT, default="all", help="Layers that --sefa acts in: b4-b16, b64-, all.")
@click.option("--mix", type=cli.TEXT, help="Take --mix-layers from another face: a seed or a latent file.")
@click.option(
    "--mix-layers",
    type=cli.TEXT,
    default="b64-",
    help="Layers that --mix takes: b64- are colours, b4-b16 pose and shape.",
)
@click.option(
    "--walk",
    type=click.Choice(["webp", "gif"]),
    help="Also a film through the faces, or from before to after if there is one.",
)
@click.option("--frames", type=cli.integer(2, 240), default=24, help="Frames of --walk from each face to the next.")
@click.option("--size", type=cli.integer(64, 4096), default=512, help="Largest side of the pictures in pixels.")
@click.option("--list", "listing", is_flag=True, help="Show the named directions and what they change.")
@cli.out("out/edit")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    network: str, seeds: list[int], latents: tuple[Path, ...], psi: float, named: tuple[tuple[str, float], ...],
    numbered: tuple[tuple[int, float], ...], layers: str, mix: str | None, mix_layers: str, walk: str | None,
    frames: int, size: int, listing: bool, out: Path, device: torch.device, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Change faces along directions of their latents.

    Writes NAME.png and NAME.safetensors (the edited latent, for toonify and edit) for each face, strip.png (before,
    the steps between, after) and on request walk.webp or walk.gif.
    """
    if listing:
        _list()
        return
    names = [path.stem for path in latents] if latents else [f"seed{seed:04d}" for seed in dict.fromkeys(seeds)]
    if len(set(names)) < len(names):
        raise ToonError("Two latent files have the same name, and so would their results: rename one.")
    if walk and (len(names) - 1) * frames > LARGEST_WALK:
        raise ToonError(f"That is a walk of more than {LARGEST_WALK} frames: use fewer faces or --frames.")
    files = {name: (out / f"{name}.png", out / f"{name}.safetensors") for name in names}
    strip, film = out / "strip.png", out / f"walk.{walk}"
    results = [*(file for pair in files.values() for file in pair), strip, *([film] if walk else [])]
    spare_originals(results, latents)
    refuse_overwrite(results, overwrite)

    from .data.animation import save_animation
    from .data.images import image_grid, save_image
    from .pipelines.edit import Editor
    from .weights import descend, load_network
    from .weights.latent import save_latent

    G = load_network(network, device=device)
    editor = Editor(G, dict(named), dict(numbered), layers, mix, mix_layers, psi=psi, size=size)
    faces = [editor.read(path) for path in latents] if latents else [editor.seed(seed) for seed in dict.fromkeys(seeds)]
    edited = [editor.apply(face) for face in faces]
    options = {"set": dict(named), "sefa": dict(numbered), "layers": layers, "mix": mix, "mix_layers": mix_layers}
    history = descend("edit", options, [G])
    paths = editor.walk(faces, edited, frames) if walk else []
    with results_folder(out):
        pictures = []
        with cli.progress(total=len(faces) * STEPS + len(paths), quiet=quiet, unit="img") as bar:
            for name, before, after in zip(names, faces, edited):
                row = []
                for latent in editor.steps(before, after, STEPS):
                    row.append(editor.picture(latent))
                    bar.update(1)
                pictures += row
                save_image(row[-1], files[name][0])
                save_latent(files[name][1], after, provenance=history)
            if walk:
                shown = []
                for latent in paths:
                    shown.append(editor.picture(latent))
                    bar.update(1)
                save_animation(shown, film, rate=24)
        labels = ["before", *[""] * (STEPS - 2), "after"]
        save_image(image_grid(pictures, STEPS, size=256, column_labels=labels, row_labels=names), strip)
    click.echo(out)


def _list() -> None:
    """Print the named directions."""
    from .pipelines.edit import named_directions

    config = named_directions().config
    width = max(map(len, config.names))
    for name, about, layers in zip(config.names, config.about, config.layers):
        click.echo(f"{name:{width}}  {about} ({layers})")


if __name__ == "__main__":
    main()

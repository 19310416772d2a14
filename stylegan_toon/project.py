"""Project a photo: find the latent (and the noise) with which a generator shows it."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from PIL import Image
from safetensors.torch import save as to_safetensors
from torch import Tensor

from . import cli
from ._callable import callable_module
from .data.faces import open_photo
from .data.images import image_grid, save_image, to_pil, to_tensor
from .errors import ToonError
from .files import atomic_path, output_folder, refuse_overwrite
from .nn import Generator, MobileGenerator
from .training.identity import face_embedder
from .training.inversion import Callback, Progress, invert, noise_maps, tune
from .training.memory import keep_pages
from .training.perceptual import Perceptual, fit, perceptual
from .weights import descend, load_network, save_networks

STEPS = {"w": 1000, "w+": 400}
SEARCHED_AT = 512
BEGUN_WITH = ((0.4, 128), (0.8, 256))


@dataclass
class Projection:
    """What `project` found.

    Attributes:
        ws: ``[1, num_ws, w_dim]``.
        noise: optimised noise ``[R, R]`` by its name in the synthesis network, as ``b8.conv0.noise_const``.
        image: ``[1, C, R, R]`` in about [-1, 1]: what the generator shows for ws, with that noise, at the size that
            was searched at.
        target: what was projected, ``[1, C, R, R]``.
        generator: the network with the noise in place and, where asked for, tuned to the picture.
        space: "w" or "w+".
        features: name of the perceptual distance, "lpips-vgg" or "discriminator".
        distance: that distance between image and target.
        history: the distance after every step, tuning included.
        tuned: steps of pivotal tuning.
        seconds: wall-clock time, without loading networks.
        interrupted: stopped by Ctrl-C before its last step.
    """

    ws: Tensor
    noise: dict[str, Tensor]
    image: Tensor
    target: Tensor
    generator: Generator
    space: str
    features: str
    distance: float
    history: list[float]
    tuned: int
    seconds: float
    interrupted: bool

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of image (clamped to [-1, 1]) and target in decibels."""
        mse = float((self.image.clamp(-1, 1) - self.target).square().mean())
        return 10 * math.log10(4 / mse) if mse > 0 else math.inf

    def scores(self) -> dict:
        """The figures that go into NAME.json."""
        return {
            "distance": self.distance,
            "features": self.features,
            "psnr": self.psnr,
            "space": self.space,
            "steps": len(self.history) - self.tuned,
            "tuned": self.tuned,
            "seconds": round(self.seconds, 2),
            "interrupted": self.interrupted,
        }


def project(
    G: Generator | str | Path,
    image: Image.Image | Tensor,
    *,
    space: str = "w+",
    steps: int | None = None,
    tune_steps: int = 0,
    seed: int = 303,
    lr: float | None = None,
    resolution: int | None = None,
    noise: bool = True,
    features: str | Path | Perceptual = "vgg",
    accelerate: str = "auto",
    callback: Callback | None = None,
) -> Projection:
    """Find ws and noise with which ``G`` shows an aligned picture.

    Args:
        G: generator, or anything `load_network` takes. It is left as it is.
        image: FFHQ-aligned: a PIL picture, or ``[3, H, W]`` or ``[1, 3, H, W]`` in [-1, 1]. Brought to G's size.
        space: "w" (StyleGAN2's projector) or "w+" (a w per layer; closer, see `training.inversion.invert`).
        steps: 1000 in "w", 400 in "w+" if None.
        tune_steps: at most this many steps of pivotal tuning of the weights afterwards.
        seed: of the noise.
        lr: Adam's peak rate; 0.1 if None.
        resolution: side of the pictures that are compared, one that ``G`` makes; None = 512 where the mobile family
            makes it, begun with smaller ones, else the size of ``G``.
        noise: search for the noise inputs, too.
        features: perceptual distance, see `training.perceptual.perceptual`.
        accelerate: "auto", "off", "graphs" or "compile", see `nn.accelerate.accelerate`; of the search for ws.
        callback: gets a `training.inversion.Progress` after every step.

    Returns:
        A `Projection`. Ctrl-C ends the search, and what was found so far is returned.

    Raises:
        ToonError: unknown space, a picture that is not square, networks or features that cannot be had.
    """
    if space not in STEPS:
        raise ToonError(f"--space must be w or w+, not {space!r}.")
    if not isinstance(G, Generator):
        G = load_network(G)
    device = G.mapping.w_avg.device
    size = resolution or search_size(G)
    target = as_target(image, G, size).to(device)
    measure = perceptual(features, device=device)

    start = time.monotonic()
    G = copy.deepcopy(G).eval().requires_grad_(False)
    found = invert(
        G, target, measure, space=space, steps=steps or STEPS[space], lr=lr or 0.1, seed=seed, noise=noise,
        sizes=search_sizes(G, size), accelerate=accelerate, callback=callback,
    )  # fmt: skip
    history, tuned, interrupted = found.history, 0, found.interrupted
    if tune_steps and not interrupted:
        mobile = isinstance(G, MobileGenerator)
        better = tune(G, found.ws, target, measure, steps=tune_steps, heads_stay=mobile, callback=callback)
        history, tuned, interrupted = history + better.history, len(better.history), better.interrupted
    with torch.no_grad():
        shown = G.synthesis(found.ws, noise_mode="const", resolution=size)
        distance = float(measure.distance(shown, target))
    return Projection(
        ws=found.ws,
        noise={name: noise.clone() for name, noise in noise_maps(G).items()},
        image=shown,
        target=target,
        generator=G,
        space=space,
        features=measure.name,
        distance=distance,
        history=history,
        tuned=tuned,
        seconds=time.monotonic() - start,
        interrupted=interrupted,
    )


def search_size(G: Generator) -> int:
    """Side of the pictures that a search ends with."""
    sizes = G.config.head_resolutions
    return max([size for size in sizes if size <= SEARCHED_AT] or sizes[:1])


def search_sizes(G: Generator, last: int) -> list[tuple[float, int]]:
    """What a search in the mobile family begins with, see `training.inversion.invert`: its small heads are pictures."""
    return [(share, size) for share, size in BEGUN_WITH if size in G.config.head_resolutions and size < last]


def as_target(image: Image.Image | Tensor, G: Generator, size: int | None = None) -> Tensor:
    """A square picture as ``[1, C, size, size]`` in [-1, 1]; ``size`` is that of what ``G`` makes if None.

    Raises:
        ToonError: when it is not square.
    """
    if isinstance(image, Image.Image):
        image = to_tensor(image)
    if image.ndim == 3:
        image = image[None]
    height, width = image.shape[2:]
    if height != width:
        raise ToonError(f"The picture is {width}x{height} pixels: an aligned one is square; leave out --aligned.")
    return fit(image.detach().float(), size or G.config.resolution, G.config.img_channels)


def save_projection(found: Projection, path: Path, provenance: dict) -> None:
    """Write ``ws`` and ``noise.*`` as safetensors; the header says ``kind`` "projection", scores and provenance."""
    tensors = {"ws": found.ws, **{f"noise.{name}": noise for name, noise in found.noise.items()}}
    header = {"kind": "projection", "scores": json.dumps(found.scores()), "provenance": json.dumps(provenance)}
    data = to_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def progress_bar(total: int, desc: str, quiet: bool) -> tuple[object, Callback]:
    """A bar for `project`, and the callback that moves it."""
    bar = cli.progress(total=total, desc=desc, unit="step", quiet=quiet)

    def move(at: Progress) -> None:
        bar.set_postfix(stage=at.stage, distance=f"{at.distance:.3f}", refresh=False)
        bar.update()

    return bar, move


@cli.verb(
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

callable_module(__name__, project)

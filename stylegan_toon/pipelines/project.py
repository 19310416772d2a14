"""Project a photo: find the latent (and the noise) with which a generator shows it."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..data.images import to_tensor
from ..errors import ToonError
from ..features.perceptual import Perceptual, fit, perceptual
from ..files import atomic_path
from ..inversion.optimise import Callback, Progress, invert, noise_maps, tune
from ..models import Generator, MobileGenerator
from ..progress import progress
from ..weights import load_network

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
        space: "w" (StyleGAN2's projector) or "w+" (a w per layer; closer, see `inversion.optimise.invert`).
        steps: 1000 in "w", 400 in "w+" if None.
        tune_steps: at most this many steps of pivotal tuning of the weights afterwards.
        seed: of the noise.
        lr: Adam's peak rate; 0.1 if None.
        resolution: side of the pictures that are compared, one that ``G`` makes; None = 512 where the mobile family
            makes it, begun with smaller ones, else the size of ``G``.
        noise: search for the noise inputs, too.
        features: perceptual distance, see `features.perceptual.perceptual`.
        accelerate: "auto", "off", "graphs" or "compile", see `models.accelerate.accelerate`; of the search for ws.
        callback: gets a `inversion.optimise.Progress` after every step.

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
    """What a search in the mobile family begins with, see `inversion.optimise.invert`: its small heads are pictures."""
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
    bar = progress(total=total, desc=desc, unit="step", quiet=quiet)

    def move(at: Progress) -> None:
        bar.set_postfix(stage=at.stage, distance=f"{at.distance:.3f}", refresh=False)
        bar.update()

    return bar, move

"""Project a photo: find the latent (and the noise) with which a generator shows it.

    python -m stylegan_toon.project photo.jpg
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .data.images import to_pil, to_tensor
from .errors import ToonError
from .nn import Generator
from .training.inversion import Callback, invert, noise_maps, tune
from .training.perceptual import Perceptual, fit, perceptual
from .weights import load_network

STEPS = {"w": 1000, "w+": 400}


@dataclass
class Projection:
    """What `project` found.

    Attributes:
        ws: ``[1, num_ws, w_dim]``.
        noise: optimised noise ``[R, R]`` by its name in the synthesis network, as ``b8.conv0.noise_const``.
        image: ``[1, C, R, R]`` in about [-1, 1]: ``generator.synthesis(ws)``, with that noise.
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
    features: str | Path | Perceptual = "auto",
    callback: Callback | None = None,
    say: Callable[[str], object] = lambda line: None,
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
        features: perceptual distance, see `training.perceptual.perceptual`.
        callback: gets a `training.inversion.Progress` after every step.
        say: gets a line about which features are used.

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
    target = as_target(image, G).to(device)
    measure = perceptual(features, device=device, say=say)

    start = time.monotonic()
    G = copy.deepcopy(G).eval().requires_grad_(False)
    found = invert(
        G, target, measure, space=space, steps=steps or STEPS[space], lr=lr or 0.1, seed=seed, callback=callback
    )
    history, tuned, interrupted = found.history, 0, found.interrupted
    if tune_steps and not interrupted:
        better = tune(G, found.ws, target, measure, steps=tune_steps, callback=callback)
        history, tuned, interrupted = history + better.history, len(better.history), better.interrupted
    with torch.no_grad():
        shown = G.synthesis(found.ws, noise_mode="const")
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


def as_target(image: Image.Image | Tensor, G: Generator) -> Tensor:
    """A square picture as ``[1, C, R, R]`` in [-1, 1], the size of what ``G`` makes.

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
    return fit(image.detach().float(), G.config.resolution, G.config.img_channels)

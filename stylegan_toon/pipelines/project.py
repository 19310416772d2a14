"""Project a photo: find the latent, and the noise, with which a generator shows it."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..data.images import to_tensor
from ..errors import ToonError
from ..features.perceptual import Perceptual, fit, perceptual
from ..inversion.config import InversionConfig
from ..inversion.encoder import Encoder, encoder, fits_encoder
from ..inversion.optimise import Callback, Inversion, invert, noise_maps
from ..inversion.tuning import tune
from ..models import Generator, MobileGenerator
from ..weights import load_network
from ..weights.latent import Latent, origin_of, save_latent, tuning_of

SEARCH_SIZE = 512  # pixels: the largest side of the pictures that are compared
TUNE_SIZE = 256  # pixels: of the pictures that tuning of the coarse blocks compares, where the network makes them
# A search in the mobile family compares small pictures first: until this share of the steps, at this side.
SMALL_FIRST = ((0.4, 128), (0.8, 256))


@dataclass
class Projection:
    """The result of `project`.

    Attributes:
        ws: ``[1, num_ws, w_dim]``.
        noise: optimised noise ``[R, R]`` by its name in the synthesis network, as ``b8.conv0.noise_const``.
        image: ``[1, C, R, R]`` in about [-1, 1]: what ``generator`` shows for ws, at the size of the search.
        target: the projected picture, ``[1, C, R, R]`` in [-1, 1].
        generator: a copy of the network with the noise in place and, on request, tuned to the picture.
        space: "w" or "w+".
        features: name of the perceptual distance, "lpips-vgg" or "discriminator".
        distance: perceptual distance between image and target.
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

    def scores(self) -> dict[str, Any]:
        """The numbers that go into NAME.json."""
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
    config: InversionConfig | None = None,
    *,
    resolution: int | None = None,
    noise: bool = True,
    measure: Perceptual | None = None,
    callback: Callback | None = None,
) -> Projection:
    """Find ws and noise with which ``G`` shows an aligned picture.

    Args:
        G: a generator, or a source for `load_network`. It is left as it is.
        image: FFHQ-aligned: a PIL picture, or ``[3, H, W]`` or ``[1, 3, H, W]`` in [-1, 1]. Brought to G's size.
        config: how to search and tune; None = `InversionConfig`'s defaults: 400 steps in W+, no tuning.
        resolution: side of the pictures that are compared, one that ``G`` makes; None = 512 where the mobile family
            makes it, after smaller ones, else the size of ``G``.
        noise: search for the noise inputs, too.
        measure: a perceptual distance to use in place of the one that ``config.features`` names.
        callback: gets a `inversion.optimise.Progress` after every step.

    Returns:
        A `Projection`. Ctrl-C ends the search, and its last result is returned.

    Raises:
        ToonError: a picture that is not square, a network or features that are not available.
    """
    config = (config or InversionConfig()).with_defaults()
    if not isinstance(G, Generator):
        G = load_network(G)
    device = G.mapping.w_avg.device
    size = resolution or search_size(G)
    target = as_target(image, G, size).to(device)
    measure = perceptual(measure or config.features, device=device)

    start = time.monotonic()
    G = copy.deepcopy(G).eval().requires_grad_(False)
    first = starting_encoder(G, config)
    begin = None if first is None else first(target)
    if config.steps:
        sizes = search_sizes(G, size)
        result = invert(G, target, measure, config, start=begin, noise=noise, sizes=sizes, callback=callback)
    else:
        result = Inversion(G.mapping.w_avg.expand(1, G.num_ws, -1) if begin is None else begin)
    ws, history, tuned, interrupted = result.ws, result.history, 0, result.interrupted
    if config.tune_steps and not interrupted:
        coarse = config.tune_blocks == "coarse"
        smaller = coarse and size > TUNE_SIZE and TUNE_SIZE in G.config.head_resolutions
        compared = fit(target, TUNE_SIZE) if smaller else target
        better = tune(
            G, ws, compared, measure, steps=config.tune_steps, coarse=coarse, heads_stay=isinstance(G, MobileGenerator),
            dtype=config.torch_dtype, callback=callback,
        )  # fmt: skip
        ws, history, interrupted = better.ws, history + better.history, better.interrupted
        tuned = len(better.history)
    with torch.no_grad():
        shown = G.synthesis(ws, noise_mode="const", resolution=size)
        distance = float(measure.distance(shown, target))
    return Projection(
        ws=ws,
        noise={name: noise.clone() for name, noise in noise_maps(G).items()},
        image=shown,
        target=target,
        generator=G,
        space=config.space,
        features=measure.name,
        distance=distance,
        history=history,
        tuned=tuned,
        seconds=time.monotonic() - start,
        interrupted=interrupted,
    )


def starting_encoder(G: Generator, config: InversionConfig) -> Encoder | None:
    """The encoder whose latent the search begins with, on the device of ``G``; None = it begins with w_avg.

    Raises:
        ToonError: ``config`` asks for the encoder, and it is not made for ``G``.
    """
    if config.start == "mean" or config.space == "w":
        return None
    network = encoder(G.mapping.w_avg.device)
    if fits_encoder(G, network):
        return network
    if config.start == "encoder":
        raise ToonError("The encoder is made for the network faces and those trained from it: use --start mean.")
    return None


def search_size(G: Generator) -> int:
    """Side of the pictures at the end of a search."""
    sizes = G.config.head_resolutions
    return max([size for size in sizes if size <= SEARCH_SIZE] or sizes[:1])


def search_sizes(G: Generator, last: int) -> list[tuple[float, int]]:
    """The smaller pictures that a search begins with, see `inversion.optimise.invert`: those that ``G`` makes."""
    return [(share, size) for share, size in SMALL_FIRST if size in G.config.head_resolutions and size < last]


def as_target(image: Image.Image | Tensor, G: Generator, size: int | None = None) -> Tensor:
    """A square picture as ``[1, C, size, size]`` in [-1, 1] with the channels of ``G``; None = the size of ``G``.

    Raises:
        ToonError: the picture is not square.
    """
    if isinstance(image, Image.Image):
        image = to_tensor(image)
    if image.ndim == 3:
        image = image[None]
    height, width = image.shape[2:]
    if height != width:
        raise ToonError(f"The picture is {width}x{height} pixels: an aligned one is square; leave out --aligned.")
    return fit(image.detach().float(), size or G.config.resolution, G.config.img_channels)


def save_projection(
    projection: Projection, path: Path, provenance: dict[str, Any], base: Generator | None = None
) -> None:
    """Write a latent file (see `weights.latent`): ws, noise, the scores, and with ``base`` what tuning added to it."""
    save_latent(path, latent_of(projection, base), scores=projection.scores(), provenance=provenance)


def latent_of(projection: Projection, base: Generator | None = None, *, noise: bool = True) -> Latent:
    """What a latent file holds of a projection: with ``base`` also what tuning added to that network."""
    maps = projection.noise if noise else {}
    if base is None or not projection.tuned:
        return Latent(projection.ws, maps)
    return Latent(projection.ws, maps, tuning_of(base, projection.generator), origin_of(base))

"""Project a photo: find the latent, and the noise, with which a generator shows it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from ..inversion.optimise import Callback, Inversion, Progress, invert, noise_maps
from ..inversion.tuning import tune
from ..models import Generator, MobileGenerator
from ..models.sides import largest_side
from ..weights import load_network
from ..weights.latent import Latent, origin_of, save_latent, tuning_of

SEARCH_SIZE = 512  # pixels: the largest side of the pictures that are compared
TUNE_SIZE = 256  # pixels: of the pictures that tuning of the coarse blocks compares, where the network makes them
TUNE_SMALL_FIRST = ((0.5, 128),)  # and of its first half with Muon
LEGACY_SIZE = 256  # pixels: the published projector reduces larger pictures to this
TOGETHER = 8  # pictures of one pass of the network in a search
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

    @property
    def pixel_error(self) -> float:
        """Mean absolute difference of image (clamped to [-1, 1]) and target, 0 to 255."""
        return 127.5 * float((self.image.clamp(-1, 1) - self.target).abs().mean())

    def scores(self) -> dict[str, Any]:
        """The numbers that go into NAME.json."""
        return {
            "distance": self.distance,
            "features": self.features,
            "psnr": self.psnr,
            "pixel_error": round(self.pixel_error, 3),
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
    return project_all(G, [image], config, resolution=resolution, noise=noise, measure=measure, callback=callback)[0]


def project_all(
    G: Generator | str | Path,
    images: Sequence[Image.Image | Tensor],
    config: InversionConfig | None = None,
    *,
    resolution: int | None = None,
    noise: bool = False,
    measure: Perceptual | None = None,
    callback: Callback | None = None,
) -> list[Projection]:
    """`project` for several aligned pictures, each as if it were alone.

    The search for latents takes up to 8 pictures in one pass of the network if ``noise`` is off: the network has one
    noise for all pictures, so with noise they are searched one after the other. Tuning gives every picture a network
    of its own.

    Args:
        G, config, resolution, noise, measure, callback: see `project`; ``config.time_budget`` is for each picture.
        images: any number, each as for `project`.

    Returns:
        A `Projection` for each picture, in order. After Ctrl-C the last one is a draft and those after it are missing.

    Raises:
        ToonError: see `project`.
    """
    config = (config or InversionConfig()).with_defaults()
    if not isinstance(G, Generator):
        G = load_network(G)
    size = resolution or compared_size(G, config)
    targets = [as_target(image, G, size).to(G.mapping.w_avg.device) for image in images]
    measure = perceptual(measure or config.features, device=G.mapping.w_avg.device)
    first = starting_encoder(G, config)
    together = 1 if noise or not config.steps else TOGETHER
    results: list[Projection] = []
    for i in range(0, len(targets), together):
        move = None if callback is None else partial(_of, i, callback)
        found = _project(G, torch.cat(targets[i : i + together]), config, first, noise, measure, move)
        results += found
        if any(projection.interrupted for projection in found):
            break
    return results


def _of(first: int, callback: Callback, at: Progress) -> object:
    """Call ``callback`` with the place of the pictures among all."""
    return callback(replace(at, first=first + at.first))


def _project(
    G: Generator, targets: Tensor, config: InversionConfig, first: Encoder | None, noise: bool, measure: Perceptual,
    callback: Callback | None,
) -> list[Projection]:  # fmt: skip
    """The projections of ``targets`` ``[N, C, R, R]``, searched together and tuned one by one."""
    begun, size, count = time.monotonic(), targets.shape[-1], len(targets)
    searched = copy.deepcopy(G).eval().requires_grad_(False)
    begin = None if first is None else first(targets)
    if config.steps:
        sizes = () if config.legacy else search_sizes(G, size)
        share = config.steps / config.total_steps
        budget = None if config.time_budget is None else share * config.time_budget
        result = invert(
            searched, targets, measure, replace(config, time_budget=budget), start=begin, noise=noise, sizes=sizes,
            callback=callback,
        )  # fmt: skip
    else:
        result = Inversion(G.mapping.w_avg.expand(count, G.num_ws, -1) if begin is None else begin)
    taken = (time.monotonic() - begun) / count
    projections: list[Projection] = []
    for i in range(count):
        here, tuned = time.monotonic(), Inversion(result.ws[i : i + 1])
        # The last picture can have the network of the search: nobody needs it any more.
        network = searched if i == count - 1 else copy.deepcopy(searched)
        target = targets[i : i + 1]
        if config.tune_steps and not result.interrupted:
            left = None if config.time_budget is None else max(0.0, config.time_budget - taken)
            move = None if callback is None else partial(_of, i, callback)
            tuned = tune_with(network, tuned.ws, target, measure, config, left, move)
        with torch.no_grad():
            shown = network.synthesis(tuned.ws, noise_mode="const", resolution=size)
            distance = float(measure.distance(shown, target))
        projections.append(Projection(
            ws=tuned.ws,
            noise={name: noise.clone() for name, noise in noise_maps(network).items()},
            image=shown,
            target=target,
            generator=network,
            space=config.space,
            features=measure.name,
            distance=distance,
            history=result.history + tuned.history,
            tuned=len(tuned.history),
            seconds=taken + time.monotonic() - here,
            interrupted=result.interrupted or tuned.interrupted,
        ))  # fmt: skip
        if tuned.interrupted:
            break
    return projections


def tune_with(
    G: Generator, ws: Tensor, target: Tensor, measure: Perceptual, config: InversionConfig,
    seconds: float | None = None, callback: Callback | None = None,
) -> Inversion:  # fmt: skip
    """Pivotal tuning of ``G`` as ``config`` says; see `inversion.tuning.tune` for the arguments.

    Args:
        target: ``[N, C, R, R]`` in [-1, 1]; coarse blocks are tuned on pictures of 256 px, where ``G`` makes them.
        seconds: wall-clock time that it may take; None = no limit.
    """
    coarse = config.tune_blocks == "coarse"
    sides = G.config.head_resolutions
    if coarse and target.shape[-1] > TUNE_SIZE and TUNE_SIZE in sides:
        target = fit(target, TUNE_SIZE)
    muon = coarse and config.tune_optimizer == "muon"
    sizes = [(share, side) for share, side in TUNE_SMALL_FIRST if muon and side in sides and side < target.shape[-1]]
    return tune(
        G, ws, target, measure, steps=config.tune_steps or 0, coarse=coarse, muon=muon,
        heads_stay=isinstance(G, MobileGenerator), dtype=config.torch_dtype, sizes=sizes, seconds=seconds,
        plateau=config.plateau, callback=callback,
    )  # fmt: skip


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


def compared_size(G: Generator, config: InversionConfig) -> int:
    """Side of the pictures at the end of a search."""
    return largest_side(G, LEGACY_SIZE if config.legacy else SEARCH_SIZE)


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

"""Supervised training of a generator on pictures whose latents are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ToonError
from ..models import Generator
from ..models.layers import FullyConnected
from ..models.stylegan2 import MappingNetwork
from ..ops.haar import haar_down

NO_PAIRS = "--pairs-kimg, --pairs-weight and --pairs-only need --pairs: give the npz with the latents."
WINDOW = 192  # pixels; comparing whole pictures of 512 px would cost as much as generating them
_LRELU_SLOPE, _LRELU_GAIN = 0.2, math.sqrt(2)


def read_latents(path: str | Path) -> dict[str, np.ndarray]:
    """Read ``w`` (float32 ``[N, w_dim]`` or ``[N, num_ws, w_dim]``, row i for picture i) and, if there, ``samples``
    (``[M, w_dim]``) of an npz.

    Raises:
        ToonError: no such file, no ``w`` in it, or numbers that are not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            table = {name: file[name].astype(np.float32) for name in ("w", "samples") if name in file}
    except (OSError, ValueError, EOFError) as error:
        raise ToonError(f"{path} cannot be read as an npz of latents: check the path.") from error
    faulty = any(rows.ndim not in (2, 2 + (name == "w")) or not np.isfinite(rows).all() for name, rows in table.items())
    if "w" not in table or faulty:
        raise ToonError(f"{path} must hold w, finite numbers [pictures, w_dim] or [pictures, layers, w_dim].")
    return table


@torch.no_grad()
def fit_mapping(mapping: MappingNetwork, w: Tensor) -> None:
    """Set a two-layer mapping network so that standard normal z give w of the same mean and covariance.

    Before the last leaky ReLU the latents of a StyleGAN are close to normally distributed ("P space", Zhu et al.
    2020, arXiv 2012.09036, section 3.1), so one affine map of z reproduces them. The first layer passes z on
    because ``lrelu(z) - lrelu(-z)`` is proportional to z: the network is linear at first and can learn anything.

    Args:
        mapping: ``mapping_layers=2`` and ``mapping_features = 2 * z_dim``; its ``w_avg`` is set too.
        w: ``[M, w_dim]`` samples, M well above ``w_dim``.

    Raises:
        ToonError: when the network has another shape.
    """
    z_dim = mapping.z_dim
    shape = (2 * z_dim, z_dim)
    if mapping.num_layers != 2 or mapping.c_dim or mapping.get_parameter("fc0.weight").shape != shape:
        raise ToonError(
            "Fitting the mapping network to known latents needs an unconditional one with mapping_layers=2 and "
            "mapping_features twice z_dim: change the configuration."
        )
    w = w.double()
    p = torch.where(w > 0, w, w / _LRELU_SLOPE) / _LRELU_GAIN
    mean = p.mean(0)
    values, vectors = torch.linalg.eigh((p - mean).T @ (p - mean) / len(p))
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # symmetric square root of the covariance
    if root.shape[0] != z_dim:
        raise ToonError(f"The latents have {root.shape[0]} numbers, the network's z {z_dim}: they must be equal.")
    eye = torch.eye(z_dim, dtype=torch.float64)
    through = _LRELU_GAIN * (1 + _LRELU_SLOPE)  # gain of lrelu(z) - lrelu(-z)
    for name, weight, bias in (
        ("fc0", torch.cat([eye, -eye]), torch.zeros(2 * z_dim)),
        ("fc1", torch.cat([root, -root], dim=1) / through, mean),
    ):
        layer = mapping.get_submodule(name)
        assert isinstance(layer, FullyConnected)
        layer.weight.copy_(weight / layer.weight_gain)
        mapping.get_parameter(f"{name}.bias").copy_(bias / layer.bias_gain)
    mapping.get_buffer("w_avg").copy_(w.mean(0))


def pair_loss(
    G: Generator,
    ws: Tensor,
    target: Tensor,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    noise_mode: str = "none",
    dtype: torch.dtype | None = None,
    detail: float = 0.0,
) -> Tensor:
    """Distance of the pictures generated from known latents to the true ones.

    L1 at every resolution that G makes (so every block has a gradient of its own), ``detail`` times `detail_loss`, plus
    ``perceptual`` on a random window of 192 px, more often near the middle.

    Args:
        ws: ``[N, num_ws, w_dim]``.
        target: ``[N, C, R, R]`` in [-1, 1], R a size that G makes.
        perceptual: distance of two batches of pictures, or None.
        noise_mode, dtype: as for ``G.synthesis``.
        detail: weight of `detail_loss`.

    Returns:
        A scalar.
    """
    synthesis: Any = G.synthesis  # of either family
    return picture_loss(synthesis.pyramid(ws, noise_mode, dtype, target.shape[-1]), target, perceptual, detail)


def picture_loss(
    images: list[Tensor],
    target: Tensor,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    detail: float = 0.0,
) -> Tensor:
    """The loss of `pair_loss` for pictures already generated, coarsest first; the last has ``target``'s size."""
    loss = pyramid_loss(images, target, perceptual)
    return loss + detail * detail_loss(images[-1], target) if detail else loss


def detail_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 between the finest Haar bands of ``[N, C, R, R]``, and between their mean strengths around each pixel.

    With L1 alone a line whose place is uncertain fades; the mean strength of a band over 8 pixels can be right where
    single pixels cannot.
    """
    ours, theirs = (haar_down(picture)[:, picture.shape[1] :] for picture in (image, target))
    loss = F.l1_loss(ours, theirs)
    if ours.shape[-1] >= 4:
        loss = loss + F.l1_loss(F.avg_pool2d(ours.abs(), 4), F.avg_pool2d(theirs.abs(), 4))
    return loss


def pyramid_loss(
    images: list[Tensor], target: Tensor, perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Tensor:
    """L1 of generated pictures, coarsest first, to ``target`` at their sizes, and ``perceptual`` on a window."""
    loss = F.l1_loss(images[-1], target)
    for image in images[:-1]:
        small = F.interpolate(target, size=image.shape[2:], mode="area")
        loss = loss + F.l1_loss(image, small) / (2 * max(len(images) - 1, 1))
    if perceptual is not None:
        image, side = images[-1], target.shape[-1]
        if side > WINDOW:
            # The mean of two uniform numbers: windows with eyes and mouth, in the middle, are more frequent. One number
            # each for the whole batch, so that all its parts see the same window (`keyed_random`).
            places = [int(torch.randint(side - WINDOW + 1, [])) for _ in range(4)]
            y, x = (places[0] + places[2]) // 2, (places[1] + places[3]) // 2
            image, target = (t[:, :, y : y + WINDOW, x : x + WINDOW] for t in (image, target))
        loss = loss + perceptual(image, target)
    return loss

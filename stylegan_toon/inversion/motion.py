"""Latents of a face that moves: what stays the same over all frames, plus what the encoder sees change.

ws(t) = encoder(t), smoothed over time, + an offset that all frames share. The offset is searched on a few frames that
differ from each other; pivotal tuning on the same frames follows (Roich et al., arXiv 2106.05744).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..features.perceptual import Perceptual
from ..models import Generator
from .config import InversionConfig
from .optimise import (
    PIXEL_WEIGHT,
    PRIOR_WEIGHT,
    SPREAD_WEIGHT,
    Callback,
    Inversion,
    Progress,
    latent_prior,
    learning_rate,
    pixel_distance,
)

PIVOTS = 3  # frames that a person is learned from
FRONTAL = 0.25  # eye distances: faces that are turned further are no pivots, if there are others


def choose_pivots(encoded: np.ndarray, turned: np.ndarray, count: int = PIVOTS) -> list[int]:
    """Frames to learn a person from: the most usual one, then those that differ most from the ones chosen before.

    Args:
        encoded: ``[T, D]``, latents.
        turned: ``[T]``, see `faces.track.Track`; nan = do not take.
    """
    allowed = np.flatnonzero(np.abs(turned - np.nanmedian(turned)) <= FRONTAL) if np.isfinite(turned).any() else []
    frontal = [i for i in allowed if abs(turned[i]) <= FRONTAL]
    candidates = np.array(frontal or list(allowed) or range(len(encoded)))
    points = encoded[candidates].reshape(len(candidates), -1)
    apart = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    chosen = [int(apart.argmin())]
    # The strangest frames are blurred or hidden faces rather than expressions: leave out a tenth.
    apart_limit = np.quantile(apart, 0.9)
    nearest = np.full(len(points), np.inf)
    while len(chosen) < min(count, len(points)):
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(np.where(apart <= apart_limit, nearest, -1).argmax()))
        if nearest[chosen[-1]] == 0:
            chosen.pop()
            break
    return [int(candidates[i]) for i in chosen]


def search_offset(
    G: Generator,
    targets: Tensor,
    starts: Tensor,
    perceptual: Perceptual,
    config: InversionConfig,
    *,
    sizes: Sequence[tuple[float, int]] = (),
    callback: Callback | None = None,
) -> Inversion:
    """Find the offset ``[1, num_ws, w_dim]`` with which ``G`` shows every target at its own start plus the offset.

    Each step looks at the next target in turn, so that the search costs no more than that of one photo; losses,
    schedule and units are those of `optimise.invert` in "w+" from a given start.

    Args:
        G: gradients of its parameters must be off.
        targets: ``[K, C, R, R]`` in [-1, 1], R a size that G makes.
        starts: ``[K, num_ws, w_dim]``.
        perceptual, config, sizes, callback: as for `optimise.invert`.

    Returns:
        The offset in place of ws. Ctrl-C ends the search, and its last result is returned.
    """
    config = config.with_defaults()
    steps = config.steps or 0
    prior = latent_prior(G)
    v = targets.new_zeros(1, G.num_ws, G.config.w_dim).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=config.lr, betas=(0.9, 0.999))
    pictures, goals = {}, {}
    for size in {*(size for _, size in sizes), targets.shape[-1]}:
        pictures[size] = F.interpolate(targets, size=(size, size), mode="area")
        with torch.no_grad():
            goals[size] = perceptual(pictures[size])
    result = Inversion(v.detach() @ prior.axes)
    try:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, config.lr)
            size = next((side for share, side in sizes if step < share * steps), targets.shape[-1])
            k = step % len(targets)
            ws = starts[k : k + 1] + v @ prior.axes
            image = G.synthesis(ws, noise_mode="const", resolution=size, dtype=config.torch_dtype)
            distance = (perceptual(image) - goals[size][k : k + 1]).square().sum()
            loss = distance + PIXEL_WEIGHT * pixel_distance(image, pictures[size][k : k + 1])
            apart = prior.whiten(ws)
            middle = apart.mean(dim=1, keepdim=True)
            loss = loss + PRIOR_WEIGHT * middle.square().mean() + SPREAD_WEIGHT * (apart - middle).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            result.ws = v.detach() @ prior.axes
            result.history.append(float(distance.detach()))
            if callback is not None:
                callback(Progress("w+", step + 1, steps, result.history[-1], image.detach()))
    except KeyboardInterrupt:
        result.interrupted = True
    return result

"""Perceptual path length: how much the picture changes for a small step of the latent (StyleGAN, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..models import Generator
from ..models.latents import slerp

EPSILON = 1e-4
PATHS = ("zfull", "wfull", "zend", "wend")


@torch.no_grad()
def path_distances(
    G: Generator,
    z: Tensor,
    t: Tensor,
    c: Tensor | None,
    distance: Callable[[Tensor, Tensor], Tensor],
    *,
    space: str = "w",
    psi: float = 1.0,
    epsilon: float = EPSILON,
) -> Tensor:
    """Distances of pictures at ``t`` and ``t + epsilon`` of the paths between latents, divided by ``epsilon`` squared.

    The networks run in float32 whatever they are configured for: in half precision the two pictures are too alike.

    Args:
        z: ``[2, N, z_dim]``: the beginning and the end of each path.
        t: ``[N]``, 0 to 1; 0 throughout for the "end" variants.
        c: ``[N, c_dim]`` labels, or None.
        distance: of two batches of pictures ``[N, C, R, R]``: ``[N]``, quadratic for small differences.
        space: "z" (great circles) or "w" (straight lines).
        psi: truncation; 1 in the papers.
        epsilon: length of the step, as a share of the path.

    Returns:
        ``[N]``.
    """
    exact = torch.float32 if z.device.type == "mps" else torch.float64  # mps has no float64
    t = t.to(exact)[:, None]
    twice = None if c is None else torch.cat([c, c])
    if space == "z":
        start, end = z.to(exact)
        ws = G.mapping(torch.cat([slerp(start, end, t), slerp(start, end, t + epsilon)]), twice, psi=psi)
    else:
        start, end = G.mapping(z.flatten(0, 1), twice, psi=psi).to(exact).chunk(2)
        t = t[:, :, None]
        ws = torch.cat([start.lerp(end, t), start.lerp(end, t + epsilon)])
    a, b = G.synthesis(ws, noise_mode="const", dtype=torch.float32).chunk(2)
    return distance(a, b) / epsilon**2


def path_length(distances: Tensor) -> float:
    """The mean of `path_distances` between the 1st and the 99th percentile, as published: ``[N] -> float``."""
    values = distances.double().cpu().numpy()
    low = np.percentile(values, 1, method="lower")
    high = np.percentile(values, 99, method="higher")
    return float(values[(values >= low) & (values <= high)].mean())

"""Pivotal tuning: move the weights of a generator until a latent shows a given picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ..features.perceptual import Perceptual
from ..models import Generator
from ..models.stylegan2 import is_noise_strength
from .optimise import Callback, Inversion, Progress, latent_prior, pixel_distance

PIXEL_WEIGHT = 2.0
COARSE = 64  # pixels: blocks up to this side hold who is seen; those above hold how it is painted
LATENT_LR = 0.02  # in units of the standard deviation of w over samples
PRIOR_SAMPLES = 2000


def tune(
    G: Generator,
    ws: Tensor,
    target: Tensor,
    perceptual: Perceptual,
    *,
    steps: int = 100,
    lr: float = 2e-3,
    stop: float | None = None,
    coarse: bool = False,
    heads_stay: bool = False,
    dtype: torch.dtype | None = None,
    callback: Callback | None = None,
) -> Inversion:
    """Pivotal tuning (Roich et al., arXiv 2106.05744): move the weights of ``G.synthesis`` until ws shows the target.

    As published the latent stays as it is, so other networks still do the same with it. The learning rate is several
    times the paper's 3e-4 and a pixel distance is added, because few steps are taken on a small network.

    With ``coarse`` only the blocks up to 64 px learn, and the latent moves a little with them. The finer blocks, where
    a cartoon network differs most from its base, then still get what they were trained on: lines stay crisp.

    Args:
        G: changed in place; its noise and mapping network are not touched.
        ws: ``[N, num_ws, w_dim]``; one picture, or several of one person.
        target: ``[N, C, R, R]`` in [-1, 1].
        perceptual: the distance that is minimised.
        steps: at most this many.
        lr: of Adam, for the weights.
        stop: perceptual distance at which to stop early; None = 0.06 for LPIPS as in the paper, 0 for other measures.
        coarse: only blocks up to 64 px and ws, not their torgb layers and not the strengths of the noise.
        heads_stay: leave the torgb layers as they are.
        dtype: precision of the four highest blocks; None = as the network is configured.
        callback: gets a `optimise.Progress` after every step. KeyboardInterrupt ends it and keeps its last result.

    Returns:
        ws, moved if ``coarse``, and the perceptual distance at every step.
    """
    if stop is None:
        stop = 0.06 if perceptual.name.startswith("lpips") else 0.0
    result = Inversion(ws)
    parameters = [p for name, p in G.synthesis.named_parameters() if learns(name, coarse, heads_stay)]
    for p in parameters:
        p.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=lr)
    offset = torch.zeros_like(ws[:1])  # all pictures share it
    axes = latent_prior(G, PRIOR_SAMPLES).axes if coarse else None
    if axes is not None:
        optimizer.add_param_group({"params": [offset.requires_grad_()], "lr": LATENT_LR})
    with torch.no_grad():
        goal = perceptual(target)
    try:
        for step in range(steps):
            moved = ws if axes is None else ws + offset @ axes
            image = G.synthesis(moved, noise_mode="const", resolution=target.shape[-1], dtype=dtype)
            distance = (perceptual(image) - goal).square().sum()
            result.history.append(distance.item())
            if callback is not None:
                callback(Progress("tune", step + 1, steps, result.history[-1], image.detach()))
            if result.history[-1] <= stop:
                break
            optimizer.zero_grad(set_to_none=True)
            pixels = (image - target).square().mean() + PIXEL_WEIGHT * pixel_distance(image, target, levels=3)
            (distance + pixels).backward()
            optimizer.step()
    except KeyboardInterrupt:
        result.interrupted = True
    for p in parameters:
        p.requires_grad_(False)
    if axes is not None:
        result.ws = (ws + offset @ axes).detach()
    return result


def learns(name: str, coarse: bool, heads_stay: bool = False) -> bool:
    """Whether tuning changes the parameter ``name`` of the synthesis network, as ``b8.conv0.weight``."""
    # A colour that only the torgb layers learn is lost when another network, or another head, shows the face.
    if ".torgb." in f".{name}" and (coarse or heads_stay):
        return False
    return not coarse or (int(name.split(".")[0][1:]) <= COARSE and not is_noise_strength(name))

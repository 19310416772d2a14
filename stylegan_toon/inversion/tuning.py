"""Pivotal tuning: move the weights of a generator until a latent shows a given picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features.perceptual import Perceptual
from ..models import Generator
from ..models.scaled import ScaledLinear
from ..models.stylegan2 import is_noise_strength
from .adam import Adam
from .muon import Muon
from .optimise import Callback, Inversion, Progress, latent_prior, pixel_distance
from .pace import Pace

PIXEL_WEIGHT = 2.0
COARSE = 64  # pixels: blocks up to this side hold who is seen; those above hold how it is painted
WEIGHT_LR, WEIGHT_LR_QUICK = 2e-3, 4e-3  # of Adam: by itself, and beside Muon
MATRIX_LR = 0.009  # of Muon, for the weights of 1x1 convolutions
FALL = 0.6  # share of tuning with Muon from which on the learning rates fall
LATENT_LR, LATENT_LR_QUICK = 0.02, 0.08  # in units of the standard deviation of w over samples
PRIOR_SAMPLES = 2000


def tune(
    G: Generator,
    ws: Tensor,
    target: Tensor,
    perceptual: Perceptual,
    *,
    steps: int = 100,
    lr: float | None = None,
    stop: float | None = None,
    coarse: bool = False,
    muon: bool = False,
    heads_stay: bool = False,
    dtype: torch.dtype | None = None,
    sizes: Sequence[tuple[float, int]] = (),
    seconds: float | None = None,
    plateau: float = 0.0,
    callback: Callback | None = None,
) -> Inversion:
    """Pivotal tuning (Roich et al., arXiv 2106.05744): move the weights of ``G.synthesis`` until ws shows the target.

    As published the latent stays as it is, so other networks still do the same with it. The learning rate is several
    times the paper's 3e-4 and a pixel distance is added, because few steps are taken on a small network.

    Where ``ws`` is one picture and the network of the mobile family, affine layers learn by their biases alone, to the
    same effect on the styles (`_learning_rates`).

    With ``coarse`` only the blocks up to 64 px learn, and the latent moves a little with them. The finer blocks, where
    a cartoon network differs most from its base, then still get what they were trained on: lines stay crisp. The
    weights of the mobile family's 1x1 convolutions can learn by `Muon`: a third of the steps come about as near.

    Args:
        G: changed in place; its noise and mapping network are not touched.
        ws: ``[N, num_ws, w_dim]``; one picture, or several of one person.
        target: ``[N, C, R, R]`` in [-1, 1].
        perceptual: the distance that is minimised.
        steps: at most this many.
        lr: of Adam, for the weights that it moves; None = 0.002, beside Muon 0.004.
        stop: perceptual distance at which to stop early; None = 0.06 for LPIPS as in the paper, 0 for other measures.
        coarse: only blocks up to 64 px and ws, not their torgb layers and not the strengths of the noise.
        muon: with ``coarse``, the 1x1 convolutions of the mobile family learn by `Muon`; learning rates are higher and
            fall at the end. Other networks have none, and Adam moves all.
        heads_stay: leave the torgb layers as they are.
        dtype: precision of the four highest blocks; None = as the network is configured.
        sizes: smaller pictures to compare first, see `optimise.invert`.
        seconds: wall-clock time that it may take, see `pace.Pace`; None = no limit.
        plateau: stop once ten steps bring the mean distance down by less than this share; 0 = never.
        callback: gets a `optimise.Progress` after every step. KeyboardInterrupt ends it and keeps its last result.

    Returns:
        ws, moved if ``coarse``, and the perceptual distance at every step.
    """
    if stop is None:
        stop = 0.06 if perceptual.name.startswith("lpips") else 0.0
    result = Inversion(ws)
    rates = _learning_rates(G, ws, coarse, heads_stay)
    named = dict(G.synthesis.named_parameters())
    matrices = [named[name] for name in rates if coarse and muon and ".pointwise." in name]
    quick = bool(matrices)
    if lr is None:
        lr = WEIGHT_LR_QUICK if quick else WEIGHT_LR
    learning: list[tuple[Tensor, float]] = [
        (named[name], lr * rate) for name, rate in rates.items() if not quick or ".pointwise." not in name
    ]
    offset = torch.zeros_like(ws[:1])  # all pictures share it
    axes = latent_prior(G, PRIOR_SAMPLES).axes if coarse else None
    if axes is not None:
        learning.append((offset, LATENT_LR_QUICK if quick else LATENT_LR))
    leaves = [*matrices, *(tensor for tensor, _ in learning)]
    for tensor in leaves:
        tensor.requires_grad_()
    optimizers = [Adam(learning), Muon(matrices, MATRIX_LR)]
    targets, goals = {}, {}
    for size in {*(size for _, size in sizes), target.shape[-1]}:
        targets[size] = F.interpolate(target, size=(size, size), mode="area")
        with torch.no_grad():
            goals[size] = perceptual(targets[size])
    pace = Pace(steps, seconds, plateau=plateau, milestones=[*(share for share, _ in sizes), FALL if quick else 1.0])
    try:
        for share in pace:
            size = next((side for until, side in sizes if share < until), target.shape[-1])
            moved = ws if axes is None else ws + offset @ axes
            image = G.synthesis(moved, noise_mode="const", resolution=size, dtype=dtype)
            distance = (perceptual(image) - goals[size]).square().sum()
            result.history.append(distance.item())
            if result.history[-1] > stop:
                near = targets[size]
                pixels = (image - near).square().mean() + PIXEL_WEIGHT * pixel_distance(image, near, levels=3)
                (distance + pixels).backward()
                scale = falling(share, pace.done) if quick else 1.0
                for optimizer in optimizers:
                    optimizer.step(scale)
            pace.record(result.history[-1])
            if callback is not None:
                callback(Progress("tune", pace.done, pace.planned, result.history[-1], image.detach()))
            if result.history[-1] <= stop:
                break
    except KeyboardInterrupt:
        result.interrupted = True
    for tensor in leaves:
        tensor.requires_grad_(False)
    if axes is not None:
        result.ws = (ws + offset @ axes).detach()
    return result


def falling(share: float, done: int) -> float:
    """Share of the learning rates of tuning with Muon: half in the first step, a tenth at the end of the last 40 %."""
    return (1.0 if done else 0.5) * (1 - 0.9 * max(0.0, (share - FALL) / (1 - FALL)))


def _learning_rates(G: Generator, ws: Tensor, coarse: bool, heads_stay: bool) -> dict[str, float]:
    """The parameters of the synthesis network that tuning changes, and their share of its learning rate."""
    rates = {name: 1.0 for name, _ in G.synthesis.named_parameters() if learns(name, coarse, heads_stay)}
    if len(ws) > 1:
        return rates
    # With one w the gradient of an affine layer's weights is that of its bias times w, so Adam moves the style W w + b
    # as far as the bias alone does at a rate of 1 + |w|_1, and most of what would learn need not.
    length = float(ws.abs().sum(dim=2).mean())
    modules = dict(G.synthesis.named_modules())
    for name in list(rates):
        layer, _, parameter = name.rpartition(".weight.")
        module = modules.get(layer)
        if parameter == "value" and isinstance(module, ScaledLinear):
            del rates[name]
            rates[f"{layer}.bias.value"] = 1 + length * float(module.weight.gain / module.bias.gain)
    return rates


def learns(name: str, coarse: bool, heads_stay: bool = False) -> bool:
    """Whether tuning changes the parameter ``name`` of the synthesis network, as ``b8.conv0.weight``."""
    # A colour that only the torgb layers learn is lost when another network, or another head, shows the face.
    if ".torgb." in f".{name}" and (coarse or heads_stay):
        return False
    return not coarse or (int(name.split(".")[0][1:]) <= COARSE and not is_noise_strength(name))

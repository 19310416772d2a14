"""Inversion: the latent, the noise and, on request, the weights with which a generator shows a given picture.

The schedules and the noise regularisation are those of StyleGAN2's projector (Karras et al., "Analyzing and
Improving the Image Quality of StyleGAN", arXiv 1912.04958, appendix D).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..features.perceptual import Perceptual
from ..models import Generator
from ..models.accelerate import accelerate as accelerated
from .config import InversionConfig
from .pace import FALL, Pace

NOISE_WEIGHT = 1e5  # appendix D: alpha
PIXEL_WEIGHT = 0.4
PRIOR_WEIGHT = 0.01
SPREAD_WEIGHT = 0.02
KEPT_PRIORS = 4


def learning_rate(step: float, steps: float, initial: float = 0.1) -> float:
    """Learning rate at ``step`` of ``steps``: linear rise over the first 5 %, half-cosine fall over the last 25 %."""
    t = step / steps
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / (1 - FALL)))
    return initial * min(1.0, t / 0.05) * down


def w_noise_scale(step: float, steps: float, w_std: float) -> float:
    """Standard deviation of the noise added to w: 5 % of ``w_std``, falling quadratically to 0 at 75 % of the steps."""
    return w_std * 0.05 * max(0.0, 1 - step / steps / 0.75) ** 2


def noise_regularization(maps: Sequence[Tensor]) -> Tensor:
    """Squared autocorrelation of noise maps ``[H, H]`` at a shift of one pixel, summed over a pyramid down to 8x8.

    Keeps the noise from carrying the picture (equation 6). The paper doubles each smaller map to keep its
    variance; the published code, followed here, does not.
    """
    total = maps[0].new_zeros(())
    for noise in maps:
        x = noise[None, None]
        while True:
            for dim in (2, 3):
                total = total + (x * x.roll(1, dims=dim)).mean().square()
            if x.shape[2] <= 8:
                break
            x = F.avg_pool2d(x, 2)
    return total


def normalize_(maps: Sequence[Tensor]) -> None:
    """Give every map zero mean and unit mean square, in place."""
    with torch.no_grad():
        for noise in maps:
            noise -= noise.mean()
            noise *= noise.square().mean().rsqrt()


def noise_maps(G: Generator) -> dict[str, Tensor]:
    """The constant noise ``[R, R]`` of every layer that has one, by its name in the synthesis network."""
    return {name: buffer for name, buffer in G.synthesis.named_buffers() if name.endswith("noise_const")}


@dataclass(frozen=True)
class LatentPrior:
    """The distribution of w: mean and covariance of 10,000 samples of the mapping network.

    Attributes:
        mean: ``[w_dim]``.
        std: root mean squared distance from the mean (one number for the whole vector, as in appendix D).
        axes: ``[w_dim, w_dim]``; ``v @ axes`` turns unit-variance coordinates into an offset from the mean.
        inverse: the inverse of ``axes``, damped in directions of almost no variance.
    """

    mean: Tensor
    std: float
    axes: Tensor
    inverse: Tensor

    def whiten(self, w: Tensor) -> Tensor:
        """``[..., w_dim]`` -> coordinates that are uncorrelated and of unit variance over samples."""
        return (w - self.mean) @ self.inverse

    def color(self, v: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        return self.mean + v @ self.axes


def latent_prior(G: Generator, samples: int = 10000) -> LatentPrior:
    """Sample the mapping network with the projector's fixed seed 123; kept for the next face."""
    content = hashlib.blake2b(digest_size=16)
    for tensor in G.mapping.state_dict().values():
        content.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    key = content.hexdigest(), samples, G.mapping.w_avg.device
    if key not in _priors:
        if len(_priors) >= KEPT_PRIORS:
            _priors.pop(next(iter(_priors)))
        _priors[key] = _sampled_prior(G, samples)
    return _priors[key]


_priors: dict[tuple[str, int, torch.device], LatentPrior] = {}  # 2 MB each at a w_dim of 512


@torch.no_grad()
def _sampled_prior(G: Generator, samples: int) -> LatentPrior:
    device = G.mapping.w_avg.device
    z = torch.from_numpy(np.random.RandomState(123).randn(samples, G.config.z_dim)).float()
    w = torch.cat([G.mapping(part.to(device))[:, 0] for part in z.split(1000)])
    mean = w.mean(dim=0)
    centred = (w - mean).double().cpu()
    values, vectors = torch.linalg.eigh(centred.T @ centred / samples)
    scale = values.clamp(min=float(values[-1]) * 1e-6).sqrt()
    return LatentPrior(
        mean=mean,
        std=float((w - mean).square().sum(dim=1).mean().sqrt()),
        axes=(scale[:, None] * vectors.T).float().to(device),
        inverse=(vectors / scale).float().to(device),
    )


def pixel_distance(a: Tensor, b: Tensor, levels: int = 4) -> Tensor:
    """Mean absolute difference of ``[N, C, R, R]`` averaged over a pyramid of ``levels`` halvings."""
    total = a.new_zeros(())
    for _ in range(levels):
        total = total + (a - b).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total / levels


@dataclass
class Progress:
    """The state of a search or of tuning, given to the callback after every step.

    Attributes:
        stage: "w", "w+" or "tune".
        step, steps: of this run; with a time budget ``steps`` is how many it will be as far as can be told now.
        distance: perceptual distance of the current pictures to their targets, the mean of them.
        image: the current pictures ``[N, C, R, R]``.
        first: which one of the pictures that were given the first of them is.
    """

    stage: str
    step: int
    steps: int
    distance: float
    image: Tensor
    first: int = 0


Callback = Callable[[Progress], object]


@dataclass
class Inversion:
    """Latents ``[N, num_ws, w_dim]``, and the perceptual distance at every step that led to them."""

    ws: Tensor
    history: list[float] = field(default_factory=list)
    interrupted: bool = False


def invert(
    G: Generator,
    target: Tensor,
    perceptual: Perceptual,
    config: InversionConfig | None = None,
    *,
    start: Tensor | None = None,
    noise: bool = True,
    sizes: Sequence[tuple[float, int]] = (),
    callback: Callback | None = None,
) -> Inversion:
    """Find ws and noise with which ``G`` shows ``target``.

    "w" is the published projector: one w from the mean, noise on w that dies away, perceptual distance only.
    "w+" starts the same way and, from a third of the steps on, lets every layer have a w of its own. It works in
    whitened coordinates, adds a pixel distance at several scales, and pulls w towards where samples lie and the
    layers towards each other, because a latent far from both does not survive the change to another network.

    Args:
        G: gradients of its parameters must be off. Its noise is overwritten with the noise of the search.
        target: ``[N, C, R, R]`` in [-1, 1], R a size that G makes; N = 1 unless ``noise`` is off. Several pictures are
            searched in one pass of the network, each as if it were alone.
        perceptual: the distance that is minimised, on the device of ``G``.
        config: how to search; its tuning and ``features`` are not used here. None = the defaults. ``time_budget``
            counts for each picture, and a plateau is one of their mean distance.
        start: ws ``[N, num_ws, w_dim]`` near the target, used in "w+" only: the search begins there, with a w for every
            layer from the first step on and without noise on w. None = the mean.
        noise: search for the noise, too; otherwise the noise of ``G`` stays.
        sizes: pairs of (share of the steps until which it is used, side of the pictures that are compared), in rising
            order, sides that G makes: a small picture costs a fraction of a large one. R afterwards.
        callback: gets a `Progress` after every step. KeyboardInterrupt ends the search and keeps its last result.

    Returns:
        The latents, and the perceptual distance at every step (the mean of the pictures).

    Raises:
        ValueError: several pictures and ``noise``: the network has one noise for all.
    """
    config = (config or InversionConfig()).with_defaults()
    steps, lr, accelerate, dtype = config.steps or 0, config.lr, config.accelerate, config.torch_dtype
    count, plus = len(target), config.space == "w+"
    if noise and count > 1:
        raise ValueError("noise is searched for one picture at a time")
    prior = latent_prior(G)
    maps = list(noise_maps(G).values()) if noise else []
    random = torch.Generator().manual_seed(config.seed)
    for one in maps:
        one.copy_(torch.randn(one.shape, generator=random)).requires_grad_()
    begin, near = target.new_zeros(count, G.num_ws, G.config.w_dim), False
    if plus and start is not None:
        begin, near = prior.whiten(start.to(target.device)), True
    v = begin.mean(dim=1, keepdim=True).requires_grad_()
    apart = (begin - v).detach().requires_grad_(plus)
    # CUDA graphs replay a step with the numbers of its recording, so the learning rate has to be a tensor.
    graphs = target.is_cuda and accelerate in ("auto", "graphs")
    rate = torch.tensor(lr, device=target.device) if graphs else lr
    optimizer = torch.optim.Adam([v, *maps, *([apart] if plus else [])], lr=rate, betas=(0.9, 0.999), capturable=graphs)
    synthesise = accelerated(G.synthesis, accelerate if accelerate == "compile" else "off")
    targets, goals = {}, {}
    for size in {*(size for _, size in sizes), target.shape[-1]}:
        targets[size] = F.interpolate(target, size=(size, size), mode="area")
        with torch.no_grad():
            goals[size] = perceptual(targets[size])

    def advance(jitter: Tensor, wide: bool, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the optimiser; perceptual distance, picture and ws as they were before it."""
        ws = prior.color(v + apart) if plus else (prior.mean + v).expand(-1, G.num_ws, -1)
        image = synthesise(ws + jitter, noise_mode="const", resolution=size, dtype=dtype)
        distance = (perceptual(image) - goals[size]).square().sum()
        loss = distance + NOISE_WEIGHT * noise_regularization(maps) if maps else distance
        if plus:  # the sum over the pictures, whose gradients do not meet
            loss = loss + count * PIXEL_WEIGHT * pixel_distance(image, targets[size])
            loss = loss + count * (PRIOR_WEIGHT * v.square().mean() + SPREAD_WEIGHT * apart.square().mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not wide:
            apart.grad = None  # Adam skips parameters without a gradient: one w for all layers so far
        optimizer.step()
        normalize_(maps)
        return distance.detach() / count, image.detach(), ws.detach()

    advance = accelerated(advance, "off" if accelerate == "compile" else accelerate)
    widening = 0.0 if near or not plus or not steps else steps // 3 / steps
    pace = Pace(
        steps, None if config.time_budget is None else count * config.time_budget, plateau=config.plateau,
        milestones=[widening, *(share for share, _ in sizes), FALL],
    )  # fmt: skip
    result = Inversion(prior.color(begin) if plus else prior.mean.expand(count, G.num_ws, -1).clone())
    try:
        for share in pace:
            for group in optimizer.param_groups:
                now = learning_rate(share, 1, lr)
                group["lr"] = group["lr"].fill_(now) if graphs else now
            wide = plus and share >= widening
            scale = 0.0 if near else w_noise_scale(share, 1, prior.std)
            jitter = torch.randn((1, 1, G.config.w_dim), generator=random).to(v.device) * scale
            size = next((side for until, side in sizes if share < until), target.shape[-1])
            distance, image, result.ws = advance(jitter, wide, size)
            result.history.append(distance.item())
            pace.record(result.history[-1])
            if callback is not None:
                stage = config.space if wide else "w"
                callback(Progress(stage, pace.done, pace.planned, result.history[-1], image))
    except KeyboardInterrupt:
        result.interrupted = True
    for one in maps:
        one.requires_grad_(False)
    return result

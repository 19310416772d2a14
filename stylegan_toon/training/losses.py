"""The losses of StyleGAN2 as pure functions (Karras et al. 2020, arXiv 1912.04958; Mescheder et al. 2018, 1801.04406).

All return one number for each sample, so that a batch can be cut into parts: the loss is the mean over the whole batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features.projected import ProjectedDiscriminator
from ..models import Discriminator, Generator
from ..ops.conv3x3 import no_weight_gradients

AnyDiscriminator = Discriminator | ProjectedDiscriminator


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating: ``-log sigmoid(D(G(z)))``, the mean over P patches. ``[N, P] -> [N]``."""
    return F.softplus(-fake_logits).mean(dim=1)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic: ``-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))``, the mean over P patches. ``[N, P] -> [N]``."""
    return (F.softplus(fake_logits) + F.softplus(-real_logits)).mean(dim=1)


def r1_penalty(real_logits: Tensor, real_img: Tensor) -> Tensor:
    """Squared gradient norm of the mean scores of real pictures: ``[N, P], [N, C, H, W] -> [N]``.

    ``real_img`` must require a gradient. The loss is ``gamma / 2`` times its mean.
    """
    with no_weight_gradients():
        (grad,) = torch.autograd.grad(real_logits.mean(dim=1).sum(), real_img, create_graph=True)
    return grad.square().sum(dim=(1, 2, 3))


def path_lengths(img: Tensor, ws: Tensor, *, create_graph: bool = True) -> Tensor:
    """How far a picture moves for a step in w: ``|J_w^T y|`` for a random picture y (StyleGAN2, section 3.2, eq. 4).

    Args:
        img: ``synthesis(ws)``, ``[N, C, H, W]``, with its graph.
        ws: ``[N, num_ws, w_dim]``, requiring a gradient.
        create_graph: whether the lengths will be differentiated.

    Returns:
        lengths ``[N]``.
    """
    noise = torch.randn_like(img) / math.sqrt(img.shape[2] * img.shape[3])
    with no_weight_gradients():
        (grad,) = torch.autograd.grad((img * noise).sum(), ws, create_graph=create_graph)
    return grad.square().sum(dim=2).mean(dim=1).sqrt()


class PathLength:
    """Path length regularisation: the squared distance of lengths from their running mean (StyleGAN2, section 3.2).

    Args:
        device: of the lengths.
        decay: weight of a batch in the running mean.

    Attributes:
        state: the running mean, a scalar tensor; save and restore it to continue a training exactly.
    """

    def __init__(self, device: torch.device | str = "cpu", decay: float = 0.01) -> None:
        self.state = torch.zeros([], device=device)
        self._batch = self.state.clone()
        self.decay = decay

    def move(self, lengths: Tensor) -> None:
        """Move the mean towards that of the lengths of the whole batch, ``[M]``."""
        self._batch = lengths.detach().mean()
        self.state.lerp_(self._batch, self.decay)

    def penalty(self, lengths: Tensor) -> Tensor:
        """Squared distance from the mean, ``[N] -> [N]``, for any part of the batch that `move` was called with."""
        away = lengths - self.state
        # The mean holds this batch's lengths with weight `decay`, and published training differentiates that too.
        # For a part of the batch that is a term whose value is zero and whose gradient is the right one.
        through_mean = 2 * self.decay * (self._batch - self.state) * (lengths - lengths.detach())
        return away.square() - through_mean


def mixed_ws(G: Generator, z: Tensor, c: Tensor | None, probability: float) -> Tensor:
    """Map ``z`` and, with ``probability``, take the ws from a random layer on from a second latent.

    Style mixing (StyleGAN, section 3.1); one choice for the batch. ``ws[:, 0]`` is always the w of ``z`` itself.
    Returns ``[N, num_ws, w_dim]``.
    """
    ws = G.mapping(z, c)
    if probability > 0 and torch.rand([]) < probability:
        cutoff = int(torch.randint(1, ws.shape[1], []))
        ws = torch.cat([ws[:, :cutoff], G.mapping(torch.randn_like(z), c)[:, cutoff:]], dim=1)
    return ws


def score(D: AnyDiscriminator, img: Tensor, c: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
    """D's scores ``[N, P]``, with groups of the minibatch deviation made of consecutive samples.

    The network itself makes a group of every ``N / group``-th sample, so the groups would depend on N: on how the
    batch is cut up.
    """
    n = len(img)
    group = min(D.config.mbstd_group_size or n, n)
    order = torch.arange(n, device=img.device).view(-1, group).t().flatten()
    logits = D(img[order], c if c is None else c[order], dtype)
    return logits[order.argsort()]


def scores(
    D: AnyDiscriminator, real: Tensor, fake: Tensor, c: Tensor | None, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """`score` of real and generated pictures with the same labels, ``[N, P]`` each.

    In one pass, which is faster, where no group of the minibatch deviation would hold pictures of both.
    """
    group = D.config.mbstd_group_size
    if group is None or len(real) % group:
        return score(D, real, c, dtype), score(D, fake, c, dtype)
    both = score(D, torch.cat([real, fake]), c if c is None else c.repeat(2, 1), dtype)
    return both[: len(real)], both[len(real) :]

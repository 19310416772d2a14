"""The StyleGAN2 training losses as pure functions (Karras et al. 2020, sections 3 and 4; Mescheder et al. 2018)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..nn import Generator


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating: mean of ``-log sigmoid(D(G(z)))``. ``[N, 1] -> []``."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic: mean of ``-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))``. ``[N, 1], [N, 1] -> []``."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def r1_penalty(real_logits: Tensor, real_img: Tensor) -> Tensor:
    """Squared gradient norm of the scores of real pictures: ``[N, 1], [N, C, H, W] -> [N]``.

    ``real_img`` must require a gradient. The loss is ``gamma / 2`` times its mean.
    """
    (grad,) = torch.autograd.grad(real_logits.sum(), real_img, create_graph=True)
    return grad.square().sum(dim=(1, 2, 3))


class PathLength:
    """Path length regularisation, with the running mean of the lengths (StyleGAN2, section 3.2).

    ``state`` is a scalar tensor; save and restore it to continue a training exactly.
    """

    def __init__(self, device: torch.device | str = "cpu", decay: float = 0.01) -> None:
        self.state = torch.zeros([], device=device)
        self.decay = decay

    def __call__(self, img: Tensor, ws: Tensor) -> Tensor:
        """``img = synthesis(ws)`` with a graph: ``[N, C, H, W], [N, num_ws, w_dim] -> [N]`` penalties."""
        noise = torch.randn_like(img) / math.sqrt(img.shape[2] * img.shape[3])
        (grad,) = torch.autograd.grad((img * noise).sum(), ws, create_graph=True)
        lengths = grad.square().sum(dim=2).mean(dim=1).sqrt()
        mean = self.state.lerp(lengths.mean(), self.decay)
        self.state.copy_(mean.detach())
        return (lengths - mean).square()


def mixed_ws(G: Generator, z: Tensor, c: Tensor | None, probability: float) -> Tensor:
    """Map ``z`` and, with ``probability``, take the ws from a random layer on from a second latent.

    Style mixing (StyleGAN, section 3.1). Moves ``w_avg``. Returns ``[N, num_ws, w_dim]``.
    """
    ws = G.mapping(z, c, update_w_avg=True)
    if probability > 0 and torch.rand([]) < probability:
        cutoff = int(torch.randint(1, ws.shape[1], []))
        ws = torch.cat([ws[:, :cutoff], G.mapping(torch.randn_like(z), c)[:, cutoff:]], dim=1)
    return ws

"""XGAN's losses (arXiv 1711.05139, section 3). Embeddings are ``[N, E]`` of unit length; every loss is a scalar."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gradient,) = grad_outputs
        return -ctx.strength * gradient, None


def reverse_gradient(x: Tensor, strength: float = 1.0) -> Tensor:
    """``x`` itself; its gradient is multiplied by ``-strength`` (Ganin et al., arXiv 1505.07818, section 4.2)."""
    return _Reverse.apply(x, strength)


def reversal_strength(share: float) -> float:
    """Strength of the reversal after ``share`` of the training, from 0 to 1 (the same, section 5.2.2)."""
    return 2 / (1 + math.exp(-10 * share)) - 1


def reconstruction_loss(generated: Tensor, img: Tensor) -> Tensor:
    """Mean squared distance of a picture to itself after encoding and decoding."""
    return F.mse_loss(generated, img)


def domain_loss(logits: Tensor, domain: int) -> Tensor:
    """Cross-entropy of telling the domain of embeddings, 0 or 1; positive logits say 1."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


def semantic_loss(before: Tensor, after: Tensor) -> Tensor:
    """L1 distance of the embeddings of a picture (``before``) and of its translation; see `embedding_distance`.

    No gradient reaches ``before``; with one, the loss would be smallest where all embeddings are equal.
    """
    return embedding_distance(after, before.detach())


def embedding_distance(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance, averaged over the batch, divided by sqrt(E): about 1.1 for unrelated embeddings of any length E."""
    return (a - b).abs().sum(1).mean() / a.shape[1] ** 0.5


def adversarial_loss(scores: Tensor, real: bool) -> Tensor:
    """Non-saturating cross-entropy of scores; ``real`` is what they should say."""
    return F.softplus(-scores if real else scores).mean()


def teacher_loss(embedding: Tensor, taught: Tensor) -> Tensor:
    """L1 distance to a teacher's embedding of the same face, see `embedding_distance`.

    Args:
        embedding: of faces.
        taught: a teacher's, ``[N, T]`` of unit length with T up to E; the first T entries are compared.
    """
    head = F.normalize(embedding[:, : taught.shape[1]], dim=1)
    return embedding_distance(head, taught)

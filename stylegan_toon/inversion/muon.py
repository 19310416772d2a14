"""Muon, an optimiser for matrices: a step moves all directions of a matrix alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Quintic Newton-Schulz iterations x -> a x + b x^3 + c x^5 on singular values. These three bring all from 0.01 to 1 to
# between 0.38 and 1.25, which is near enough for an optimiser.
ITERATIONS = ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037))


def orthogonalize(matrix: Tensor) -> Tensor:
    """``U V'`` of the singular value decomposition ``U S V'`` of a matrix, about: by products of matrices alone.

    Args:
        matrix: of any two sides; directions with less than a hundredth of its norm come out shorter.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-12)
    for a, b, c in ITERATIONS:
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.T


class Muon:
    """Nesterov momentum whose sum is made orthogonal: the singular values of a step are all about the same.

    The gradients of one picture have few large directions. Adam follows those; here the small ones count as much, and
    a third of the steps lead as far.

    Args:
        tensors: leaves that learn, each read as a matrix: its first axis by all others.
        lr: singular values of a step, over the square root of the longer side of the matrix: as those of the weights
            themselves grow with it.
        momentum: share of the sum of gradients that the next step keeps.
    """

    def __init__(self, tensors: Sequence[Tensor], lr: float, momentum: float = 0.9) -> None:
        self._tensors = [(tensor, torch.zeros_like(tensor)) for tensor in tensors]
        self._lr, self._momentum = lr, momentum

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Move every tensor by its gradient, with ``scale`` times the learning rate, and drop the gradient."""
        for tensor, total in self._tensors:
            if tensor.grad is None:
                raise ValueError("a tensor that learns has no gradient")
            total.mul_(self._momentum).add_(tensor.grad)
            ahead = (tensor.grad + self._momentum * total).flatten(1)
            length = scale * self._lr * max(ahead.shape) ** 0.5
            tensor.sub_(orthogonalize(ahead).view_as(tensor), alpha=length)
            tensor.grad = None

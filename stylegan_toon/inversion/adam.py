"""Adam for a handful of tensors, without the imports of `torch.optim`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba 2014, arXiv 1412.6980), the same as `torch.optim.Adam` with a learning rate for each tensor.

    PyTorch's own imports torch._dynamo and sympy when it is made: seconds that a short run would mostly wait for.

    Args:
        tensors: pairs of a leaf that learns and its learning rate.
        betas, eps: as in the paper.
    """

    def __init__(
        self, tensors: Sequence[tuple[Tensor, float]], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self._tensors = [(t, lr, torch.zeros_like(t), torch.zeros_like(t)) for t, lr in tensors]
        self._betas, self._eps, self._steps = betas, eps, 0

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Move every tensor by its gradient, with ``scale`` times its learning rate, and drop the gradient."""
        self._steps += 1
        first, second = (1 - beta**self._steps for beta in self._betas)
        for tensor, lr, mean, square in self._tensors:
            if tensor.grad is None:
                raise ValueError("a tensor that learns has no gradient")
            mean.lerp_(tensor.grad, 1 - self._betas[0])
            square.mul_(self._betas[1]).addcmul_(tensor.grad, tensor.grad, value=1 - self._betas[1])
            tensor.addcdiv_(mean, (square / second).sqrt_().add_(self._eps), value=-scale * lr / first)
            tensor.grad = None

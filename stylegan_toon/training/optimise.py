"""One optimiser step over the global batch, however it is cut up into parts and among processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ..distributed import ProcessGroup
from ..errors import ToonError

Losses = dict[str, Tensor]  # each [N, ...], one row a sample; the mean of "loss" is minimised
IN_CACHE = 1 << 18  # numbers that a CPU checks while they are in its cache
PATIENCE = 100  # updates in a row with gradients that are not finite, before the training ends


class NetworkOptimizer:
    """A network with its optimiser.

    Attributes:
        broken: how many updates in a row had gradients that were not finite, a scalar tensor.
    """

    def __init__(self, name: str, network: nn.Module, optimizer: torch.optim.Optimizer, group: ProcessGroup) -> None:
        self.name, self.network, self.optimizer, self.group = name, network, optimizer, group
        self.broken = torch.zeros([], device=next(network.parameters()).device)
        self._flat = self.broken.new_empty(0)  # kept: fresh pages for all gradients would be a cost of every update

    def update(self, total: int, parts: Iterable[range], losses: Callable[[range], Losses]) -> Losses:
        """One step down the gradient of the mean of ``losses(rows)["loss"]`` over all ``total`` samples.

        Gradients are added up over the parts and then over the processes. Entries that are not finite are replaced as
        published (nan -> 0, infinities -> +-1e5).

        Args:
            total: samples of the global batch.
            parts: rows of the global batch that are this process's, at least one.
            losses: computes those of some rows.

        Returns:
            the losses of the whole batch, ``[total, ...]``, the same in all processes; and ``"nonfinite"``, how many
            entries of the gradient were not finite.
        """
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer.zero_grad(set_to_none=True)
        batch: Losses = {}
        for rows in parts:
            part = losses(rows)
            (part["loss"].sum() / total).backward()
            for name, value in part.items():
                whole = batch.setdefault(name, value.new_zeros((total, *value.shape[1:])))
                whole[rows.start : rows.stop] = value.detach()
        # A parameter that had no part in this loss gets a gradient of zero, which moves Adam's moments, as published.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        everything = [tensor.reshape(-1).float() for tensor in (*grads, *batch.values())]
        flat = self._flat = torch.cat(everything, out=self._flat.resize_(sum(tensor.numel() for tensor in everything)))
        self.group.sum(flat)
        *pieces, rest = flat.split([p.numel() for p in trained] + [sum(v.numel() for v in batch.values())])
        gradient = flat[: flat.numel() - rest.numel()]
        at_once = IN_CACHE if gradient.is_cpu else gradient.numel()  # on a GPU every part would be another launch
        bad = torch.stack([(~part.isfinite()).sum() for part in gradient.split(at_once)]).sum()
        self.broken = (self.broken + 1) * (bad > 0)
        torch.nan_to_num(gradient, nan=0, posinf=1e5, neginf=-1e5, out=gradient)
        for parameter, piece in zip(trained, pieces):
            parameter.grad = piece.view_as(parameter)
        self.optimizer.step()
        values = rest.clone().split([v.numel() for v in batch.values()])
        return {**{k: v.view_as(batch[k]) for k, v in zip(batch, values)}, "nonfinite": bad.float()}

    def refuse_broken(self) -> None:
        """Raise ToonError when the gradients have not been finite for too long."""
        if self.broken >= PATIENCE:
            raise ToonError(
                f"The last {int(self.broken)} gradients of {self.name} were not finite, so the training has diverged: "
                "go on from an earlier snapshot with a smaller --lr or --gamma, or with --dtype float32."
            )


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the parameters of ``network`` in this context."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@torch.no_grad()
def update_average(average: nn.Module, current: nn.Module, beta: float, *, average_buffers: bool = False) -> None:
    """``average = beta * average + (1 - beta) * current`` for all parameters; buffers are copied.

    Args:
        average: the moving average of the network, changed in place.
        current: the network as it is now.
        beta: share that the average keeps of itself, 0 to 1.
        average_buffers: average floating-point buffers too, as the statistics of batch norms must be, which belong to
            the weights they were taken with.
    """
    for mean, new in zip(average.parameters(), current.parameters()):
        mean.lerp_(new, 1 - beta)
    for mean, new in zip(average.buffers(), current.buffers()):
        mean.lerp_(new, 1 - beta) if average_buffers and mean.is_floating_point() else mean.copy_(new)


def adam(network: nn.Module, lr: float, interval: int | None) -> torch.optim.Adam:
    """Adam for a network that is regularised every ``interval`` steps.

    Regularisation takes (i + 1) / i as many optimiser steps; rate and betas are corrected so that what a picture
    changes stays the same (StyleGAN2, appendix B).
    """
    ratio = 1.0 if interval is None else interval / (interval + 1)
    return torch.optim.Adam(network.parameters(), lr=lr * ratio, betas=(0.0, 0.99**ratio), eps=1e-8)

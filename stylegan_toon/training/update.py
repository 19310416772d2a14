"""One optimiser step over the global batch, however it is cut up into parts and among processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ..distributed import Team
from ..errors import ToonError

Terms = dict[str, Tensor]  # each [N, ...], one row a sample; the mean of "loss" is what is learnt from
IN_CACHE = 1 << 18  # numbers that a CPU looks at while they are in its cache
PATIENCE = 100  # updates in a row whose gradients are not finite, before it is told


class Learner:
    """A network with its optimiser.

    Attributes:
        broken: how many updates in a row had gradients that were not finite, a scalar tensor.
    """

    def __init__(self, name: str, network: nn.Module, optimizer: torch.optim.Optimizer, team: Team) -> None:
        self.name, self.network, self.optimizer, self.team = name, network, optimizer, team
        self.broken = torch.zeros([], device=next(network.parameters()).device)
        self._flat = self.broken.new_empty(0)  # kept: fresh pages for all gradients would be a cost of every update

    def update(self, total: int, parts: Iterable[range], terms: Callable[[range], Terms]) -> Terms:
        """Follow the gradient of the mean of ``terms(rows)["loss"]`` over all ``total`` samples.

        Gradients are added up over the parts and then over the processes. What is not finite is made so as
        published (nan -> 0, infinities -> +-1e5).

        Args:
            parts: rows of the global batch that are this process's, at least one.
            terms: computes some of them.

        Returns:
            the terms of the whole batch, ``[total, ...]``, the same in all processes; and ``"nonfinite"``, how many
            entries of the gradient were not finite.
        """
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer.zero_grad(set_to_none=True)
        seen: Terms = {}
        for rows in parts:
            found = terms(rows)
            (found["loss"].sum() / total).backward()
            for name, value in found.items():
                everywhere = seen.setdefault(name, value.new_zeros((total, *value.shape[1:])))
                everywhere[rows.start : rows.stop] = value.detach()
        # A parameter that had no part in this loss gets a gradient of zero, which Adam's moments notice, as published.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        everything = [tensor.reshape(-1).float() for tensor in (*grads, *seen.values())]
        flat = self._flat = torch.cat(everything, out=self._flat.resize_(sum(tensor.numel() for tensor in everything)))
        self.team.sum(flat)
        *pieces, rest = flat.split([p.numel() for p in trained] + [sum(v.numel() for v in seen.values())])
        gradient = flat[: flat.numel() - rest.numel()]
        at_once = IN_CACHE if gradient.is_cpu else gradient.numel()  # on a GPU every part would be another launch
        bad = sum((~part.isfinite()).sum() for part in gradient.split(at_once))
        self.broken = (self.broken + 1) * (bad > 0)
        torch.nan_to_num(gradient, nan=0, posinf=1e5, neginf=-1e5, out=gradient)
        for parameter, piece in zip(trained, pieces):
            parameter.grad = piece.view_as(parameter)
        self.optimizer.step()
        values = rest.clone().split([v.numel() for v in seen.values()])
        return {**{k: v.view_as(seen[k]) for k, v in zip(seen, values)}, "nonfinite": bad.float()}

    def refuse_broken(self) -> None:
        """Raise ToonError when the gradients have not been finite for too long."""
        if self.broken >= PATIENCE:
            raise ToonError(
                f"The last {int(self.broken)} gradients of {self.name} were not finite, so nothing is learnt any more: "
                "go on from an earlier snapshot with a smaller --lr or --gamma, or with --dtype float32."
            )


@contextlib.contextmanager
def untrained(network: nn.Module) -> Iterator[None]:
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
def follow(average: nn.Module, current: nn.Module, beta: float, *, with_buffers: bool = False) -> None:
    """``average`` keeps the share ``beta`` of its parameters and takes the rest from ``current``, and buffers whole.

    ``with_buffers``: buffers of floating type are averaged too, as statistics of batch norms must be, which belong to
    the weights they were taken with.
    """
    for mean, new in zip(average.parameters(), current.parameters()):
        mean.lerp_(new, 1 - beta)
    for mean, new in zip(average.buffers(), current.buffers()):
        mean.lerp_(new, 1 - beta) if with_buffers and mean.is_floating_point() else mean.copy_(new)

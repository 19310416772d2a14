"""Many processes that train as one: who computes which samples, and sums over all of them.

Started with ``torchrun --nproc-per-node N -m stylegan_toon.train ...`` (gloo on CPUs, NCCL on GPUs, any number of
processes and machines, one shared ``--out``). Every process holds whole networks, computes its share of the global
batch, and adds its gradients to those of the others before each optimiser step, in one exchange. This is what
DistributedDataParallel does, without its hooks, which know one backward a step and no second derivatives.

**What is exact.** The random numbers of a sample depend on its place in the global batch (see `draws.Draws`), the
groups of the minibatch deviation are runs of consecutive samples that never straddle two shares, and losses, ADA's
statistic, ``w_avg`` and the path length mean are taken over the global batch. So the number of processes and the
size of the parts change a training only by the rounding of sums. Every process holds the same state at every step,
bit for bit, and process 0 alone writes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import ToonError

PATIENCE = timedelta(hours=1)  # the others wait while process 0 measures and writes


@dataclass(frozen=True)
class Team:
    """The processes of a training, seen from one of them; alone by default.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, total: int, unit: int = 1) -> range:
        """This process's samples of ``total``, in whole units; shares differ by one unit at most."""
        units = total // unit
        return range(units * self.rank // self.size * unit, units * (self.rank + 1) // self.size * unit)

    def sum(self, tensor: Tensor) -> None:
        """Add up ``tensor`` over all processes, in place."""
        if self.size > 1:
            with _explained():
                dist.all_reduce(tensor)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` is set anywhere."""
        if self.size == 1:
            return flag
        told = torch.tensor(float(flag), device=device)
        self.sum(told)
        return bool(told)

    def least(self, value: int, device: torch.device) -> int:
        """The smallest ``value`` of all."""
        told = torch.tensor(value, device=device)
        if self.size > 1:
            with _explained():
                dist.all_reduce(told, dist.ReduceOp.MIN)
        return int(told)

    def share_out(self, tensors: Iterable[Tensor]) -> None:
        """Give every process what process 0 has, in place."""
        if self.size > 1:
            with _explained(), torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # a closed connection has no class of its own
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().partition("\n")[0][:200]
        raise ToonError(
            f"Another process of this training has ended ({reason}): see its message, mend the cause, and go on with "
            "--resume auto."
        ) from error


def first_process() -> bool:
    """Whether this process is the one that writes and prints: the first of those that torchrun started, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


@contextlib.contextmanager
def team(device: torch.device) -> Iterator[tuple[Team, torch.device]]:
    """Join the processes that torchrun started; gives the team and this process's device.

    Raises:
        ToonError: more processes on this machine than GPUs, or they cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Team(), device
        return
    if device.type == "cuda":
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise ToonError(f"There are more processes here than GPUs ({gpus}): start one a GPU (--nproc-per-node).")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ToonError(f"The processes of this training cannot reach each other ({error}): use torchrun.") from error
    try:
        yield Team(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()

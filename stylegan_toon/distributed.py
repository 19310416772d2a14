"""Many processes that train as one: which samples each computes, and sums over all of them.

Started with ``torchrun --nproc-per-node N -m stylegan_toon.train ...`` (gloo on CPUs, NCCL on GPUs, any number of
processes and machines, one shared ``--out``). Every process holds whole networks, computes its share of the global
batch, and adds its gradients to those of the others before each optimiser step, in one exchange. This is what
DistributedDataParallel does, without its hooks, which expect one backward pass a step and no second derivatives.

**What is exact.** The random numbers of a sample depend on its place in the global batch (`training.keyed_random`), the
groups of the minibatch deviation are runs of consecutive samples that never cross the border of two shares, and losses,
ADA's statistic, ``w_avg`` and the path length mean are taken over the global batch. So the number of processes and the
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
class ProcessGroup:
    """The processes of a training, as one of them sees them; a single one by default.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
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
            with _connection_errors():
                dist.all_reduce(tensor)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` is set in any process."""
        if self.size == 1:
            return flag
        count = torch.tensor(float(flag), device=device)
        self.sum(count)
        return bool(count)

    def minimum(self, value: int, device: torch.device) -> int:
        """The smallest ``value`` of all processes."""
        smallest = torch.tensor(value, device=device)
        if self.size > 1:
            with _connection_errors():
                dist.all_reduce(smallest, dist.ReduceOp.MIN)
        return int(smallest)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Set ``tensors`` in every process to those of process 0, in place."""
        if self.size > 1:
            with _connection_errors(), torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)


@contextlib.contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # a closed connection has no class of its own
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().partition("\n")[0][:200]
        raise ToonError(
            f"Another process of this training has ended ({reason}): see its message, correct the cause, and go on "
            "with --resume auto."
        ) from error


def process_count() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first_process() -> bool:
    """Whether this process writes and prints: the first of those that torchrun has started, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def unjoined_processes() -> ProcessGroup:
    """The processes that torchrun has started, for work in which none needs the others: nothing is connected.

    Raises:
        ToonError: the environment variables of torchrun are not what it sets.
    """
    try:
        rank, size = int(os.environ.get("RANK", 0)), process_count()
    except ValueError as error:
        raise ToonError(f"RANK and WORLD_SIZE must be numbers ({error}): use torchrun.") from error
    if not 0 <= rank < size or (size > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()):
        raise ToonError("RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT do not fit together: use torchrun.")
    return ProcessGroup(rank, size)


def own_device(device: torch.device) -> torch.device:
    """This process's GPU of those of its machine; another device as it is.

    Raises:
        ToonError: more processes on this machine than GPUs.
    """
    if device.type != "cuda" or process_count() == 1:
        return device
    local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= gpus:
        raise ToonError(f"There are more processes here than GPUs ({gpus}): start one a GPU (--nproc-per-node).")
    return torch.device("cuda", local)


@contextlib.contextmanager
def join_processes(device: torch.device, patience: timedelta = PATIENCE) -> Iterator[tuple[ProcessGroup, torch.device]]:
    """Join the processes that torchrun has started; yields their group and this process's device.

    Args:
        device: as asked for.
        patience: how long one waits for the others.

    Raises:
        ToonError: more processes on this machine than GPUs, or they cannot be reached.
    """
    size = process_count()
    if size == 1:
        yield ProcessGroup(), device
        return
    device = own_device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise ToonError(f"The processes cannot reach each other ({error}): use torchrun.") from error
    try:
        yield ProcessGroup(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()

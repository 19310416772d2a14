"""Computes rows of features for many pictures: in batches, with a progress bar, divided among processes.

The order of the rows does not depend on the number of processes, and torch's global random state is not used, so that
an evaluation during a training does not change the training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from ..data.datasets import ImageDataset
from ..features.perceptual import fit
from ..models import Generator
from ..models.sides import side_or_largest
from ..progress import progress

Step = Callable[[Tensor], dict[str, Tensor]]


def processes() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) outside of torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


@torch.no_grad()
def collect(count: int, step: Step, *, batch: int = 16, desc: str = "", quiet: bool = False) -> dict[str, Tensor]:
    """Call ``step`` on batches of the indices 0 to ``count`` - 1 and join its results in order.

    With several processes each computes its share, and all receive all results.

    Args:
        step: indices int64 ``[n]`` -> tensors ``[n, ...]`` by name, on the device of the process.

    Returns:
        tensors ``[count, ...]`` by name, float32 on the CPU.
    """
    rank, world = processes()
    each = -(-count // world)
    mine = (torch.arange(each) * world + rank) % count  # equally many for every process; the excess is cut off below
    parts: dict[str, list[Tensor]] = defaultdict(list)
    with progress(total=count, desc=desc, unit="img", quiet=quiet or rank > 0) as bar:
        for indices in mine.split(batch):
            for name, rows in step(indices).items():
                parts[name].append(rows.float())
            bar.update(min(len(indices) * world, count - bar.n))
    return {name: _gather(torch.cat(rows), world)[:count].cpu() for name, rows in parts.items()}


def _gather(rows: Tensor, world: int) -> Tensor:
    if world == 1:
        return rows
    shares = [torch.empty_like(rows) for _ in range(world)]
    dist.all_gather(shares, rows.contiguous())
    return torch.stack(shares, dim=1).flatten(0, 1)  # picture i was row i // world of process i % world


def agree(values: Tensor) -> Tensor:
    """The values of process 0, on every process."""
    if processes()[1] > 1:
        dist.broadcast(values, src=0)
    return values


def to_bytes(img: Tensor) -> Tensor:
    """``[N, C, R, R]`` in about [-1, 1] -> uint8 ``[N, 3, R, R]``, rounded as a picture file would be."""
    return (img.float() * 127.5 + 127.5).round().clamp(0, 255).byte().expand(-1, 3, -1, -1)


def latents(G: Generator, count: int, seed: int) -> Tensor:
    """Standard normal ``[count, z_dim]``, float32 on the CPU; they depend on ``seed`` only."""
    return torch.randn(count, G.config.z_dim, generator=torch.Generator().manual_seed(seed))


def pictures_of(G: Generator, ws: Tensor, size: int, *, batch: int = 8) -> Iterator[Tensor]:
    """The pictures of ws ``[N, num_ws, w_dim]`` with constant noise, for comparisons.

    Args:
        size: side of the pictures: as ``G`` makes them there, or its largest ones resized.
        batch: pictures computed at once.

    Yields:
        ``[n, C, size, size]`` in [-1, 1], n up to ``batch``.
    """
    side = side_or_largest(G, size)
    for part in ws.split(batch):
        img = G.synthesis(part, noise_mode="const", resolution=side)
        yield fit(img, size).clamp(-1, 1)


def labels_of(pictures: ImageDataset, count: int, seed: int) -> Tensor:
    """Labels ``[count, label_dim]`` of pictures drawn at random."""
    rows = torch.randint(len(pictures.names), (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([torch.from_numpy(pictures.label(row)) for row in rows.tolist()])

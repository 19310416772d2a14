"""Make pictures from seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ToonError
from ..models import Generator
from ..models.accelerate import accelerate as accelerated
from ..models.sides import checked_side
from ..weights import load_network
from ..weights.latent import Latent, network_of


def latents(seeds: Sequence[int], z_dim: int) -> Tensor:
    """The z of each seed as in NVIDIA's published tools: ``RandomState(seed).randn(1, z_dim)``.

    Returns:
        ``[len(seeds), z_dim]`` float32 on the CPU.
    """
    rows = [np.random.RandomState(seed).randn(1, z_dim) for seed in seeds]
    return torch.from_numpy(np.concatenate([np.zeros((0, z_dim)), *rows])).float()


def generate(
    G: Generator | str | Path,
    seeds: Sequence[int],
    *,
    psi: float = 0.7,
    label: int | None = None,
    noise_mode: str = "const",
    batch: int = 8,
    dtype: torch.dtype | None = None,
    accelerate: str = "auto",
    resolution: int | None = None,
) -> Tensor:
    """Pictures of seeds, on the network's device.

    Args:
        G: a generator in eval mode, or a source for `load_network`.
        seeds: one picture each, 0 to 2**32 - 1.
        psi: truncation, see `MappingNetwork`.
        label: class, for conditional networks.
        noise_mode: "const", "random" (from torch's global generator) or "none".
        batch: pictures computed at once.
        dtype: see `SynthesisNetwork`.
        accelerate: "auto", "off", "graphs" or "compile", see `models.accelerate.accelerate`.
        resolution: side of the pictures in pixels, one that ``G`` makes; None = its largest.

    Returns:
        ``[len(seeds), C, R, R]`` float32 on the CPU, about [-1, 1].

    Raises:
        ToonError: a label the network does not have, or none where it needs one; a side that it does not make.
    """
    if not isinstance(G, Generator):
        G = load_network(G)
    side = checked_side(G, resolution)
    made = batches(G, seeds, psi, label, noise_mode, batch, dtype, accelerate, resolution=side)
    return torch.cat([torch.empty(0, G.config.img_channels, side, side), *(pictures for pictures, _ in made)])


def batches(
    G: Generator, seeds: Sequence[int], psi: float, label: int | None, noise_mode: str, batch: int,
    dtype: torch.dtype | None, accelerate: str, *, resolution: int | None = None, with_ws: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """The pictures of `generate`, ``batch`` at a time ``[batch, C, R, R]``; the label is checked before the first.

    Beside them their ws ``[batch, num_ws, w_dim]`` if ``with_ws``, else an empty tensor.
    """
    device = next(G.parameters()).device
    c = _one_hot(G.config.c_dim, label, device)
    synthesise = accelerated(G, accelerate)

    @torch.no_grad()
    def made() -> Iterator[tuple[Tensor, Tensor]]:
        for z in latents(seeds, G.config.z_dim).split(batch):
            rows = c.expand(len(z), -1) if c is not None else None
            z = z.to(device)
            ws = G.mapping(z, rows, psi=psi).cpu() if with_ws else torch.empty(0)
            yield synthesise(z, rows, psi=psi, noise_mode=noise_mode, dtype=dtype, resolution=resolution).cpu(), ws

    return made()


def shown_latents(
    G: Generator,
    faces: Sequence[Latent],
    noise_mode: str = "const",
    dtype: torch.dtype | None = None,
    resolution: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures ``[N, C, R, R]`` of latents with their noise and tuning, one at a time, and their ws."""
    for face in faces:
        network = network_of(face, G) if face.noise or face.tuned else G
        ws = face.ws.to(next(G.parameters()).device)
        with torch.no_grad():
            pictures = network.synthesis(ws, noise_mode=noise_mode, dtype=dtype, resolution=resolution).cpu()
        yield pictures, face.ws


def _one_hot(classes: int, label: int | None, device: torch.device) -> Tensor | None:
    if classes == 0:
        if label is not None:
            raise ToonError("This network has no classes: leave out --class.")
        return None
    if label is None or not 0 <= label < classes:
        raise ToonError(f"This network makes one of {classes} classes: choose --class 0 to {classes - 1}.")
    return torch.eye(classes, device=device)[label : label + 1]

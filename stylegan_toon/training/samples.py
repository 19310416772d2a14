"""Pictures that show the progress of a training."""

from __future__ import annotations

import math

import torch
from PIL import Image

from ..data.images import image_grid, to_pil
from ..models import Generator


class SampleGrid:
    """Pictures of the same latents, generated again and again; with labels, one column for each class.

    Args:
        G: gives the sizes of latents and labels, and the device.
        count: pictures.
        seed: of the latents.
        resolution: side of the pictures, a size that G makes; None = its largest.
    """

    def __init__(self, G: Generator, count: int = 32, seed: int = 0, resolution: int | None = None) -> None:
        self.resolution = resolution
        generator = torch.Generator().manual_seed(seed)
        device = next(G.parameters()).device
        self.z = torch.randn(count, G.config.z_dim, generator=generator).to(device)
        self.columns = math.ceil(math.sqrt(2 * count))
        c_dim = G.config.c_dim
        self.c = torch.eye(c_dim, device=device)[torch.arange(count) % self.columns % c_dim] if c_dim else None

    @torch.no_grad()
    def sheet(self, G: Generator, psi: float = 0.7) -> Image.Image:
        """The grid as ``G`` makes it now, at truncation ``psi``."""
        labels = [None] * len(self.z) if self.c is None else self.c.split(8)
        batches = (G(z, c, psi=psi, resolution=self.resolution) for z, c in zip(self.z.split(8), labels))
        images = [to_pil(img) for batch in batches for img in batch]
        return image_grid(images, columns=self.columns)

"""Small changes that leave a face the same person's."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TURN, SCALE, SHIFT, LIGHT = 0.12, 0.12, 0.08, 0.25  # most: radians, share, in half sides, share


class Jitter(NamedTuple):
    """One change for each of N pictures, so that several pictures of one face can be changed alike.

    Attributes:
        places: ``[N, 2, 3]``, from places in the result to those in the picture, as `affine_grid` has them.
        light: ``[N, 1, 1, 1]``, by which values from 0 (black) are multiplied.
    """

    places: Tensor
    light: Tensor

    @classmethod
    def sample(cls, count: int, random: torch.Generator, amount: float = 1.0) -> Jitter:
        """Mirrored or not; turned, scaled, moved and lit evenly within ``amount`` times the most above."""
        turn, scale, across, down, light = amount * (2 * torch.rand(5, count, generator=random) - 1)
        mirror = 1 - 2 * torch.randint(2, (count,), generator=random)
        size = (SCALE * scale).exp()
        sine, cosine = size * (TURN * turn).sin(), size * (TURN * turn).cos()
        rows = [mirror * cosine, -sine, SHIFT * across], [mirror * sine, cosine, SHIFT * down]
        return cls(torch.stack([torch.stack(row, 1) for row in rows], 1), 1 + (LIGHT * light)[:, None, None, None])

    def __call__(self, img: Tensor) -> Tensor:
        """Pictures ``[N, C, H, W]`` in [-1, 1], changed; what comes in from outside repeats the edge."""
        places, light = (part.to(img.device, img.dtype) for part in self)
        grid = F.affine_grid(places, list(img.shape), align_corners=False)
        moved = F.grid_sample(img, grid, padding_mode="border", align_corners=False)
        return ((moved + 1) * light - 1).clamp(-1, 1)

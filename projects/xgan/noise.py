"""Corruptions to train the denoiser with: spots, wrong colours and noise, as translated cartoons have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def corrupt(img: Tensor, *, spots: int = 6, tint: float = 0.25, grain: float = 0.1) -> Tensor:
    """Corrupt cartoons ``[N, 3, R, R]`` in [-1, 1], each with its own random numbers.

    Args:
        spots: up to so many soft discs of a random colour, up to a twelfth of the side in radius.
        tint: largest shift of a slowly varying colour.
        grain: standard deviation of noise, which is blurred a little.
    """
    count, _, height, width = img.shape
    device = img.device
    tinted = img + F.interpolate(
        tint * (2 * torch.rand(count, 3, 4, 4, device=device) - 1), (height, width), mode="bicubic"
    )
    noise = F.avg_pool2d(grain * 2 * torch.randn(img.shape, device=device), 3, 1, 1)
    corrupted = tinted + noise * torch.rand(count, 1, 1, 1, device=device)
    y = torch.linspace(0, 1, height, device=device)[:, None]
    x = torch.linspace(0, 1, width, device=device)
    for _ in range(spots):
        centre = torch.rand(count, 2, 1, 1, device=device)
        radius = 0.015 + 0.07 * torch.rand(count, 1, 1, device=device)
        distance = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()
        mask = (torch.rand(count, 1, 1, device=device) < 0.5) * torch.sigmoid((radius - distance) * width)
        colour = 2 * torch.rand(count, 3, 1, 1, device=device) - 1
        corrupted = corrupted + mask[:, None] * (colour - corrupted)
    return corrupted.clamp(-1, 1)

"""Colour as one affine map of RGB (ADA, appendix B)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .geometry import affine

_EYE = torch.eye(4, dtype=torch.float64)
_GREY = torch.full((4, 4), 1 / 3, dtype=torch.float64)  # projection on the grey axis
_GREY[3], _GREY[:, 3] = 0, 0
_TURN = torch.zeros(4, 4, dtype=torch.float64)  # cross product with the grey axis: a quarter turn of the hue
_TURN[[1, 2, 0], [0, 1, 2]] = 1 / math.sqrt(3)
_TURN[[0, 1, 2], [1, 2, 0]] = -1 / math.sqrt(3)
_CHROMA = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)) - _GREY


def brightness(b: Tensor) -> Tensor:
    """Add ``b`` to R, G and B: ``[n] -> [n, 4, 4]``."""
    return affine(len(b), 4, {(channel, 3): b for channel in range(3)})


def contrast(c: Tensor) -> Tensor:
    """Multiply R, G and B by ``c``."""
    return affine(len(c), 4, {(channel, channel): c for channel in range(3)})


def luma_flip(fires: Tensor) -> Tensor:
    """Where 1, mirror colours in the plane of luma 0 (a Householder reflection); hue and saturation stay."""
    return _EYE - 2 * _GREY * fires[:, None, None]


def hue(angle: Tensor) -> Tensor:
    """Rotate about the grey axis by ``angle`` radians (Rodrigues' formula)."""
    angle = angle[:, None, None]
    return _EYE + (angle.cos() - 1) * _CHROMA + angle.sin() * _TURN


def saturation(s: Tensor) -> Tensor:
    """Multiply the distance from the grey axis by ``s``."""
    return _EYE + (s[:, None, None] - 1) * _CHROMA


def recolor(images: Tensor, matrix: Tensor) -> Tensor:
    """Apply ``[N, 4, 4]`` to the homogeneous colour (R, G, B, 1) of ``[N, C, H, W]``; C of 1 means R = G = B."""
    flat = images.flatten(2)
    linear, offset = matrix[:, :3, :3], matrix[:, :3, 3:]
    if images.shape[1] == 1:  # the mean of what R = G = B become
        linear, offset = linear.sum(dim=(1, 2))[:, None, None] / 3, offset.mean(dim=1, keepdim=True)
        return (flat * linear + offset).view_as(images)
    return torch.baddbmm(offset, linear, flat).view_as(images)

"""Separable modulated convolutions: the layers of the mobile family."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .haar import haar_up


def separable_layer(
    x: Tensor,
    style: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor,
    noise: Tensor | None = None,
    *,
    slope: float = 0.2,
) -> Tensor:
    """``leaky_relu(pointwise * (depthwise * (style x)) + noise + bias)``.

    Args:
        x: ``[N, C, H, W]``.
        style: ``[N, C]``.
        depthwise: ``[C, 1, 3, 3]``, zero padding.
        pointwise: ``[O, C, 1, 1]``.
        bias: ``[O]``.
        noise: ``[H, W]`` or ``[N, 1, H, W]``, or None.
        slope: of the leaky ReLU.

    Returns:
        ``[N, O, H, W]``.
    """
    x = x * style.to(x.dtype)[:, :, None, None]
    x = F.conv2d(x, depthwise.to(x.dtype), padding=1, groups=x.shape[1])
    x = F.conv2d(x, pointwise.to(x.dtype), bias.to(x.dtype))
    return F.leaky_relu(x if noise is None else x + noise.to(x.dtype), slope)


def separable_up_layer(
    x: Tensor,
    up_style: Tensor,
    style: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor,
    noise: Tensor | None = None,
    *,
    slope: float = 0.2,
) -> Tensor:
    """`separable_layer` of ``haar_up(x * up_style)``, ``x`` ``[N, 4C, H, W]`` and ``up_style`` ``[N, 4C]``."""
    x = haar_up(x * up_style.to(x.dtype)[:, :, None, None])
    return separable_layer(x, style, depthwise, pointwise, bias, noise, slope=slope)

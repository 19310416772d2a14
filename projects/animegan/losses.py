"""AnimeGANv2's losses. Pictures are ``[N, 3, H, W]`` in [-1, 1]; every loss is a scalar, averaged over everything.

Published weights: `presets`; the two phases: `train`. Formulas: Chen, Liu and Chen 2019, sections 3.2 and 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from projects._common import add_up

# ITU-R BT.601, rows Y, U, V, for colours in [0, 1].
_YUV = ((0.299, 0.587, 0.114), (-0.14714119, -0.28886916, 0.43601035), (0.61497538, -0.51496512, -0.10001026))


def to_yuv(img: Tensor) -> Tensor:
    """``[N, 3, H, W]`` RGB in [-1, 1] -> Y in [0, 1], U in [-0.44, 0.44], V in [-0.62, 0.62]."""
    return torch.einsum("yc,nchw->nyhw", img.new_tensor(_YUV), (img + 1) / 2)


def to_grey(img: Tensor) -> Tensor:
    """The luma of a picture in all three channels, in [-1, 1]."""
    luma = torch.einsum("c,nchw->nhw", img.new_tensor(_YUV[0]), img)
    return luma[:, None].expand(-1, 3, -1, -1)


def gram(features: Tensor) -> Tensor:
    """``[N, C, H, W]`` -> ``[N, C, C]``: products of channels, summed over positions, divided by C x H x W."""
    flat = features.flatten(2)
    return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


def content_loss(made: Tensor, photo: Tensor) -> Tensor:
    """L1 distance of features."""
    return F.l1_loss(made, photo)


def style_loss(made: Tensor, drawn: Tensor) -> Tensor:
    """L1 distance of the Gram matrices of features; the drawings are grey, so their colours have no influence."""
    return F.l1_loss(gram(made), gram(drawn))


def colour_loss(made: Tensor, photo: Tensor) -> Tensor:
    """L1 distance in Y, Huber distance in U and V: the generated picture keeps the colours of the photo."""
    a, b = to_yuv(made), to_yuv(photo)
    return F.l1_loss(a[:, 0], b[:, 0]) + F.huber_loss(a[:, 1], b[:, 1]) + F.huber_loss(a[:, 2], b[:, 2])


def variation_loss(img: Tensor) -> Tensor:
    """Half the mean squared difference of neighbours, across plus down (total variation)."""
    across, down = img.diff(dim=3), img.diff(dim=2)
    return (across.square().mean() + down.square().mean()) / 2


def generator_loss(scores: Tensor) -> Tensor:
    """LSGAN: generated pictures should be scored 1."""
    return (scores - 1).square().mean()


def discriminator_loss(
    drawn: Tensor, made: Tensor, grey: Tensor, smooth: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """LSGAN: drawings are scored 1; generated pictures, grey drawings and drawings with smoothed edges 0.

    Args:
        drawn, made, grey, smooth: scores.
        weights: of the four, in this order.
    """
    errors = (drawn - 1, made, grey, smooth)
    return add_up(weight * error.square().mean() for weight, error in zip(weights, errors))

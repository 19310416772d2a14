"""3x3 convolutions that keep the size of a picture, as VGGs and the older image-to-image networks have them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.conv3x3 import conv3x3, kind_of


def zero_conv3x3(x: Tensor, w: Tensor, b: Tensor | None = None, *, keep: bool = False) -> Tensor:
    """``F.conv2d(x, w, b, padding=1)``, on the CPU by Winograd's algorithm where that is faster.

    Args:
        x: ``[N, C_in, H, W]``.
        w: ``[C_out, C_in, 3, 3]``.
        b: ``[C_out]``.
        keep: keep the rearranged weights until ``w`` changes, for inference.

    Returns:
        ``[N, C_out, H, W]``.
    """
    kind = kind_of(x, w, None, 1, 1, 1, keep)
    if kind is None:
        return F.conv2d(x, w, b, padding=1)
    x = conv3x3(x, w, kind, keep=keep)
    return x if b is None else x + b[:, None, None]


def reflect_conv3x3(x: Tensor, w: Tensor, b: Tensor | None = None, *, keep: bool = False) -> Tensor:
    """``F.conv2d(F.pad(x, [1] * 4, mode="reflect"), w, b)``, H and W from 2 on; the rest as for `zero_conv3x3`."""
    x = F.pad(x, [1, 1, 1, 1], mode="reflect")
    return zero_conv3x3(x, w, b, keep=keep)[..., 1:-1, 1:-1]  # the outermost pixels saw zeros beyond the reflection


class ReflectConv3x3(nn.Conv2d):
    """`reflect_conv3x3` as a layer: the tensors of ``nn.Conv2d(inputs, outputs, 3)``."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return reflect_conv3x3(input, self.weight, self.bias, keep=not self.training)

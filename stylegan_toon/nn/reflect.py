"""3x3 convolution after reflection padding, which the older image-to-image networks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.conv3x3 import conv3x3, kind_of


def reflect_conv3x3(x: Tensor, w: Tensor, b: Tensor | None = None, *, keep: bool = False) -> Tensor:
    """``F.conv2d(F.pad(x, [1] * 4, mode="reflect"), w, b)``, on the CPU by Winograd's algorithm where that is faster.

    Args:
        x: ``[N, C_in, H, W]``, H and W from 2 on.
        w: ``[C_out, C_in, 3, 3]``.
        b: ``[C_out]``.
        keep: keep the rearranged weights until ``w`` changes, for inference.

    Returns:
        ``[N, C_out, H, W]``.
    """
    x = F.pad(x, [1, 1, 1, 1], mode="reflect")
    # Under autocast somebody wants 16 bits, which the kernel does not have.
    kind = None if torch.is_autocast_enabled(x.device.type) else kind_of(x, w, None, 1, 1, 1, keep)
    if kind is None:
        return F.conv2d(x, w, b)
    x = conv3x3(x, w, kind, keep=keep)[..., 1:-1, 1:-1]  # the kernel pads with zeros: its rim is of no use
    return x if b is None else x + b[:, None, None]


class ReflectConv3x3(nn.Conv2d):
    """`reflect_conv3x3` as a layer: the tensors of ``nn.Conv2d(inputs, outputs, 3)``."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return reflect_conv3x3(x, self.weight, self.bias, keep=not self.training)

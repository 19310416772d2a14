"""Weights kept at unit size, each beside its own scale, so that one learning rate suits all of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Scaled(nn.Module):
    """A tensor ``value * gain`` of which only ``value`` learns.

    Adam moves every number, large or small, by about its learning rate. Where layers differ in scale by hundreds,
    as those of a network trained elsewhere do, that is too much for some and nothing for others. With ``value`` of
    root mean square 1 every layer moves by the same share of itself: StyleGAN's equalised learning rate (Karras et
    al. 2018, section 4.1), with the scale measured instead of derived from the initialisation.

    Args:
        value: what it starts with.
        gain: scale of the tensor.
    """

    gain: Tensor

    def __init__(self, value: Tensor, gain: float = 1.0) -> None:
        super().__init__()
        self.value = nn.Parameter(value)
        self.register_buffer("gain", torch.full([], float(gain)))
        self._kept: tuple[tuple, Tensor] | None = None

    def forward(self) -> Tensor:
        value, gain = self.value, self.gain
        learning = self.training or (value.requires_grad and torch.is_grad_enabled())
        if learning or torch.compiler.is_compiling() or value.is_inference() or gain.is_inference():
            return value * gain
        # The same tensor object every time, so that a kernel can keep what it computes from it.
        now = value.data_ptr(), gain.data_ptr(), value._version, gain._version, value.device
        if self._kept is None or self._kept[0] != now:
            self._kept = now, (value * gain).detach()
        return self._kept[1]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kept": None}

    @torch.no_grad()
    def adopt(self, tensor: Tensor, smallest: float = 1e-4) -> None:
        """Take the value of ``tensor``, with ``gain`` its root mean square (at least ``smallest``)."""
        gain = float(tensor.detach().cpu().double().square().mean().sqrt().clamp(min=smallest))
        self.gain.fill_(gain)
        self.value.copy_(tensor / gain)


class ScaledLinear(nn.Module):
    """``x @ weight.T + bias``: the map from w to a style.

    Args:
        in_features, out_features: sizes.
        bias: what the biases start with; 1 = the layer begins without modulation.
    """

    def __init__(self, in_features: int, out_features: int, bias: float = 1.0) -> None:
        super().__init__()
        self.weight = Scaled(torch.randn(out_features, in_features), in_features**-0.5)
        self.bias = Scaled(torch.full((out_features,), bias))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias())

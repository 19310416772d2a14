"""The network behind `person.person_mask`: which pixels of a picture show a person.

A MobileNetV3 of five sizes (Howard et al., "Searching for MobileNetV3", arXiv 1905.02244) with a decoder that weighs
the channels of each finer feature by what the coarser one says. Layers are those of MediaPipe's
``selfie_segmentation.tflite``; `pretrained/recipes/person.py` converts its weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 256  # of the picture that the network takes, and of the mask it gives


@dataclass(frozen=True)
class PersonConfig:
    """This network has no options."""


class _Conv(nn.Conv2d):
    """Padding is TensorFlow's "same": with a stride of 2, one more row and column at the end than at the start."""

    def __init__(self, before: int, after: int, side: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, side, stride, groups=groups)
        self.ends = ((side - stride) // 2, (side - stride + 1) // 2)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, 2 * self.ends) if any(self.ends) else input)


def _depthwise(channels: int, side: int, stride: int = 1) -> _Conv:
    return _Conv(channels, channels, side, stride, groups=channels)


class _Gate(nn.Sequential):
    """A factor for each channel ``[N, C, 1, 1]``, from the channels' means (squeeze and excitation)."""

    def __init__(self, channels: int, between: int) -> None:
        super().__init__(
            *(nn.AdaptiveAvgPool2d(1), _Conv(channels, between), nn.ReLU()),
            *(_Conv(between, channels), nn.Sigmoid()),
        )


class _Block(nn.Module):
    """Inverted residual block: widen, depthwise, gate, narrow; added to the input where the shapes are the same."""

    def __init__(self, before: int, wide: int, after: int, side: int, stride: int, act: nn.Module, gate: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(_Conv(before, wide), act)
        self.depthwise = nn.Sequential(_depthwise(wide, side, stride), act)
        self.gate = _Gate(wide, gate) if gate else None
        self.narrow = _Conv(wide, after)
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.widen(x))
        y = self.narrow(y if self.gate is None else y * self.gate(y))
        return x + y if self.adds else y


class _Head(nn.Module):
    """``[N, 32, s, s]`` -> ``[N, 128, s, s]``, channels weighed by the whole picture's mean (LR-ASPP)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(_Conv(32, 128), nn.ReLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), _Conv(32, 128), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) * self.gate(x)


class _Decoder(nn.Module):
    """``[N, before, s, s]`` and finer features ``[N, after, 2 s, 2 s]`` -> ``[N, after, 2 s, 2 s]``."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.project = _Conv(before, after)
        self.gate = _Gate(after, after)
        self.mix = nn.Sequential(_Conv(after, after), nn.ReLU())
        self.smooth = nn.Sequential(_depthwise(after, 3), nn.ReLU())

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        coarse = self.project(F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False))
        y = self.mix(fine * self.gate(fine + coarse) + coarse)
        return y + self.smooth(y)


class PersonNetwork(nn.Module):
    """Tells a person from the background.

    Call it with float pictures ``[N, 3, 256, 256]``, RGB in [0, 1]; it gives the logits of a person ``[N, 256, 256]``.
    """

    def __init__(self, config: PersonConfig | None = None) -> None:
        super().__init__()
        self.config = config or PersonConfig()
        relu, swish = nn.ReLU(), nn.Hardswish()
        self.stem = nn.Sequential(_Conv(3, 16, 3, 2), swish)
        self.quarter = _Block(16, 16, 16, 3, 2, relu, gate=8)
        self.eighth = nn.Sequential(_Block(16, 72, 24, 3, 2, relu, 0), _Block(24, 88, 24, 3, 1, relu, 0))
        self.sixteenth = nn.Sequential(
            _Block(24, 96, 32, 5, 2, swish, gate=24),
            *(_Block(32, 128, 32, 5, 1, swish, gate=32) for _ in range(2)),
            *(_Block(32, 96, 32, 5, 1, swish, gate=24) for _ in range(2)),
            _Head(),
        )
        self.decoders = nn.ModuleList([_Decoder(128, 24), _Decoder(24, 16), _Decoder(16, 16)])
        self.logit = nn.ConvTranspose2d(16, 1, 2, 2)

    def forward(self, img: Tensor) -> Tensor:
        half = self.stem(img)
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        x = self.sixteenth(eighth)
        for decoder, fine in zip(self.decoders, (eighth, quarter, half)):
            x = decoder(x, fine)
        return self.logit(x)[:, 0]

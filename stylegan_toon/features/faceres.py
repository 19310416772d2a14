"""A face recogniser that is independent of dlib's: 1,024 numbers for a face, close together for pictures of one person.

The network is a MobileNet (Howard et al., arXiv 1704.04861) for 224 px by A. Savchenko (HSE_FaceRec_tf).
`pretrained/recipes/faceres.py` converts its weights. It judges what was trained with dlib's recogniser.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..weights import shipped_network

SIDE = 224  # of the picture that the network takes
BOX = (22 / 256, 40 / 256, 234 / 256, 252 / 256)  # of an FFHQ crop: left, top, right, bottom
_MEAN_BGR = (103.939, 116.779, 123.68)
_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_HALVED = (1, 3, 5, 11)  # pairs of layers that halve the side


@dataclass(frozen=True)
class FaceresConfig:
    """This network has no options."""


class _Conv(nn.Conv2d):
    """Convolution, then values are clamped to 0 .. 6; TensorFlow's padding of an even side."""

    def __init__(self, before: int, after: int, side: int, stride: int = 1, groups: int = 1) -> None:
        padding = side // 2 if stride == 1 else 0
        super().__init__(before, after, side, stride, padding, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        if self.stride[0] == 2:
            input = F.pad(input, (0, 1, 0, 1))  # an odd total has one more at the end
        return super().forward(input).clamp(0, 6)


class FaceresNetwork(nn.Module):
    """Float pictures ``[N, 3, 224, 224]``, RGB from 0 to 255, as `face_square` cuts them -> ``[N, 1024]``."""

    def __init__(self, config: FaceresConfig | None = None) -> None:
        super().__init__()
        self.config = config or FaceresConfig()
        layers: list[nn.Module] = [_Conv(3, _WIDTHS[0], 3, 2)]
        for number, (before, after) in enumerate(itertools.pairwise(_WIDTHS)):
            layers += [_Conv(before, before, 3, 2 if number in _HALVED else 1, before), _Conv(before, after, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, img: Tensor) -> Tensor:
        x = img.flip(1) - img.new_tensor(_MEAN_BGR)[:, None, None]
        return self.layers(x).mean((2, 3))


def faceres(device: torch.device | str = "cpu") -> FaceresNetwork:
    """The network that ships, in eval mode.

    Raises:
        ToonError: its file is missing from the installation or damaged.
    """
    return shipped_network("faceres-identity", FaceresNetwork).to(device)


def face_square(img: Tensor) -> Tensor:
    """Crop FFHQ-aligned faces for the network: ``[N, 3, R, R]`` -> ``[N, 3, 224, 224]``, same range."""
    height, width = img.shape[2:]
    left, top, right, bottom = BOX
    face = img[:, :, round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    return F.interpolate(face, size=(SIDE, SIDE), mode="bilinear", antialias=True)

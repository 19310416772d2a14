"""A discriminator that sees pictures through a network that already knows pictures (Sauer et al. 2021, Projected GANs).

The features of a frozen EfficientNet-Lite0 at four sizes are mixed, across channels and from coarse to fine, by random
convolutions that never change (arXiv 2111.01007, section 3.2); a small network for each size scores them. Few pictures
are enough to train these, where a discriminator that starts from nothing needs tens of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ToonError
from ..models.family import check_resolution
from .extractors import extractor

# The last of EfficientNet-Lite0's blocks at a quarter, an eighth, ... of the picture, and its channels.
LEVELS = ((2, 24), (4, 40), (10, 112), (15, 320))
PATCHES = 8  # side of the map of scores of each level


@dataclass(frozen=True)
class ProjectedConfig:
    """Everything needed to build a `ProjectedDiscriminator`.

    Attributes:
        resolution, img_channels: of the pictures.
        c_dim: 0: it takes no labels.
        view: side in pixels of what the features are computed from: a random window of larger pictures, so that the
            finest lines are seen. At least 64, a power of two.
        width: channels of the mixed features and of the networks that score them.
        mbstd_group_size: 1: samples are scored one by one.
        conv_clamp: None: features are not clamped.

    Raises:
        ValueError: a size that is not a power of two, or a view below 64 px.
    """

    resolution: int = 256
    img_channels: int = 3
    c_dim: int = 0
    view: int = 256
    width: int = 64
    mbstd_group_size: int = 1
    conv_clamp: float | None = None

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        check_resolution(self.view)
        if self.view < 64 or self.c_dim or self.mbstd_group_size != 1:
            raise ValueError("a projected discriminator has a view of 64 px or more, no labels and groups of 1")


class SpectralConv(nn.Module):
    """A convolution whose weight, as a matrix, is divided by its largest singular value (Miyato et al. 2018).

    The exact value and not the usual running estimate: the matrices are small, and a score then depends on the weights
    alone, not on how often they have been used.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.orthogonal_(self.weight)
        self.stride, self.padding = stride, (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.flatten(1)
        largest = torch.linalg.eigvalsh(rows @ rows.t())[-1].clamp(min=1e-12).sqrt()
        return F.conv2d(x, self.weight / largest, self.bias, self.stride, self.padding)


class Mixing(nn.Module):
    """Random mixing of features across channels and, from coarse to fine, across sizes; it is never trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for index, (_, channels) in enumerate(LEVELS):
            self.register_buffer(f"channels{index}", nn.init.kaiming_normal_(torch.empty(width, channels, 1, 1)))
            self.register_buffer(f"sizes{index}", nn.init.kaiming_normal_(torch.empty(width, width, 3, 3)))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """``[N, C_i, H_i, W_i]``, finest first -> ``[N, width, H_i, W_i]``."""
        mixed: list[Tensor] = []
        coarser: Tensor | None = None
        for index in reversed(range(len(LEVELS))):
            x = F.conv2d(features[index], self.get_buffer(f"channels{index}"))
            if coarser is not None:
                x = (x + F.interpolate(coarser, scale_factor=2, mode="bilinear")) / 2**0.5
            coarser = F.conv2d(x, self.get_buffer(f"sizes{index}"), padding=1) / 2**0.5
            mixed.insert(0, coarser)
        return mixed


class ProjectedDiscriminator(nn.Module):
    """Picture -> scores of patches at four sizes, positive for real. ``[N, C, R, R] -> [N, P]``.

    The EfficientNet is not part of the state: it comes with the package that the extra ``evaluate`` installs.

    Attributes:
        provenance: where the network comes from, if it was loaded; see `weights.provenance`.

    Raises:
        ToonError: the package of the EfficientNet is not installed.
    """

    provenance: dict[str, Any]

    def __init__(self, config: ProjectedConfig) -> None:
        super().__init__()
        self.config = config
        self.mixing = Mixing(config.width)
        self.heads = nn.ModuleList(self._head(config.view // (4 << level)) for level in range(len(LEVELS)))

    def _head(self, side: int) -> nn.Module:
        width, layers = self.config.width, []
        while side > PATCHES:
            layers += [SpectralConv(width, width, 4, stride=2), nn.LeakyReLU(0.2)]
            side //= 2
        return nn.Sequential(*layers, SpectralConv(width, width, 3), nn.LeakyReLU(0.2), SpectralConv(width, 1, 3))

    def forward(self, img: Tensor, c: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Scores of the patches of a window that all pictures share.

        Args:
            img: ``[N, img_channels, R, R]`` in [-1, 1].
            c: ignored.
            dtype: ignored; it computes in float32.

        Raises:
            ValueError: when the pictures do not have this network's size.
        """
        size = (self.config.img_channels, self.config.resolution, self.config.resolution)
        if tuple(img.shape[1:]) != size:
            raise ValueError(f"pictures must be [N, {size[0]}, {size[1]}, {size[2]}], not {list(img.shape)}")
        features = self.mixing(self.features(self._view(img.float())))
        return torch.cat([head(x).flatten(1) for head, x in zip(self.heads, features)], dim=1)

    def features(self, img: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """EfficientNet's features of ``[N, C, H, W]`` in [-1, 1], ``[N, C_i, H / 2^(i + 2), ...]``, finest first."""
        network = _backbone(img.device)
        x = network._swish(network._bn0(network._conv_stem(img.expand(-1, 3, -1, -1))))
        found = []
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in dict(LEVELS):
                found.append(x)
        return found

    def _view(self, img: Tensor) -> Tensor:
        side, view = img.shape[-1], self.config.view
        if side <= view:
            return img if side == view else F.interpolate(img, size=(view, view), mode="bilinear")
        # One window for the whole batch, so that all its parts see the same one (`training.keyed_random`).
        y, x = (int(torch.randint(side - view + 1, [])) for _ in range(2))
        return img[:, :, y : y + view, x : x + view]

    def freeze_layers(self, count: int) -> None:
        """Raise ToonError unless ``count`` is 0: what is frozen here is frozen always."""
        if count:
            raise ToonError("Leave out --freeze-d: the features of a projected discriminator are always frozen.")


@lru_cache(maxsize=2)
def _backbone(device: torch.device) -> Any:
    network: Any = extractor("efficientnet-lite0", device=device)
    return network.network

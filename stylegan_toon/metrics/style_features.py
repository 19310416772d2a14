"""How cartoon-like a set of pictures is: the distance of its textures and colours to those of a toon network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ToonError
from ..features.extractors import NAMES, Extractor, extractor
from ..features.vgg import vgg16
from .batches import to_bytes
from .distances import moments

STYLES = ("textures", *NAMES)
SIDE = 128  # pixels at which the stages of VGG16 are computed


class StyleFeatures(nn.Module):
    """log(1 + x) of the mean and of the standard deviation over the picture of VGG16's first three stages; D = 896.

    These statistics are the style of Huang and Belongie (2017, arXiv 1703.06868, equation 13); the logarithm puts
    channels of all sizes on one scale.

    Attributes:
        name: "textures".
    """

    name = "textures"

    def __init__(self) -> None:
        super().__init__()
        self.network = vgg16()

    def forward(self, img: Tensor) -> Tensor:
        """``[N, 3, R, R]`` in [-1, 1] -> ``[N, 896]``."""
        small = F.interpolate(img.expand(-1, 3, -1, -1), size=(SIDE, SIDE), mode="area")
        parts = [part for x in self.network(small) for part in (x.mean((2, 3)), x.std((2, 3)))]
        return torch.cat(parts, dim=1).log1p()


class ExtractedFeatures(nn.Module):
    """The features of one of `features.extractors` for pictures in [-1, 1]."""

    def __init__(self, network: Extractor) -> None:
        super().__init__()
        self.network, self.name = network, network.name

    def forward(self, img: Tensor) -> Tensor:
        return self.network(to_bytes(img))


def style_network(name: str, *, device: torch.device | str = "cpu") -> StyleFeatures | ExtractedFeatures:
    """The network of features of that name, one of `STYLES`, on ``device``.

    Raises:
        ToonError: its weights or its packages are not available.
    """
    network = StyleFeatures() if name == StyleFeatures.name else ExtractedFeatures(extractor(name, device=device))
    return network.to(device)


def toon_distance(rows: Tensor, toon: Tensor) -> float:
    """Sum over features of (m - m_toon)^2 + (s - s_toon)^2, over the sum of s_toon^2; mean m, standard deviation s.

    It is the squared Frechet distance (Heusel et al. 2017, equation 6) of independent normal numbers, in units of the
    toon's own spread: 1 is as far from its mean as its pictures are on average. A whole covariance of hundreds of
    features cannot be estimated from 200 pictures. N of the toon's own pictures are about 2 / N away.

    Args:
        rows: features of the pictures that are measured, ``[N, D]``.
        toon: features of the toon's pictures, ``[M, D]``.

    Raises:
        ToonError: fewer than two pictures in a set, or the toon's are all the same.
    """
    if min(len(rows), len(toon)) < 2:
        raise ToonError("A distance to the toon needs at least 2 pictures in each set: give more.")
    (mean, cov), (toon_mean, toon_cov) = (moments(part) for part in (rows, toon))
    spread, toon_spread = (c.diag().clamp(min=0).sqrt() for c in (cov, toon_cov))
    whole = toon_spread.square().sum()
    if not whole > 1e-12 * toon_mean.square().sum():
        raise ToonError("All pictures of the toon network are the same: give another --toon.")
    return float(((mean - toon_mean).square() + (spread - toon_spread).square()).sum() / whole)

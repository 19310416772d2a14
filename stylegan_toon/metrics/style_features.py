"""How cartoon-like a set of pictures is: the distance of its textures and colours to those of a toon network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ToonError
from ..features.extractors import Textures, extractor
from .batches import to_bytes
from .distances import moments


class StyleFeatures(nn.Module):
    """The features of one of `features.extractors` for pictures in [-1, 1], rounded as a picture file would be."""

    def __init__(self, name: str = Textures.name, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.name = name
        self.network = extractor(name, device=device)

    def forward(self, img: Tensor) -> Tensor:
        """``[N, C, R, R]`` in [-1, 1] -> ``[N, D]``."""
        return self.network(to_bytes(img))


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

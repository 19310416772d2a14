"""Paths between latents."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical linear interpolation (Shoemake 1985): points on the great circle from ``a`` to ``b``.

    Args:
        a, b: ``[N, D]``, of any length.
        t: ``[N, 1]``: the share of the way, 0 to 1. All three may be broadcast.

    Returns:
        Unit vectors ``[N, D]``.
    """
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    cosine = (a * b).sum(dim=1, keepdim=True)
    across = F.normalize(b - cosine * a, dim=1)
    angle = t * cosine.clamp(-1, 1).acos()
    return a * angle.cos() + across * angle.sin()

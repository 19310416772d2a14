"""Distances between two sets of pictures, as pure functions of their features, computed in float64.

A row is one picture. Values from the features of different networks, and Frechet distances of different numbers of
pictures, are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from ..errors import ToonError

Progress = Callable[[Iterable], Iterable]


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[D]`` and unbiased covariance ``[D, D]`` of ``[N, D]``, float64, in two passes.

    Raises:
        ToonError: fewer than two rows.
    """
    if len(rows) < 2:
        raise ToonError(f"A covariance needs at least 2 pictures, not {len(rows)}: give more.")
    mean = rows.mean(dim=0, dtype=torch.float64)
    cov = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for part in rows.split(4096):  # a float64 copy of a large set may not fit in memory
        centred = part.double() - mean
        cov += centred.T @ centred
    return mean, cov / (len(rows) - 1)


def frechet_distance(mu1: Tensor, s1: Tensor, mu2: Tensor, s2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians (Heusel et al. 2017, equation 6).

    ``|mu1 - mu2|^2 + tr(s1 + s2 - 2 (s1 s2)^(1/2))``. With ``s = A^T A``, the trace of the root is the sum of the
    singular values of ``A1 A2^T``: this takes no root of a nearly singular, unsymmetric product and is accurate also
    for covariances of fewer pictures than dimensions.

    Args:
        mu1, mu2: ``[D]``.
        s1, s2: ``[D, D]``, symmetric, no negative eigenvalues beyond rounding.
    """
    mu1, s1, mu2, s2 = (torch.as_tensor(x).double() for x in (mu1, s1, mu2, s2))
    root = torch.linalg.svdvals(_factor(s1) @ _factor(s2).T).sum()
    return float((mu1 - mu2).square().sum() + s1.trace() + s2.trace() - 2 * root)


def _factor(s: Tensor) -> Tensor:
    """``A`` ``[rank, D]`` with ``A^T A = s``, without eigenvalues as small as rounding errors (their roots are not)."""
    values, vectors = torch.linalg.eigh(s)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values.max().clamp(min=0)
    return values[kept].sqrt()[:, None] * vectors[:, kept].T


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of ``[N, D]`` and ``[M, D]``, a float64 scalar.

    The kernel is ``(a.b / D + 1)^3`` (Binkowski et al. 2018, equation 4 and section 4).
    """
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


def kernel_distance(
    x: Tensor, y: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0, progress: Progress = iter
) -> float:
    """Kernel distance (KID on Inception features): the mean of `mmd` over random subsets.

    Unbiased: the expectation does not depend on the numbers of pictures and is 0 for two samples of the same
    distribution, so that a value may be below 0. Sets no larger than ``size`` are compared once, as a whole.

    Args:
        x, y: ``[N, D]``, ``[M, D]``.
        subsets, size: 100 subsets of 1000 pictures, as published.
        seed: of the choice of subsets.
        progress: wraps the loop over subsets, to draw a bar.

    Raises:
        ToonError: fewer than two rows in a set.
    """
    if min(len(x), len(y)) < 2:
        raise ToonError("A kernel distance needs at least 2 pictures in each set: give more.")
    if max(len(x), len(y)) <= size:
        return float(mmd(x, y))
    rng = np.random.default_rng(seed)

    def draw(rows: Tensor) -> Tensor:
        chosen = rng.choice(len(rows), min(len(rows), size), replace=False)
        return rows[torch.from_numpy(chosen).to(rows.device)]

    return float(sum(mmd(draw(x), draw(y)) for _ in progress(range(subsets)))) / subsets


def precision_recall(reals: Tensor, fakes: Tensor, *, k: int = 3, progress: Progress = iter) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, equations 1 and 2).

    Around each picture of a set lies a ball that reaches to its ``k``-th nearest neighbour in the set. Precision is
    the share of fakes inside a ball of a real one, recall the share of reals inside a ball of a fake one.

    Args:
        reals, fakes: ``[N, D]``, ``[M, D]``.
        progress: wraps the loops over blocks of rows, to draw a bar.

    Returns:
        precision and recall, each 0 to 1.

    Raises:
        ToonError: a set has ``k`` pictures or fewer.
    """
    if min(len(reals), len(fakes)) <= k:
        raise ToonError(f"Precision and recall look at {k} neighbours: give more than {k} pictures.")
    centre = reals.mean(dim=0, dtype=torch.float64)  # distances stay the same, their rounding errors get smaller
    reals, fakes = reals.double() - centre, fakes.double() - centre

    def share(points: Tensor, centres: Tensor) -> float:
        # k + 1, since the nearest neighbour is the point itself.
        near = [_squared(centres[rows], centres).kthvalue(k + 1).values for rows in progress(_blocks(centres, centres))]
        reach = torch.cat(near)
        inside = [(_squared(points[rows], centres) <= reach).any(dim=1) for rows in progress(_blocks(points, centres))]
        return float(torch.cat(inside).double().mean())

    return share(fakes, reals), share(reals, fakes)


def _blocks(points: Tensor, others: Tensor) -> list[slice]:
    """Rows of ``points`` whose distances to all ``others`` fit into 256 MB."""
    step = max(1, 2**25 // len(others))
    return [slice(start, start + step) for start in range(0, len(points), step)]


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances ``[N, M]``; exactly 0 where float32 features are the same."""
    aa, bb = a.square().sum(dim=1)[:, None], b.square().sum(dim=1)
    d = aa + bb - 2 * (a @ b.T)
    return torch.where(d > 1e-13 * (aa + bb), d, 0.0)

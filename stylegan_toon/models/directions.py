"""Directions of w along which a generator's pictures change.

Without labels they follow from the weights alone (Shen and Zhou, "Closed-Form Factorization of Latent Semantics in
GANs", arXiv 2007.06600). With measured attributes they are fitted by ridge regression in whitened coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ToonError, short
from .mobile import MobileGenerator
from .stylegan2 import Generator
from .swap import layer_names, parse_swap

SAME_SPACE = 0.05  # of the length of w_avg: float16 moves it by less than 0.001, another mapping network by about 1


def layer_rows(G: Generator) -> dict[str, int]:
    """Which row of ws each modulated layer reads: ``{"b4.conv1": 0, "b8.conv0": 1, "b8.conv1": 2, ...}``."""
    rows: dict[str, int] = {}
    for index, block in enumerate(G.synthesis.blocks()):
        for name, row in (("conv0", 2 * index - 1), ("conv1", 2 * index), ("torgb", 2 * index + 1)):
            if hasattr(getattr(block, name, None), "affine"):
                # A wavelet head has no convolutions below it in its own block.
                rows[f"b{block.resolution}.{name}"] = min(row, G.num_ws - 1)
    return rows


def rows_of(G: Generator, layers: str) -> list[int]:
    """The rows of ws that ``layers`` names, ascending.

    A range of blocks means the rows of its convolutions (a ``torgb`` shares its row with the next block's first
    convolution) and, if the last block is in it, the last row.

    Args:
        layers: blocks, ranges and layers in the grammar of a swap: ``b4-b16``, ``b64-``, ``b32.conv1``, ``all``.

    Raises:
        ToonError: an item that names nothing, a part of a layer, or no modulated layer at all.
    """
    try:
        shares = parse_swap(layers, layer_names(G))
    except ToonError as error:
        raise ToonError(str(error).replace("in the swap", "among the layers")) from None
    if halves := [name for name, share in shares.items() if 0 < share < 1]:
        raise ToonError(f"{halves[0]} cannot be taken in part: leave out its number.")
    rows = layer_rows(G)
    named = [name for name, share in shares.items() if share and name in rows]
    last = [name for name in named if rows[name] == G.num_ws - 1]
    convolutions = [name for name in named if not name.endswith("torgb")]
    chosen = sorted({rows[name] for name in [*convolutions, *last] or named})
    if not chosen:
        raise ToonError(f"{short(repr(layers))} names no layer that reads w: say b4-b16, b64-, or all.")
    return chosen


def modulation_weights(G: Generator, layers: str = "all") -> Tensor:
    """The matrices A of all styles ``A w + b`` that read a row of ``layers``, stacked: ``[styles, w_dim]`` float64."""
    rows, wanted = layer_rows(G), set(rows_of(G, layers))
    if isinstance(G, MobileGenerator):  # the heads of smaller pictures have no part in the largest
        rows = {name: row for name, row in rows.items() if not name.endswith("torgb") or row == G.num_ws - 1}
    matrices = []
    for name, row in rows.items():
        layer = G.synthesis.get_submodule(name)
        for part in ("affine_up", "affine"):
            if row in wanted and (affine := getattr(layer, part, None)) is not None:
                w = torch.zeros(1, G.config.w_dim, device=G.mapping.w_avg.device)
                identity = torch.eye(G.config.w_dim, device=w.device)
                matrices.append((affine(identity) - affine(w)).detach().double().T)
    return torch.cat(matrices)


def sefa(G: Generator, layers: str = "all", count: int | None = None) -> Tensor:
    """Directions without labels: the eigenvectors of A^T A, largest eigenvalue first (SeFa, equation 5).

    No other unit vector changes the styles of ``layers`` more than the first; each further one changes them most
    among those at right angles to the earlier ones.

    Args:
        layers: see `rows_of`.
        count: how many; None = w_dim.

    Returns:
        Unit vectors ``[count, w_dim]`` float32 on the network's device. The sign of each is chosen so that its
        largest entry is positive.

    Raises:
        ToonError: layers that are not there.
    """
    A = modulation_weights(G, layers)
    vectors = torch.linalg.eigh(A.T @ A).eigenvectors.flip(1).T[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign()).float()


@torch.no_grad()
def fit_directions(
    w: Tensor, attributes: Tensor, *, held: Sequence[Sequence[int]] | None = None, population: Tensor | None = None,
    rank: int | None = None, ridge: float = 0.1,
) -> Tensor:  # fmt: skip
    """The shortest moves in whitened w that change one attribute by a standard deviation and keep others.

    In coordinates z in which w has unit covariance, ridge regression gives B ``[rank, A]`` with attributes = z B.
    The move of attribute a is the shortest d with d B = 1 for a and 0 for each attribute that is held:
    d = H (H^T H)^-1 e_a, with H the columns of B for a and those held.

    Args:
        w: ``[N, w_dim]``, the w of N pictures.
        attributes: ``[N, A]``, what was measured in them, in any units.
        held: for each attribute, those that are to stay; None = all others.
        population: ``[M, w_dim]`` to take the covariance from; None = ``w``.
        rank: principal components of w that are used; None = all that the samples span.
        ridge: weight of the squared coefficients, as a share of N.

    Returns:
        ``[A, w_dim]`` float32: what to add to w.

    Raises:
        ValueError: too few samples, or an attribute that is the same in all.
    """
    w, y = w.double(), attributes.double()
    if len(w) != len(y) or len(w) < 3:
        raise ValueError(f"needs as many w as measurements, and at least 3, not {len(w)} and {len(y)}")
    spread = y.std(0)
    if not bool((spread > 0).all()):
        raise ValueError("an attribute is the same in all samples")
    y = (y - y.mean(0)) / spread
    source = w if population is None else population.double()
    centre = source.mean(0)
    _, singular, axes = torch.linalg.svd(source - centre, full_matrices=False)
    keep = int((singular > 1e-6 * singular[0]).sum())
    keep = keep if rank is None else min(rank, keep)
    scale = singular[:keep] / (len(source) - 1) ** 0.5
    z = (w - centre) @ axes[:keep].T / scale
    z = z - z.mean(0)
    gram = z.T @ z + ridge * len(z) * torch.eye(keep, dtype=z.dtype)
    B = torch.linalg.solve(gram, z.T @ y)
    moves = []
    for a in range(y.shape[1]):
        others = [i for i in range(y.shape[1]) if i != a] if held is None else list(held[a])
        H = B[:, [a, *others]]
        unit = torch.zeros(H.shape[1], dtype=z.dtype)
        unit[0] = 1
        moves.append(H @ torch.linalg.solve(H.T @ H, unit))
    return ((torch.stack(moves) * scale) @ axes[:keep]).float()


@dataclass(frozen=True)
class DirectionsConfig:
    """What the directions are.

    Attributes:
        names: of the directions.
        about: what each changes, in a sentence.
        layers: the layers in which each acts, in the grammar of a swap.
        w_dim: length of w.
    """

    names: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    w_dim: int = 512

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.about) == len(self.layers):
            raise ValueError("names, about and layers must be of one length")


class Directions(nn.Module):
    """Named directions of w, each for some layers: what `edit` moves along.

    A direction is scaled so that an amount of 1 changes its attribute by one standard deviation over random faces.

    Attributes:
        vectors: ``[count, w_dim]``.
        w_avg: ``[w_dim]`` of the network they were found in; other networks with this w_avg share its w.
    """

    vectors: Tensor
    w_avg: Tensor

    def __init__(self, config: DirectionsConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("vectors", torch.zeros(len(config.names), config.w_dim))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def fits(self, G: Generator) -> bool:
        """Whether ``G`` has the w in which these directions were found."""
        mean = self.w_avg.to(G.mapping.w_avg)
        if G.mapping.w_avg.shape != mean.shape:
            return False
        return float((G.mapping.w_avg - mean).norm()) <= SAME_SPACE * float(mean.norm())

    def offsets(self, G: Generator, amounts: Mapping[str, float]) -> Tensor:
        """The sum of the moves ``amounts``, as ``[num_ws, w_dim]`` to add to ws.

        Raises:
            ToonError: a name that is not among the directions, or a network with another w.
        """
        if not self.fits(G):
            raise ToonError("The named directions are made for faces and networks trained from it: use --sefa.")
        total = torch.zeros(G.num_ws, G.config.w_dim, device=G.mapping.w_avg.device)
        for name, amount in amounts.items():
            if name not in self.config.names:
                raise ToonError(f"There is no direction {short(repr(name))}: say {', '.join(self.config.names)}.")
            index = self.config.names.index(name)
            total[rows_of(G, self.config.layers[index])] += amount * self.vectors[index].to(total)
        return total

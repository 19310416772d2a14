"""Swap layers between two networks: the person's structure in the drawing's colours, or the reverse."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from ..data.images import image_grid, to_pil
from ..models import Generator
from ..models.swap import swap_layers
from ..weights import descend, load_network, name_of, same_file, unrelated
from .defaults import BLEND_SWAP
from .generate import generate


def blend(
    base: Generator | str | Path,
    toon: Generator | str | Path,
    swap: str = BLEND_SWAP,
    width: float | None = None,
) -> Generator:
    """A new generator: the base's layers, but those listed in ``swap`` from the toon.

    Warns when the files of the two have no common ancestor (layers of networks that were trained apart do not fit
    together), and when both are the same network.

    Args:
        base, toon: generators, or sources for `load_network`.
        swap: ``b64,b128`` · ranges ``b64-``, ``-b32``, ``b16-b64`` · layers ``b64.conv0`` · interpolation
            ``b64=0.5`` · ``mapping`` · ``all`` · presets ``toonify``, ``fine-toon``. Empty = the base.
            See `models.swap.parse_swap` for the grammar, and `models.swap` for the tensors that belong to a layer.
        width: smooth the swap over this many octaves; see `models.swap.smooth`. None = hard.

    Returns:
        A generator in eval mode, with ``.provenance``.

    Raises:
        ToonError: the networks do not fit together, or the swap names no part of them.
    """
    base, toon = (load_network(part) if isinstance(part, (str, Path)) else part for part in (base, toon))
    names = name_of(base, "base"), name_of(toon, "toon")
    result = swap_layers(base, toon, swap, width, names=names)
    if base is toon or same_file(base, toon):
        warnings.warn(f"base and toon are one network ({names[0]}): the blend is that network again.", stacklevel=2)
    elif unrelated(base, toon):
        warnings.warn(
            f"{names[0]} and {names[1]} share no ancestor according to their files: blends look good where one network "
            "was trained from the other.",
            stacklevel=2,
        )
    result.provenance = descend("blend", {"swap": swap, "width": width}, [base, toon])
    return result


def comparison(
    networks: Mapping[str, Generator], seeds: Sequence[int], *, psi: float = 0.7, dtype: torch.dtype | None = None
) -> Image.Image:
    """A sheet with a row for each seed and a column for each network.

    Args:
        networks: by the label of their column.
        seeds, psi, dtype: see `generate`.
    """
    columns = [[to_pil(picture) for picture in generate(G, seeds, psi=psi, dtype=dtype)] for G in networks.values()]
    return image_grid(
        [picture for row in zip(*columns) for picture in row],
        columns=len(networks),
        size=max(128, *(G.config.resolution for G in networks.values())),
        column_labels=list(networks),
        row_labels=[f"seed {seed}" for seed in seeds],
    )

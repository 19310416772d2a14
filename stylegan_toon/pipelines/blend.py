"""Swap layers between two networks: the person's structure in the drawing's colours, or the reverse."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from ..data.images import image_grid, to_pil
from ..models import Generator
from ..models.swap import swap_layers
from ..weights import descend, load_network, name_of, unrelated
from .generate import generate


def blend(
    base: Generator | str | Path,
    toon: Generator | str | Path,
    swap: str = "b64,b128",
    width: float | None = None,
) -> Generator:
    """A new generator: the base's layers, but those listed in ``swap`` from the toon.

    Warns when the files of the two show no common ancestor: layers of networks that were trained apart do not
    fit together.

    Args:
        base, toon: generators, or sources for `load_network`.
        swap: ``b64,b128`` · ranges ``b64-``, ``-b32``, ``b16-b64`` · layers ``b64.conv0`` · interpolation
            ``b64=0.5`` · ``mapping`` · ``all`` · presets ``toonify``, ``fine-toon``. Empty = the base.
            See `models.swap.parse_swap` for the grammar, and `models.swap` for what goes over with a layer.
        width: smooth the swap over this many octaves; see `models.swap.smooth`. None = hard.

    Returns:
        A generator in eval mode, with ``.provenance``.

    Raises:
        ToonError: the networks do not fit together, or a swap that cannot be.
    """
    base, toon = (load_network(part) if isinstance(part, (str, Path)) else part for part in (base, toon))
    names = name_of(base, "base"), name_of(toon, "toon")
    result = swap_layers(base, toon, swap, width, names=names)
    if unrelated(base, toon):
        warnings.warn(
            f"{names[0]} and {names[1]} share no ancestor as far as their files say: blends of networks that were "
            "not taught one from the other rarely look good.",
            stacklevel=2,
        )
    result.provenance = descend("blend", {"swap": swap, "width": width}, [base, toon])
    return result


def comparison(networks: dict[str, Generator], seeds: list[int], **options) -> Image.Image:
    """A sheet with a row for each seed and a column for each network. ``options`` go to `generate`."""
    columns = [[to_pil(picture) for picture in generate(G, seeds, **options)] for G in networks.values()]
    return image_grid(
        [picture for row in zip(*columns) for picture in row],
        columns=len(networks),
        size=max(128, *(G.config.resolution for G in networks.values())),
        column_labels=list(networks),
        row_labels=[f"seed {seed}" for seed in seeds],
    )

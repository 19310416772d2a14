"""Which networks to compare for likeness: the family of a base and a toon, and networks by name; and their pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from ..data.images import image_grid, to_pil
from ..errors import ToonError
from ..features.perceptual import fit
from ..metrics.batches import latents
from ..metrics.likeness import SIZE
from ..models import Generator
from ..models.sides import side_or_largest
from ..weights import load_network
from .blend import blend

# The networks that fine-tooning compares, as swaps; the default pair has them in pretrained/models.toml.
FAMILY = {
    "toonify-original": "toonify",
    "toon-transferred": "all",
    "toon-ours": "fine-toon",
    "toon-ours-negative": "b32-",
}


def family(base: Generator, toon: Generator) -> dict[str, Generator]:
    """The blends of two networks that fine-tooning compares, by name.

    ``toonify-original``: the toon's structure in the base's colours. ``toon-transferred``: the toon as it is.
    ``toon-ours``: the base's structure in the toon's colours. ``toon-ours-negative``: one more block from the toon.

    Raises:
        ToonError: the networks do not fit together or lack the blocks.
    """
    return {
        name: toon if name == "toon-transferred" else blend(base, toon, swap)
        for name, swap in FAMILY.items()
    }  # fmt: skip


def named_networks(sources: Sequence[str], device: torch.device | str = "cpu") -> dict[str, Generator]:
    """Networks by short, distinct names: a zoo name as it is, ``folder/stem`` of files whose stems are the same.

    Raises:
        ToonError: a source cannot be loaded, or is named twice.
    """
    stems = {source: Path(source.partition("#")[0]).name.removesuffix(".safetensors") for source in sources}
    if twice := [source for source, number in Counter(sources).items() if number > 1]:
        raise ToonError(f"{twice[0]} is named twice: name it once.")
    often = Counter(stems.values())
    labels = {
        source: stem if often[stem] == 1 else f"{Path(source).resolve().parent.name}/{stem}"
        for source, stem in stems.items()
    }
    if len(set(labels.values())) < len(labels):
        labels = {source: source for source in sources}
    return {labels[source]: load_network(source, device=device) for source in sources}


@torch.no_grad()
def faces_sheet(
    networks: Mapping[str, Generator], base: Generator, *, count: int = 6, psi: float = 0.7, seed: int = 0
) -> Image.Image:
    """A row for the base and for each network, a column for each of the first latents of `measure_likeness`."""
    z = latents(base, count, seed).to(base.mapping.w_avg.device)
    ws = base.mapping(z, psi=psi)
    rows = {"base": base, **networks}
    pictures = []
    for network in rows.values():
        side = side_or_largest(network, SIZE)
        pictures += [to_pil(fit(network.synthesis(w[None], resolution=side), SIZE)[0]) for w in ws]
    return image_grid(pictures, columns=count, size=SIZE, row_labels=list(rows))

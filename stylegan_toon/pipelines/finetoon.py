"""Fine-tooning: tune a blended network until its drawings look like the person again.

For every seed three networks make a picture of the same z: the *anchor* (a copy of the blend, the only one that
learns), the *positive* (the network of the person) and the *negative* (a toonier blend: one more block of the toon).
A triplet loss (Schroff et al., "FaceNet", arXiv 1503.03832, equation 3) on face embeddings pulls the anchor's face
towards the person's and away from the cartoon's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ToonError
from ..features.identity import FaceEmbedder, face_embedder
from ..models import Generator
from ..models.swap import layer_names, parse_swap, swap_layers
from ..weights import descend, load_network, name_of
from .blend import blend
from .generate import latents


class Triplet(NamedTuple):
    """The three networks, and where they come from."""

    anchor: Generator
    positive: Generator
    negative: Generator
    toon: Generator
    swap: str
    negative_swap: str


@dataclass(frozen=True)
class Progress:
    """What `tune` tells after every step.

    Attributes:
        epoch: from 1.
        step, steps: of this epoch, from 1.
        loss: mean triplet loss of the batch.
        to_person, to_toon: mean cosine of the batch's anchors with positives and negatives, before the step.
        generator: the anchor as it is now.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    to_person: float
    to_toon: float
    generator: Generator


def triplet_loss(to_person: Tensor, to_toon: Tensor, margin: float = 1.0, legacy_sign: bool = False) -> Tensor:
    """max(0, margin + d(anchor, positive) - d(anchor, negative)) with the distance d = 1 - cosine.

    Args:
        to_person, to_toon: cosines of anchor and positive, anchor and negative; one shape.
        margin: by how much the person is to be nearer than the cartoon.
        legacy_sign: take the cosine itself for the distance, as the first code for fine-tooning did: it rewards
            moving away from the person. For comparison only.

    Returns:
        The shape of the arguments.
    """
    gap = to_person - to_toon if legacy_sign else to_toon - to_person
    return F.relu(gap + margin)


def toonier(swap: str, names: list[str]) -> str:
    """The swap with one more block from the toon: the one below (coarser than) the lowest that is swapped.

    Args:
        swap: in the grammar of `models.swap.parse_swap`.
        names: of the layers, from `models.swap.layer_names`.

    Raises:
        ToonError: nothing is swapped, or nothing is left below.
    """
    shares = parse_swap(swap, names)
    blocks = list(dict.fromkeys(name.partition(".")[0] for name in names if name != "mapping"))
    swapped = {name.partition(".")[0] for name in names if shares[name] > 0}
    lowest = next((index for index, block in enumerate(blocks) if block in swapped), 0)
    if lowest == 0:
        raise ToonError(f"No block lies below those of --swap {swap!r} to make it toonier: say --negative-swap.")
    return f"{swap},{blocks[lowest - 1]}"


def triplet(
    base: Generator | str | Path, toon: Generator | str | Path, swap: str, negative_swap: str | None = None
) -> Triplet:
    """Anchor, positive and negative; see `finetoon` for arguments and errors."""
    base, toon = (load_network(part) if isinstance(part, (str, Path)) else part for part in (base, toon))
    if base.config.c_dim:
        raise ToonError("Networks with classes cannot be fine-tooned: give --base and --toon without.")
    anchor = blend(base, toon, swap)
    negative_swap = toonier(swap, layer_names(base)) if negative_swap is None else negative_swap
    negative = swap_layers(base, toon, negative_swap, names=(name_of(base, "base"), name_of(toon, "toon")))
    return Triplet(anchor, base, negative, toon, swap, negative_swap)


def finetoon(
    base: Generator | str | Path,
    toon: Generator | str | Path,
    swap: str = "fine-toon",
    *,
    negative_swap: str | None = None,
    **options,
) -> Generator:
    """Blend two networks and tune the blend so that it keeps the face of the base.

    Args:
        base: the person's network, or a source for `load_network`: the positive.
        toon: the drawing's; its layers make the blend.
        swap: the layers of the anchor that come from the toon, see `models.swap.parse_swap`.
        negative_swap: the same for the negative. None = ``swap`` and the block below it, see `toonier`.
        **options: how to tune, see `tune`.

    Returns:
        A generator in eval mode, with ``.provenance``. Base and toon are left as they are.

    Raises:
        ToonError: networks that do not fit together or know classes, swaps that cannot be, and those of `tune`.
    """
    return tune(triplet(base, toon, swap, negative_swap), **options)


def tune(
    networks: Triplet,
    *,
    seeds: Sequence[int] = range(100),
    epochs: int = 10,
    batch: int = 4,
    psi: float = 0.7,
    lr: float = 1e-5,
    margin: float = 1.0,
    legacy_sign: bool = False,
    identity: str | Path | FaceEmbedder = "dlib",
    seed: int = 0,
    callback: Callable[[Progress], object] = lambda progress: None,
) -> Generator:
    """Train the anchor, in place, mapping network and all, with Adam on the triplet loss; noise inputs are constant.

    Args:
        networks: from `triplet`, on one device.
        seeds: the fixed pool of pictures; each is seen once an epoch.
        epochs: 0 leaves the blend as it is.
        batch: pictures per step.
        psi: truncation of every picture.
        lr: of Adam.
        margin, legacy_sign: see `triplet_loss`.
        identity: the face embedding, see `features.identity.face_embedder`.
        seed: of the order of the pictures.
        callback: called after every step. Ctrl-C from the first step on ends the training, and what was learnt is
            returned with ``provenance["interrupted"]`` true.

    Returns:
        The anchor in eval mode. Its provenance holds the parents, the options, ``identity`` (name of the
        embedding), ``epochs`` (completed), ``steps``, ``loss`` (mean of each completed epoch) and ``interrupted``.

    Raises:
        ToonError: no seeds, no such embedding, or a loss that is no longer a number.
    """
    G, pool = networks.anchor, list(dict.fromkeys(seeds))
    if not pool:
        raise ToonError("Fine-tooning needs at least one seed.")
    device = G.mapping.w_avg.device
    embedder = face_embedder(identity, device=device)
    z = latents(pool, G.config.z_dim).to(device)

    def embed(network: Generator, part: Tensor) -> Tensor:
        # float32 throughout: the loss's gradient on one pixel is small enough to vanish in float16.
        return embedder(network(part, psi=psi, noise_mode="const", dtype=torch.float32))

    with torch.no_grad():  # these two never change
        person, cartoon = (
            torch.cat([embed(network, part) for part in z.split(batch)])
            for network in (networks.positive, networks.negative)
        )
    optimizer = torch.optim.Adam(G.requires_grad_(True).parameters(), lr=lr)
    order = torch.Generator().manual_seed(seed)
    means: list[float] = []
    steps, interrupted = 0, False
    try:
        for epoch in range(1, epochs + 1):
            total, parts = 0.0, torch.randperm(len(pool), generator=order).to(device).split(batch)
            for step, rows in enumerate(parts, 1):
                face = embed(G, z[rows])
                to_person, to_toon = (F.cosine_similarity(face, known[rows]) for known in (person, cartoon))
                loss = triplet_loss(to_person, to_toon, margin, legacy_sign).mean()
                if not torch.isfinite(loss):
                    raise ToonError(f"The loss is no longer a number in epoch {epoch}: choose a lower --lr.")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps += 1
                figures = [float(tensor.detach().mean()) for tensor in (loss, to_person, to_toon)]
                total += figures[0] * len(rows)
                if step == len(parts):
                    means.append(total / len(pool))
                callback(Progress(epoch, step, len(parts), *figures, G))
    except KeyboardInterrupt:
        interrupted = True
    optimizer.zero_grad()
    options = {
        "swap": networks.swap, "negative_swap": networks.negative_swap, "seeds": pool, "epochs": epochs,
        "batch": batch, "psi": psi, "lr": lr, "margin": margin, "legacy_sign": legacy_sign, "seed": seed,
    }  # fmt: skip
    G.provenance = descend(
        "finetoon", options, [networks.positive, networks.toon],
        identity=embedder.name, epochs=len(means), steps=steps, loss=means, interrupted=interrupted,
    )  # fmt: skip
    return G.eval()

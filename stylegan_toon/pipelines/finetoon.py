"""Fine-tooning: tune a blended network until its drawings look like the person again.

For every seed three networks make a picture of the same z: the *anchor* (a copy of the blend, the only one that
learns), the *positive* (the network of the person) and the *negative* (a toonier blend: one more block of the toon).
A triplet loss (Schroff et al., "FaceNet", arXiv 1503.03832, equation 3) on face embeddings pulls the anchor's face
towards the person's and away from the cartoon's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ACCELERATE, DTYPES, MAX_SEED, Config, option
from ..errors import ToonError
from ..features.identity import FaceEmbedder, face_embedder
from ..models import Generator
from ..models.accelerate import accelerate
from ..models.swap import layer_names, parse_swap, swap_layers
from ..weights import descend, load_network, name_of
from .blend import blend
from .defaults import FINETOON_SWAP
from .generate import latents


@dataclass(frozen=True)
class FinetoonConfig(Config):
    """How to fine-tune a blend.

    Attributes:
        epochs: rounds through the seeds; 0 leaves the blend as it is.
        batch: pictures per step.
        lr: of Adam.
        margin, legacy_sign: see `triplet_loss`.
        identity: the face embedding, see `features.identity.face_embedder`.
        psi: truncation of every picture.
        dtype: precision of the four highest blocks: "float32", "bfloat16", "float16", or "auto" for what the network
            is configured for. The gradient of the loss on one pixel is small enough to vanish in float16.
        accelerate: how the two networks that do not change are run, see `models.accelerate.accelerate`; "compile" also
            compiles the one that is trained.
        seed: of the order of the pictures, 0 to 2**32 - 1.

    Raises:
        ConfigError: a value has the wrong type, is not finite, or lies outside its limits.
    """

    epochs: int = option(10, "Rounds through the seeds.", low=0, high=99_999)
    batch: int = option(4, "Pictures per step.", low=1, high=1024)
    lr: float = option(1e-5, "Learning rate, for all of G.", above=0)
    margin: float = option(1.0, "Margin of the triplet loss.", low=0, high=100)
    legacy_sign: bool = option(False, "The mistake of the first fine-tooning: move away from the person.")
    identity: str = option("dlib", "Face embedding: dlib, facenet, or a file with FaceNet's weights.")
    psi: float = option(0.7, "Truncation: 1 is the full variety, 0 the mean face.", low=-2, high=2)
    dtype: str = option(
        "float32", "Precision of the four highest blocks; float16 loses small gradients.", choices=DTYPES
    )
    accelerate: str = option(
        "auto", "CUDA graphs at small batch (auto), none (off), CUDA graphs always, or torch.compile.",
        choices=ACCELERATE,
    )  # fmt: skip
    seed: int = option(0, "Seed of the order of the pictures.", low=0, high=MAX_SEED)


class Triplet(NamedTuple):
    """The three networks, the toon network and the swaps they were made with."""

    anchor: Generator
    positive: Generator
    negative: Generator
    toon: Generator
    swap: str
    negative_swap: str


@dataclass(frozen=True)
class Progress:
    """The state of the training, given to the callback after every step.

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
        raise ToonError(f"No block lies below those of --swap {swap!r} to make it toonier: add --negative-swap.")
    return f"{swap},{blocks[lowest - 1]}"


def triplet(
    base: Generator | str | Path, toon: Generator | str | Path, swap: str, negative_swap: str | None = None
) -> Triplet:
    """Anchor, positive and negative; see `finetoon` for arguments and errors."""
    base, toon = (load_network(part) if isinstance(part, (str, Path)) else part for part in (base, toon))
    if base.config.c_dim:
        raise ToonError("Networks with classes cannot be fine-tooned: give a --base and a --toon without classes.")
    anchor = blend(base, toon, swap)
    negative_swap = toonier(swap, layer_names(base)) if negative_swap is None else negative_swap
    negative = swap_layers(base, toon, negative_swap, names=(name_of(base, "base"), name_of(toon, "toon")))
    return Triplet(anchor, base, negative, toon, swap, negative_swap)


def finetoon(
    base: Generator | str | Path,
    toon: Generator | str | Path,
    swap: str = FINETOON_SWAP,
    *,
    negative_swap: str | None = None,
    seeds: Sequence[int] = range(100),
    config: FinetoonConfig | None = None,
    embedder: FaceEmbedder | None = None,
    callback: Callable[[Progress], object] = lambda progress: None,
) -> Generator:
    """Blend two networks and tune the blend so that it keeps the face of the base.

    Args:
        base: the person's network, or a source for `load_network`: the positive.
        toon: the drawing's; its layers make the blend.
        swap: the layers of the anchor that come from the toon, see `models.swap.parse_swap`.
        negative_swap: the same for the negative. None = ``swap`` and the block below it, see `toonier`.
        seeds, config, embedder, callback: see `tune`.

    Returns:
        A generator in eval mode, with ``.provenance``. Base and toon are left as they are.

    Raises:
        ToonError: networks that do not fit together or have classes, swaps that name no part of them, and as `tune`.
    """
    networks = triplet(base, toon, swap, negative_swap)
    return tune(networks, seeds=seeds, config=config, embedder=embedder, callback=callback)


def tune(
    networks: Triplet,
    *,
    seeds: Sequence[int] = range(100),
    config: FinetoonConfig | None = None,
    embedder: FaceEmbedder | None = None,
    callback: Callable[[Progress], object] = lambda progress: None,
) -> Generator:
    """Train the anchor, in place and mapping network included, with Adam on the triplet loss; the noise is constant.

    Args:
        networks: from `triplet`, on one device.
        seeds: the fixed pool of pictures; each is used once an epoch.
        config: how to train; None = the defaults.
        embedder: a face embedding to use in place of the one that ``config.identity`` names.
        callback: called after every step. Ctrl-C from the first step on ends the training, and the network of the
            last step is returned with ``provenance["interrupted"]`` true.

    Returns:
        The anchor in eval mode. Its provenance holds the parents, the options, ``identity`` (name of the
        embedding), ``epochs`` (completed), ``steps``, ``loss`` (mean of each completed epoch) and ``interrupted``.

    Raises:
        ToonError: no seeds, an unknown face embedding, or a loss that is not finite.
    """
    config = config or FinetoonConfig()
    G, pool, batch = networks.anchor, list(dict.fromkeys(seeds)), config.batch
    if not pool:
        raise ToonError("Fine-tooning needs at least one seed.")
    device = G.mapping.w_avg.device
    embedder = face_embedder(embedder or config.identity, device=device)
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    z = latents(pool, G.config.z_dim).to(device)

    def embed(network: Callable[..., Tensor], part: Tensor) -> Tensor:
        return embedder(network(part, psi=config.psi, noise_mode="const", dtype=dtype))

    with torch.no_grad():  # these two networks do not change
        person, cartoon = (
            torch.cat([embed(accelerate(network, config.accelerate), part) for part in z.split(batch)])
            for network in (networks.positive, networks.negative)
        )
    # CUDA graphs have no gradients, so the anchor is only ever compiled.
    anchor = accelerate(G, config.accelerate if config.accelerate == "compile" else "off")
    optimizer = torch.optim.Adam(G.requires_grad_(True).parameters(), lr=config.lr)
    order = torch.Generator().manual_seed(config.seed)
    means: list[float] = []
    steps, interrupted = 0, False
    try:
        for epoch in range(1, config.epochs + 1):
            total, parts = 0.0, torch.randperm(len(pool), generator=order).to(device).split(batch)
            for step, rows in enumerate(parts, 1):
                face = embed(anchor, z[rows])
                to_person, to_toon = (F.cosine_similarity(face, fixed[rows]) for fixed in (person, cartoon))
                loss = triplet_loss(to_person, to_toon, config.margin, config.legacy_sign).mean()
                if not torch.isfinite(loss):
                    raise ToonError(f"The loss is not finite in epoch {epoch}: choose a lower --lr.")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps += 1
                value, person_cosine, toon_cosine = (float(t.detach().mean()) for t in (loss, to_person, to_toon))
                total += value * len(rows)
                if step == len(parts):
                    means.append(total / len(pool))
                callback(Progress(epoch, step, len(parts), value, person_cosine, toon_cosine, G))
    except KeyboardInterrupt:
        interrupted = True
    optimizer.zero_grad()
    options = {
        "swap": networks.swap, "negative_swap": networks.negative_swap, "seeds": pool,
        **{name: value for name, value in asdict(config).items() if name not in ("identity", "accelerate")},
    }  # fmt: skip
    G.provenance = descend(
        "finetoon", options, [networks.positive, networks.toon],
        identity=embedder.name, epochs=len(means), steps=steps, loss=means, interrupted=interrupted,
    )  # fmt: skip
    return G.eval()

"""Fine-tooning: tune a blended network until its drawings look like the person again.

For the same z three networks make a picture: the *anchor* (a copy of the blend, the only one that learns), the
*positive* (the network of the person) and the *negative* (a toonier blend: one more block of the toon). A triplet loss
(Schroff et al., "FaceNet", arXiv 1503.03832, equation 3) on face embeddings pulls the anchor's face towards the
person's and away from the cartoon's. Three more terms give it the person's colours and keep it the cartoon it was.
"""

from __future__ import annotations

import math
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
from ..inversion.tuning import learns
from ..models import Generator
from ..models.accelerate import accelerate
from ..models.sides import side_or_largest
from ..models.swap import layer_names, parse_swap, swap_layers
from ..training.jitter import Jitter
from ..training.toon_losses import StayCartoon, chroma, colour_loss, structure_loss, triplet_loss
from ..weights import descend, load_network, name_of
from .blend import blend
from .defaults import FINETOON_SWAP
from .generate import latents

EPOCH = 100  # fresh latents in an epoch: as many as the first fine-tooning had
_CACHED = 200  # fixed seeds whose targets are kept; bounds memory
_WARM_UP = 10  # steps


@dataclass(frozen=True)
class FinetoonConfig(Config):
    """How to fine-tune a blend.

    Attributes:
        epochs: rounds through the seeds, or through 100 fresh latents; 0 leaves the blend as it is.
        batch: pictures per step.
        lr: of Adam, at its peak.
        schedule: "cosine" (the rate rises over 10 steps and falls to a tenth) or "constant", as published.
        blocks: what learns: "coarse", the blocks up to 64 px without their torgb layers, so that the finer ones draw
            lines as before; or "all" of G with its mapping network, as published.
        resolution: side of the pictures that are compared; the largest that the networks make if they do not make it.
        triplet: weight of the triplet loss; the published loss is this alone, at weight 1.
        likeness: weight of 1 - cosine of anchor and positive, which pulls without pushing away from the cartoon.
        structure: weight of the distance of the recogniser's inner features, which have places, to the person's; see
            `training.toon_losses.structure_loss`. Only dlib has them, and others leave it out.
        colour: weight of the distance to the person's colours, see `training.toon_losses.colour_loss`.
        keep: weight of the distance to the blend's features, place by place, see `training.toon_losses.StayCartoon`.
        texture: weight of the distance to their means and standard deviations.
        jitter: how much faces are moved, turned, mirrored and lit, all of one z alike, before the recogniser sees them,
            in units of `training.jitter`'s limits; 0 = not at all, as published.
        margin, legacy_sign: see `training.toon_losses.triplet_loss`.
        identity: the face embedding, see `features.identity.face_embedder`.
        psi: truncation of every picture.
        dtype: precision of the four highest blocks: "float32", "bfloat16", "float16", or "auto" for what the network
            is configured for. The gradient of the loss on one pixel is small enough to vanish in float16.
        accelerate: how the two networks that do not change are run, see `models.accelerate.accelerate`; "compile" also
            compiles the one that is trained.
        seed: of fresh latents and of the order of fixed ones, 0 to 2**32 - 1.

    Raises:
        ConfigError: a value has the wrong type, is not finite, or lies outside its limits.
    """

    epochs: int = option(3, "Rounds through the seeds, or through 100 fresh latents.", low=0, high=99_999)
    batch: int = option(4, "Pictures per step.", low=1, high=1024)
    lr: float = option(1e-3, "Peak learning rate.", above=0)
    schedule: str = option(
        "cosine", "The rate rises over 10 steps and falls to a tenth, or is constant.", choices=("cosine", "constant")
    )
    blocks: str = option(
        "coarse", "What learns: the blocks up to 64 px, so that lines stay crisp, or all of G.",
        choices=("coarse", "all"),
    )  # fmt: skip
    resolution: int = option(256, "Side of the pictures that are compared, where the networks make it.", low=4)
    triplet: float = option(1.0, "Weight of the triplet loss.", low=0, high=1e6)
    likeness: float = option(20.0, "Weight of the distance to the person's face alone.", low=0, high=1e6)
    structure: float = option(
        5.0, "Weight of the distance to the inner features of the person's face (dlib only).", low=0, high=1e6
    )
    colour: float = option(10.0, "Weight of the distance to the person's colours.", low=0, high=1e6)
    keep: float = option(0.3, "Weight of the distance to the blend's features.", low=0, high=1e6)
    texture: float = option(6.0, "Weight of the distance to the statistics of the blend's features.", low=0, high=1e6)
    jitter: float = option(
        1.0, "How much faces are moved, turned, mirrored and lit before they are compared; 0 is not at all.",
        low=0, high=2,
    )  # fmt: skip
    margin: float = option(1.0, "Margin of the triplet loss.", low=0, high=100)
    legacy_sign: bool = option(False, "The mistake of the first fine-tooning: move away from the person.")
    identity: str = option("dlib", "Face embedding: dlib, faceres, facenet, or a file with FaceNet's weights.")
    psi: float = option(0.7, "Truncation: 1 is the full variety, 0 the mean face.", low=-2, high=2)
    dtype: str = option(
        "float32", "Precision of the four highest blocks; float16 loses small gradients.", choices=DTYPES
    )
    accelerate: str = option(
        "auto", "CUDA graphs at small batch (auto), none (off), CUDA graphs always, or torch.compile.",
        choices=ACCELERATE,
    )  # fmt: skip
    seed: int = option(0, "Seed of fresh latents, and of the order of fixed ones.", low=0, high=MAX_SEED)

    @property
    def rounds(self) -> int:
        """Steps of an epoch of fresh latents."""
        return -(-EPOCH // self.batch)


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
        loss: mean loss of the batch.
        to_person, to_toon: mean cosine of the batch's anchors with positives and negatives, before the step.
        terms: the mean of each term before its weight: "triplet", "likeness", "colour" ...
        generator: the anchor as it is now.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    to_person: float
    to_toon: float
    terms: dict[str, float]
    generator: Generator


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
    names = layer_names(base)
    shares = parse_swap(swap, names)
    if not any(shares.values()):
        raise ToonError(f"--swap {swap!r} takes nothing from the toon, so there is nothing to tune: name blocks of it.")
    given, negative_swap = negative_swap, toonier(swap, names) if negative_swap is None else negative_swap
    further = parse_swap(negative_swap, names)
    if further == shares:
        raise ToonError(
            f"--swap {swap!r} and --negative-swap {given!r} are the same blend: let the negative take more of the toon."
        )
    if all(further[name] <= shares[name] for name in names):
        raise ToonError(
            f"--negative-swap {given!r} takes less of the toon than --swap {swap!r}: let it take more, or leave it out."
        )
    anchor = blend(base, toon, swap)
    negative = swap_layers(base, toon, negative_swap, names=(name_of(base, "base"), name_of(toon, "toon")))
    return Triplet(anchor, base, negative, toon, swap, negative_swap)


def finetoon(
    base: Generator | str | Path,
    toon: Generator | str | Path,
    swap: str = FINETOON_SWAP,
    *,
    negative_swap: str | None = None,
    seeds: Sequence[int] | None = None,
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
        ToonError: networks that do not fit together or have classes, swaps that name no part of them or give nothing to
            learn from, and as `tune`.
    """
    networks = triplet(base, toon, swap, negative_swap)
    return tune(networks, seeds=seeds, config=config, embedder=embedder, callback=callback)


class _Targets(NamedTuple):
    """The pictures that those of a batch are compared with; a row for each."""

    person: Tensor
    cartoon: Tensor  # by the toonier blend
    start: Tensor  # by the blend before training, small


def tune(
    networks: Triplet,
    *,
    seeds: Sequence[int] | None = None,
    config: FinetoonConfig | None = None,
    embedder: FaceEmbedder | None = None,
    callback: Callable[[Progress], object] = lambda progress: None,
) -> Generator:
    """Train the anchor, in place, with Adam on the triplet loss and the other terms; the noise is constant.

    Args:
        networks: from `triplet`, on one device.
        seeds: a fixed pool of pictures; each is used once an epoch. None = fresh latents, 100 an epoch.
        config: how to train; None = the defaults.
        embedder: a face embedding to use in place of the one that ``config.identity`` names.
        callback: called after every step. Ctrl-C from the first step on ends the training, and the network of the
            last step is returned with ``provenance["interrupted"]`` true.

    Returns:
        The anchor in eval mode. Its provenance holds the parents, the options, ``identity`` (name of the
        embedding), ``epochs`` (completed), ``steps``, ``loss`` (mean of each completed epoch) and ``interrupted``.

    Raises:
        ToonError: no seeds, an unknown face embedding, nothing to learn from, or a loss that is not finite.
    """
    config = config or FinetoonConfig()
    G, pool = networks.anchor, None if seeds is None else list(dict.fromkeys(seeds))
    if pool is not None and not pool:
        raise ToonError("Fine-tooning needs at least one seed.")
    if not (config.triplet or config.likeness or config.structure or config.colour):
        raise ToonError(
            "Nothing pulls towards the person: give --triplet, --likeness, --structure or --colour a weight."
        )
    device = G.mapping.w_avg.device
    embedder = face_embedder(embedder or config.identity, device=device)
    terms = _Terms(networks, config, embedder)
    parameters = learning(G, config.blocks)
    optimizer = torch.optim.Adam(parameters, lr=config.lr)
    random = torch.Generator().manual_seed(config.seed)
    fixed = None if pool is None else latents(pool, G.config.z_dim).to(device)
    kept = None
    if fixed is not None and len(fixed) <= _CACHED:
        parts = [terms.targets(part) for part in fixed.split(config.batch)]
        kept = _Targets(*map(torch.cat, zip(*parts)))
    count = EPOCH if fixed is None else len(fixed)
    total_steps = config.epochs * -(-count // config.batch)
    means: list[float] = []
    steps, interrupted = 0, False
    try:
        for epoch in range(1, config.epochs + 1):
            z = torch.randn(count, G.config.z_dim, generator=random).to(device) if fixed is None else fixed
            order = torch.arange(count) if fixed is None else torch.randperm(count, generator=random)
            total, parts = 0.0, order.to(device).split(config.batch)
            for step, rows in enumerate(parts, 1):
                goal = terms.targets(z[rows]) if kept is None else _Targets(*(part[rows] for part in kept))
                values, to_person, to_toon = terms(z[rows], goal, random)
                loss = sum(
                    (getattr(config, name) * value for name, value in values.items()), torch.zeros((), device=device)
                )
                if not torch.isfinite(loss):
                    raise ToonError(f"The loss is not finite in epoch {epoch}: choose a lower --lr.")
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * _rate(config.schedule, steps, total_steps)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps += 1
                number = float(loss.detach())
                total += number * len(rows)
                if step == len(parts):
                    means.append(total / count)
                shown = {name: float(value.detach()) for name, value in values.items()}
                callback(Progress(epoch, step, len(parts), number, to_person, to_toon, shown, G))
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
    return G.eval().requires_grad_(True)


class _Terms:
    """The terms of the loss for batches of latents."""

    def __init__(self, networks: Triplet, config: FinetoonConfig, embedder: FaceEmbedder) -> None:
        self.config, self.embedder = config, embedder
        self.side = side_or_largest(networks.anchor, config.resolution)
        self.stays = StayCartoon().to(networks.anchor.mapping.w_avg.device) if config.keep or config.texture else None
        self.person, self.cartoon = (
            accelerate(network, config.accelerate) for network in (networks.positive, networks.negative)
        )
        # The anchor before training: blended again, so that no copy is kept where it is not needed.
        self.start = None
        if self.stays is not None:
            start = swap_layers(networks.positive, networks.toon, networks.swap)
            self.start = accelerate(start, config.accelerate)
        # CUDA graphs have no gradients, so the anchor is only ever compiled.
        self.anchor = accelerate(networks.anchor, config.accelerate if config.accelerate == "compile" else "off")

    def picture(self, network: Callable[..., Tensor], z: Tensor) -> Tensor:
        dtype = None if self.config.dtype == "auto" else getattr(torch, self.config.dtype)
        return network(z, psi=self.config.psi, noise_mode="const", dtype=dtype, resolution=self.side)

    @torch.no_grad()
    def targets(self, z: Tensor) -> _Targets:
        person, cartoon = self.picture(self.person, z), self.picture(self.cartoon, z)
        start = person.new_zeros(len(z), 0)
        if self.stays is not None and self.start is not None:
            start = self.stays.small(self.picture(self.start, z))
        return _Targets(person, cartoon, start)

    def __call__(self, z: Tensor, goal: _Targets, random: torch.Generator) -> tuple[dict[str, Tensor], float, float]:
        """The mean of each term over the batch, and the mean cosines to person and toon."""
        config, img = self.config, self.picture(self.anchor, z)
        seen, person, cartoon = img, goal.person, goal.cartoon
        if config.jitter:
            change = Jitter.sample(len(z), random, config.jitter)
            seen, person, cartoon = change(img), change(person), change(cartoon)
        with torch.no_grad():
            wanted, wanted_maps = self.embedder.with_maps(person)
            unwanted = self.embedder(cartoon)
        face, maps = self.embedder.with_maps(seen)
        to_person, to_toon = (F.cosine_similarity(face, other) for other in (wanted, unwanted))
        values = {"triplet": triplet_loss(to_person, to_toon, config.margin, config.legacy_sign).mean()}
        if config.likeness:
            values["likeness"] = 1 - to_person.mean()
        if config.structure and maps is not None and wanted_maps is not None:
            values["structure"] = structure_loss(maps, wanted_maps).mean()
        if config.colour:
            values["colour"] = colour_loss(img, chroma(goal.person)).mean()
        if self.stays is not None:
            kept, style = self.stays(img, goal.start)
            values |= {"keep": kept.mean(), "texture": style.mean()}
        return values, float(to_person.detach().mean()), float(to_toon.detach().mean())


def learning(G: Generator, blocks: str) -> list[torch.nn.Parameter]:
    """The parameters that fine-tooning changes; no others require gradients afterwards."""
    chosen = [
        parameter
        for name, parameter in G.named_parameters()
        if blocks == "all" or (name.startswith("synthesis.") and learns(name.removeprefix("synthesis."), coarse=True))
    ]
    G.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def _rate(schedule: str, step: int, steps: int) -> float:
    """The share of the peak rate for step ``step``, from 0."""
    if schedule == "constant":
        return 1.0
    return min(1.0, (step + 1) / _WARM_UP) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / max(steps, 1))))

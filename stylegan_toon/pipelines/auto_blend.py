"""Search for how much of each block to take from the toon: the best likeness at each degree of cartoon.

Blends are tried on a few latents, the same for all. Those for which no other is both more like the person and nearer to
the toon make the front; new blends are small changes of blends on the front (an evolution strategy with an archive,
as PAES of Knowles and Corne, 2000). The search starts from the plain swaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import MAX_SEED, Config, option
from ..errors import ToonError
from ..features.identity import FaceEmbedder
from ..files import append_line, atomic_path
from ..metrics.batches import latents, pictures_of
from ..metrics.style_features import StyleFeatures, toon_distance
from ..models import Generator
from ..models.sides import side_or_largest
from ..models.swap import layer_names, parse_swap, swap_layers
from ..weights import provenance_of

STEPS = (0.5, 0.25, 0.125)  # changes of one amount


@dataclass(frozen=True)
class AutoConfig(Config):
    """How to search.

    Attributes:
        candidates: blends to try, the plain swaps included.
        count: latents that each is tried on.
        resolution: side of the pictures; amounts of finer blocks follow the finest one that shows in them.
        cartoon: how near to the toon the chosen blend is to be, from 0 (as the base) to 1 (as the toon); None = as near
            as the swap that it is compared with.
        psi: truncation.
        seed: of the latents and of the search.
    """

    candidates: int = option(60, "Blends to try.", low=1, high=100_000)
    count: int = option(12, "Latents to try each blend on.", low=2, high=10_000)
    resolution: int = option(256, "Side of the pictures, where the networks make it.", low=4)
    cartoon: float | None = option(
        None, "Cartoon of the blend, 0 (the person's network) to 1 (the toon's); that of --swap if not given.", low=0,
        high=1,
    )  # fmt: skip
    psi: float = option(0.7, "Truncation: 1 is the full variety, 0 the mean face.", low=-2, high=2)
    seed: int = option(0, "Seed of everything random.", low=0, high=MAX_SEED)


@dataclass(frozen=True)
class Candidate:
    """A blend that was tried.

    Attributes:
        amounts: block -> share of the toon, 0 to 1.
        identity: mean cosine of the recogniser's embeddings with the base's pictures.
        toon_distance: to the toon's pictures of other latents, see `metrics.style_features.toon_distance`.
        cartoon: where that lies between the base (0) and the toon itself (1).
    """

    amounts: dict[str, float]
    identity: float
    toon_distance: float
    cartoon: float

    @property
    def swap(self) -> str:
        """The blend in the grammar of `models.swap.parse_swap`."""
        taken = {block: amount for block, amount in self.amounts.items() if amount}
        return ",".join(block if amount == 1 else f"{block}={amount:g}" for block, amount in taken.items())


class Trial:
    """Base, toon and the latents on which blends of the two are tried.

    Args:
        base, toon: generators that fit together.
        judge: the recogniser.
        config: how to search.
        style: pictures -> features, in place of `StyleFeatures`.

    Attributes:
        blocks: the blocks that the pictures show, coarse to fine.

    Raises:
        ToonError: the networks do not fit together, or their pictures cannot be told apart.
    """

    def __init__(
        self, base: Generator, toon: Generator, judge: FaceEmbedder, config: AutoConfig,
        style: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        swap_layers(base, toon, "b4-", names=("base", "toon"))  # raises ToonError where they do not fit
        self.base, self.toon, self.judge = base, toon, judge
        device = base.mapping.w_avg.device
        self.style = style or StyleFeatures(device=device)
        self.side = side_or_largest(base, config.resolution)
        every = list(dict.fromkeys(name.partition(".")[0] for name in layer_names(base) if name != "mapping"))
        self.blocks = [block for block in every if int(block[1:]) <= self.side]
        self.finer = every[len(self.blocks) :]
        z = latents(base, 2 * config.count, config.seed).to(device)
        with torch.no_grad():
            self.ws, others = base.mapping(z, psi=config.psi).split(config.count)
            self.cartoon = torch.cat([self.style(img) for img in pictures_of(toon, others, self.side, batch=4)])
            person = list(pictures_of(base, self.ws, self.side, batch=4))
            self.faces = torch.cat([judge(img) for img in person])
            self.farthest = toon_distance(torch.cat([self.style(img) for img in person]), self.cartoon)
            drawn = torch.cat([self.style(img) for img in pictures_of(toon, self.ws, self.side, batch=4)])
            self.nearest = toon_distance(drawn, self.cartoon)
        if not self.farthest > self.nearest:
            raise ToonError(
                "The base's pictures lie as near to the toon's as its own do: give another --toon, or a larger --count."
            )

    def amounts_of(self, swap: str) -> dict[str, float]:
        """The amount of each block in a swap; of a block in parts, the mean over its layers."""
        shares = parse_swap(swap, layer_names(self.base))
        parts = {block: [s for name, s in shares.items() if name.partition(".")[0] == block] for block in self.blocks}
        return {block: sum(values) / len(values) for block, values in parts.items()}

    def blend(self, amounts: Mapping[str, float]) -> Generator:
        """The network with these amounts; blocks finer than the pictures get that of the finest one."""
        return swap_layers(self.base, self.toon, self.swap(amounts))

    def swap(self, amounts: Mapping[str, float]) -> str:
        """The swap of these amounts, finer blocks included."""
        whole = {**amounts, **dict.fromkeys(self.finer, amounts[self.blocks[-1]])}
        return Candidate(whole, 0, 0, 0).swap

    @torch.no_grad()
    def measure(self, amounts: Mapping[str, float]) -> Candidate:
        """Try a blend."""
        G = self.blend(amounts)
        pictures = list(pictures_of(G, self.ws, self.side, batch=4))
        faces = torch.cat([self.judge(img) for img in pictures])
        distance = toon_distance(torch.cat([self.style(img) for img in pictures]), self.cartoon)
        cartoon = (self.farthest - distance) / (self.farthest - self.nearest)
        return Candidate(dict(amounts), float((faces * self.faces).sum(1).mean()), distance, cartoon)


def plain_swaps(blocks: Sequence[str]) -> list[dict[str, float]]:
    """The amounts of every plain swap: all blocks from one on, all up to one, and each alone; none of them twice."""
    rows: list[dict[str, float]] = []
    for number in range(len(blocks) + 1):
        rows.append({block: float(place >= number) for place, block in enumerate(blocks)})
        rows.append({block: float(place < number) for place, block in enumerate(blocks)})
    rows += [{block: float(block == alone) for block in blocks} for alone in blocks]
    return list({tuple(row.values()): row for row in rows}.values())


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those for which no other has both more identity and more cartoon, from the least cartoon to the most."""
    best: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.cartoon, -c.identity)):
        if not best or candidate.identity > best[-1].identity:
            best.append(candidate)
    return best[::-1]


def choose(candidates: Sequence[Candidate], cartoon: float) -> Candidate:
    """The one most like the person among those at least so near to the toon; the nearest if none is."""
    enough = [c for c in candidates if c.cartoon >= cartoon]
    return max(enough, key=lambda c: c.identity) if enough else max(candidates, key=lambda c: c.cartoon)


def search(
    trial: Trial,
    config: AutoConfig,
    *,
    cartoon: float | None = None,
    first: Sequence[Mapping[str, float]] = (),
    journal: Path | None = None,
    callback: Callable[[Candidate, int], object] = lambda candidate, number: None,
) -> list[Candidate]:
    """Try blends: ``first``, the plain swaps, then changes of those on the front.

    Args:
        trial: what they are tried on.
        config: how many.
        cartoon: half of the changes are of the best blend of at least this value; None = that of the first blend.
        first: amounts to try before anything else.
        journal: a file of lines that keeps what was tried; one of the same trial is read, and the search goes on.
        callback: gets each candidate and its number, those read from the journal included.

    Returns:
        all candidates, in the order in which they were tried. Ctrl-C ends the search and returns those so far.

    Raises:
        ToonError: the journal is of another trial, or cannot be read or written.
    """
    found = [] if journal is None else _read(journal, trial, config)
    start = [dict(amounts) for amounts in first] + plain_swaps(trial.blocks)
    try:
        for number in range(config.candidates):
            if number < len(found):
                callback(found[number], number)
                continue
            known = {tuple(c.amounts.values()) for c in found}
            waiting = [amounts for amounts in start if tuple(amounts.values()) not in known]
            random = np.random.default_rng([config.seed, number])
            wanted = found[0].cartoon if cartoon is None and found else cartoon
            amounts = waiting[0] if waiting else _changed(found, wanted, random)
            candidate = trial.measure(amounts)
            if journal is not None:
                append_line(journal, json.dumps(vars(candidate)))
            found.append(candidate)
            callback(candidate, number)
    except KeyboardInterrupt:
        pass
    return found[: config.candidates]


def _changed(found: Sequence[Candidate], cartoon: float | None, random: np.random.Generator) -> dict[str, float]:
    """A blend on the front with one or two amounts changed; not one that was tried."""
    best = front(found)
    known = {tuple(c.amounts.values()) for c in found}
    amounts: dict[str, float] = {}
    for _ in range(200):
        parent = best[int(random.integers(len(best)))]
        if cartoon is not None and random.random() < 0.5:
            parent = choose(found, cartoon)
        amounts = dict(parent.amounts)
        for block in random.choice(list(amounts), size=int(random.integers(1, 3)), replace=False):
            step = float(random.choice(STEPS)) * (1 if random.random() < 0.5 else -1)
            amounts[str(block)] = float(np.clip(amounts[str(block)] + step, 0, 1))
        if tuple(amounts.values()) not in known:
            break
    return amounts


def _key(trial: Trial, config: AutoConfig) -> dict[str, Any]:
    digests = [provenance_of(network).get("sha256") for network in (trial.base, trial.toon)]
    options = {"count": config.count, "psi": config.psi, "seed": config.seed, "side": trial.side}
    return {"networks": digests, "judge": trial.judge.name, **options}


def _read(journal: Path, trial: Trial, config: AutoConfig) -> list[Candidate]:
    """The candidates of a journal; a new one is begun if there is none."""
    key = json.dumps({"key": _key(trial, config)})
    if not journal.exists():
        append_line(journal, key)
        return []
    other = ToonError(f"{journal} is of another search: choose another --out, or remove it.")
    try:
        head, *lines = journal.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise other from error
    if head != key:
        raise other
    found = []
    for number, line in enumerate(lines):
        try:
            values = json.loads(line)
        except ValueError as error:
            if number < len(lines) - 1:
                raise other from error
            with atomic_path(journal) as temporary:  # a search that was cut off left half a line
                temporary.write_text("\n".join([head, *lines[:-1], ""]), encoding="utf-8")
            break
        if not _is_candidate(values, trial.blocks):
            raise other
        found.append(Candidate(**values))
    return found


def _is_candidate(values: Any, blocks: Sequence[str]) -> bool:
    if not isinstance(values, dict) or values.keys() != {"amounts", "identity", "toon_distance", "cartoon"}:
        return False
    amounts = values.pop("amounts")
    whole = isinstance(amounts, dict) and list(amounts) == list(blocks)
    numbers = [*amounts.values(), *values.values()] if whole else []
    values["amounts"] = amounts
    return whole and all(type(n) in (int, float) and math.isfinite(n) for n in numbers)

"""The people of a film: what each one's latent and network are, and the cartoons that follow from them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.images import to_pil, to_tensor
from ..data.video import Film
from ..errors import ToonError
from ..faces.spans import Span
from ..faces.steady import smooth
from ..inversion.encoder import Encoder
from ..inversion.motion import choose_pivots, search_offset
from ..inversion.optimise import Callback, Progress
from ..models import Generator
from ..models.sides import largest_side
from ..progress import progress
from .film_faces import Shown, cut_out, with_spans
from .film_journal import Journal
from .project import SEARCH_SIZE, as_target, search_sizes, starting_encoder, tune_with
from .toonify import Toonifier, carry_over

ENCODED_SIDE = 256  # pixels of the crops that the encoder takes
TOGETHER = 4  # crops that the encoder takes, and pictures that are made, at a time
SIGMA = 0.08  # seconds: of the smoothing of latents
# The finest rows carry colours and light, and what the encoder gives for them depends on the background that the crop
# passes over: they change slowly.
SIGMA_FINE = 1.5
MOST_PEOPLE = 12  # that are learned: those who are seen most


@dataclass(frozen=True, eq=False)
class Cast:
    """Latents of all faces, and a network for each person.

    Attributes:
        latents: for each span ``[T, num_ws, w_dim]``; none for people who were left out.
        networks: the blended network of each person.
        spans, sides: as in the film.
        finished: what is done to each picture in the end, see `Toonifier.finished`.
    """

    latents: list[Tensor | None]
    networks: dict[int, Generator]
    spans: Sequence[Span]
    sides: Sequence[int]
    finished: Callable[[Image.Image], Image.Image]

    @classmethod
    def learn(
        cls, toonifier: Toonifier, film: Film, spans: Sequence[Span], times: np.ndarray, sides: Sequence[int],
        journal: Journal, *, quiet: bool = True,
    ) -> Cast:  # fmt: skip
        """Encode every face, then learn each person from a few frames.

        Raises:
            ToonError: the encoder is not made for the base network.
            KeyboardInterrupt: Ctrl-C; the journal has the steps that were finished.
        """
        encoded = _encode(toonifier, film, spans, times, journal, quiet)
        people = _people(spans)
        pivots = {person: _pivots(person, spans, encoded) for person in people}
        size = min(largest_side(toonifier.base, SEARCH_SIZE), max(sides))  # what is not shown need not be learned
        crops = _crops(film, spans, [one for chosen in pivots.values() for one in chosen], size)
        networks, offsets = {}, {}
        for number, (person, chosen) in enumerate(pivots.items()):
            starts = torch.cat([encoded[i][index - spans[i].first][None] for i, index in chosen])
            targets = torch.cat([as_target(crops[one], toonifier.base, size) for one in chosen])
            name = f"person {number + 1} of {len(pivots)}"
            offsets[person], network = _learn(toonifier, targets, starts, journal, f"person-{person}", name, quiet)
            networks[person] = toonifier.blended(network, carry_over(toonifier.base, network, toonifier.toon))
        latents = [
            encoded[i] + offsets[span.person] if span.person in offsets else None for i, span in enumerate(spans)
        ]
        return cls(latents, networks, spans, sides, toonifier.finished)

    @torch.no_grad()
    def __call__(self, shown: Sequence[Shown]) -> list[Image.Image]:
        """The cartoons of the faces, in their order."""
        result: dict[int, Image.Image] = {}
        groups: dict[tuple[int, int], list[int]] = {}
        for k, one in enumerate(shown):
            if self.latents[one.span] is None:
                result[k] = one.aligned.image  # a person who was left out stays
            else:
                groups.setdefault((self.spans[one.span].person, self.sides[one.span]), []).append(k)
        for (person, side), members in groups.items():
            for start in range(0, len(members), TOGETHER):
                part = members[start : start + TOGETHER]
                ws = torch.stack([self._ws(shown[k]) for k in part])
                images = self.networks[person].synthesis(ws, noise_mode="const", resolution=side)
                result.update({k: self.finished(to_pil(image)) for k, image in zip(part, images)})
        return [result[k] for k in range(len(shown))]

    def _ws(self, one: Shown) -> Tensor:
        latents = self.latents[one.span]
        assert latents is not None
        return latents[one.index - self.spans[one.span].first]


def film_encoder(toonifier: Toonifier) -> Encoder:
    """The encoder for the base network.

    Raises:
        ToonError: it is not made for this network.
    """
    config = replace(toonifier.inversion, space="w+", start="auto")
    network = starting_encoder(toonifier.base, config)
    if network is None:
        raise ToonError(
            "Films need the encoder, which is made for the network faces and those trained from it: use such a --base, "
            "or --draw."
        )
    return network


def _encode(
    toonifier: Toonifier, film: Film, spans: Sequence[Span], times: np.ndarray, journal: Journal, quiet: bool
) -> list[Tensor]:
    """The encoder's latents of every span, smoothed over time: ``[T, num_ws, w_dim]`` each."""
    network = film_encoder(toonifier)
    counts = list(network.config.rows)
    firsts = np.cumsum([0, *counts[:-1]])  # neighbouring rows of ws are equal: one of each is kept
    kept = journal.get("latents")
    if kept is None:
        rows = [np.zeros((len(span), len(counts), network.config.w_dim), np.float32) for span in spans]
        waiting: list[tuple[int, int, Tensor]] = []

        def flush() -> None:
            ws = network(torch.cat([picture for _, _, picture in waiting]))[:, firsts].cpu().numpy()
            for (i, at, _), row in zip(waiting, ws):
                rows[i][at] = row
            waiting.clear()

        device = toonifier.base.mapping.w_avg.device
        with progress(with_spans(film, spans), quiet=quiet, total=len(times), desc="latents", unit="frame") as frames:
            for index, frame, here in frames:
                for i in here:
                    crop = cut_out(frame.image, spans[i], index, ENCODED_SIDE).image
                    waiting.append((i, index - spans[i].first, to_tensor(crop).to(device)))
                    if len(waiting) == TOGETHER:
                        flush()
        if waiting:
            flush()
        kept = {str(i): row for i, row in enumerate(rows)}
        journal.keep("latents", kept)
    repeats = torch.tensor(counts)
    device = toonifier.base.mapping.w_avg.device
    latents = []
    for i, span in enumerate(spans):
        here = times[span.first : span.last + 1]
        even = smooth(here, kept[str(i)], SIGMA, degree=2)
        even[:, -1] = smooth(here, kept[str(i)][:, -1], SIGMA_FINE, degree=0)
        latents.append(torch.from_numpy(even).float().repeat_interleave(repeats, dim=1).to(device))
    return latents


def _people(spans: Sequence[Span]) -> list[int]:
    """Who is learned: everybody, or those who are seen most."""
    seen: dict[int, int] = {}
    for span in spans:
        seen[span.person] = seen.get(span.person, 0) + len(span)
    people = sorted(seen, key=lambda person: -seen[person])
    if len(people) > MOST_PEOPLE:
        warnings.warn(
            f"{len(people)} people were found; only the {MOST_PEOPLE} seen most become cartoons.", stacklevel=4
        )
    return sorted(people[:MOST_PEOPLE])


def _pivots(person: int, spans: Sequence[Span], encoded: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Span and frame of the pictures that a person is learned from."""
    places = [(i, span.first + t) for i, span in enumerate(spans) if span.person == person for t in range(len(span))]
    points = np.concatenate([encoded[i].cpu().numpy()[:, ::3] for i, span in enumerate(spans) if span.person == person])
    turned = np.concatenate([span.turned for span in spans if span.person == person])
    return [places[k] for k in choose_pivots(points.reshape(len(points), -1), turned)]


def _crops(
    film: Film, spans: Sequence[Span], wanted: Sequence[tuple[int, int]], size: int
) -> dict[tuple[int, int], Image.Image]:
    """The crops of spans in frames."""
    crops, last = {}, max(index for _, index in wanted)
    for index, frame in enumerate(film):
        crops.update({one: cut_out(frame.image, spans[one[0]], index, size).image for one in wanted if one[1] == index})
        if index == last:
            break
    return crops


def _learn(
    toonifier: Toonifier, targets: Tensor, starts: Tensor, journal: Journal, step: str, name: str, quiet: bool
) -> tuple[Tensor, Generator]:
    """A person's offset ``[1, num_ws, w_dim]`` and tuned network."""
    G = copy.deepcopy(toonifier.base).eval().requires_grad_(False)
    config, device = toonifier.inversion, toonifier.base.mapping.w_avg.device
    parameters = dict(G.synthesis.named_parameters())
    kept = journal.get(step)
    if kept is not None:
        with torch.no_grad():
            for key, parameter in parameters.items():
                if key in kept:
                    parameter.copy_(torch.from_numpy(kept[key]))
        return torch.from_numpy(kept["offset"]).to(device), G
    targets = targets.to(device)
    size = targets.shape[-1]
    with progress(total=config.total_steps, quiet=quiet, desc=name, unit="step") as bar:
        move = _moved(bar.update)
        found = search_offset(G, targets, starts, toonifier.measure, config, sizes=search_sizes(G, size), callback=move)
        if found.interrupted:
            raise KeyboardInterrupt
        offset = found.ws
        if config.tune_steps:
            result = tune_with(G, starts + offset, targets, toonifier.measure, config, callback=move)
            if result.interrupted:
                raise KeyboardInterrupt
            offset = result.ws[:1] - starts[:1]
    before = dict(toonifier.base.synthesis.named_parameters())
    changed = {key: p.cpu().numpy() for key, p in parameters.items() if not torch.equal(p, before[key])}
    journal.keep(step, {"offset": offset.cpu().numpy(), **changed})
    return offset, G


def _moved(update: Callable[[], object]) -> Callback:
    def move(_: Progress) -> None:
        update()

    return move

"""Edit latents: move them along directions, mix two of them, walk from one to the next."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..config import MAX_SEED
from ..data.images import to_pil
from ..errors import ToonError
from ..models import Generator
from ..models.directions import Directions, rows_of, sefa
from ..models.sides import largest_side
from ..weights import load_network, shipped_network
from ..weights.latent import Latent, network_of, read_latent
from .generate import latents

MAX_AMOUNT = 100


@lru_cache(maxsize=1)
def named_directions() -> Directions:
    """The directions that ship, for the w of the network `faces` and of all that share its mapping network.

    Raises:
        ToonError: their file is missing from the installation or damaged.
    """
    return shipped_network("directions", Directions)


@torch.no_grad()
def edit(
    ws: Tensor,
    amounts: Mapping[str, float] | None = None,
    *,
    network: Generator | str | Path = "faces",
    sefa_amounts: Mapping[int, float] | None = None,
    layers: str = "all",
    directions: Directions | None = None,
) -> Tensor:
    """Move latents along named directions, and along SeFa's.

    Args:
        ws: ``[N, num_ws, w_dim]``.
        amounts: amount by name of a direction, as ``{"smile": 1.5}``; 1 = one standard deviation of the attribute over
            random faces. Each direction acts in its own layers.
        network: the generator that ``ws`` belong to, or a source for `load_network`.
        sefa_amounts: amount by number of a direction without a name, from 0: see `models.directions.sefa`. An amount
            is a length in w.
        layers: the layers that ``sefa_amounts`` act in, in the grammar of a swap: ``b4-b16``, ``b64-``, ``all``.
        directions: other named ones than those that ship.

    Returns:
        New ws of the same shape. With all amounts 0 they equal the old ones bit for bit.

    Raises:
        ToonError: an unknown direction or layer, an amount beyond ±100, or named directions for a network of
            another w.
        ValueError: ws of another shape.
    """
    G = network if isinstance(network, Generator) else load_network(network)
    _check(ws, G)
    named = {name: amount for name, amount in (amounts or {}).items() if _sound(name, amount)}
    numbered = {number: amount for number, amount in (sefa_amounts or {}).items() if _sound(number, amount)}
    result = ws.clone()
    if amounts:
        known = directions or named_directions()
        known.offsets(G, dict.fromkeys(amounts, 0.0))  # refuses unknown names, whatever the amounts
        if named:
            result = result + known.offsets(G, named).to(ws)
    if sefa_amounts:
        if wrong := [number for number in sefa_amounts if not 0 <= number < G.config.w_dim]:
            raise ToonError(f"There is no SeFa direction {wrong[0]}: they are numbered 0 to {G.config.w_dim - 1}.")
        rows = rows_of(G, layers)
        if numbered:
            vectors = sefa(G, layers, max(numbered) + 1).to(ws)
            result[:, rows] += sum(
                (amount * vectors[number] for number, amount in numbered.items()), torch.zeros(1).to(ws)
            )
    return result


def mix(ws: Tensor, other: Tensor, network: Generator, layers: str = "b64-") -> Tensor:
    """Style mixing (StyleGAN, section 3.1): ``ws`` with the rows of ``layers`` taken from ``other``.

    Args:
        ws: ``[N, num_ws, w_dim]``.
        other: ``[1, num_ws, w_dim]`` or ``[N, num_ws, w_dim]``.
        layers: in the grammar of a swap; coarse blocks hold pose and shape, fine ones colours.

    Raises:
        ToonError: layers that are not there.
        ValueError: ws of another shape.
    """
    _check(ws, network)
    _check(other, network)
    rows = rows_of(network, layers)
    result = ws.clone()
    result[:, rows] = other[:, rows].to(ws).expand(len(ws), -1, -1)
    return result


def walk(ws: Tensor, frames: int) -> Tensor:
    """A path through latents, in straight lines, slow at each of them.

    Args:
        ws: ``[N, num_ws, w_dim]``, N >= 2.
        frames: from each latent to the next.

    Returns:
        ``[(N - 1) frames + 1, num_ws, w_dim]``; rows 0, frames, 2 frames ... are those given, bit for bit.

    Raises:
        ValueError: fewer than two latents or no frames.
    """
    if len(ws) < 2 or frames < 1:
        raise ValueError("a walk needs at least two latents and one frame between them")
    t = torch.arange(frames, dtype=ws.dtype, device=ws.device) / frames
    t = (t * t * (3 - 2 * t))[:, None, None]
    legs = [a + t * (b - a) for a, b in itertools.pairwise(ws)]
    return torch.cat([*legs, ws[-1:]])


def _check(ws: Tensor, G: Generator) -> None:
    if ws.ndim != 3 or tuple(ws.shape[1:]) != (G.num_ws, G.config.w_dim):
        raise ValueError(f"ws must be [N, {G.num_ws}, {G.config.w_dim}], not {list(ws.shape)}")


def _sound(name: str | int, amount: float) -> bool:
    """Whether there is anything to do; raises ToonError for an amount that is out of range."""
    if not -MAX_AMOUNT <= amount <= MAX_AMOUNT:
        raise ToonError(f"The amount of {name} must be from -{MAX_AMOUNT} to {MAX_AMOUNT}, not {amount}.")
    return amount != 0


class Editor:
    """What the command `edit` does with each face: read, edit, show.

    Args:
        G: the generator.
        amounts, sefa_amounts, layers: see `edit`.
        other: a seed or a latent file to take ``mix_layers`` from; None = nothing is mixed.
        psi: truncation of seeds.
        size: largest side of the pictures in pixels; the network's next smaller picture is shown.

    Raises:
        ToonError: as `edit` and `mix`, before any picture is made.
    """

    def __init__(
        self, G: Generator, amounts: Mapping[str, float], sefa_amounts: Mapping[int, float], layers: str,
        other: str | None, mix_layers: str, *, psi: float = 0.7, size: int = 512,
    ) -> None:  # fmt: skip
        self.G, self.amounts, self.sefa_amounts, self.layers = G, amounts, sefa_amounts, layers
        self.mix_layers, self.psi = mix_layers, psi
        self.device = G.mapping.w_avg.device
        self.resolution = largest_side(G, size)
        self._shown: tuple[Latent | None, Generator] = (None, G)
        rows_of(G, layers)
        self.other: Tensor | None = None
        if other is None:
            return
        rows_of(G, mix_layers)
        if other.isdecimal():
            if int(other[:12]) > MAX_SEED:
                raise ToonError(f"The seed of --mix must be from 0 to {MAX_SEED}.")
            self.other = self.seed(int(other)).ws
        else:
            self.other = self.read(Path(other)).ws

    @torch.no_grad()
    def seed(self, number: int) -> Latent:
        """The face of a seed."""
        if self.G.config.c_dim:
            raise ToonError("This network has classes: edit latents that project has found, with --latent.")
        z = latents([number], self.G.config.z_dim).to(self.device)
        return Latent(self.G.mapping(z, psi=self.psi))

    def read(self, path: Path) -> Latent:
        """The face in a latent file.

        Raises:
            ToonError: it holds none, or several.
        """
        latent = read_latent(path, self.G)
        if len(latent.ws) != 1:
            raise ToonError(f"{path} holds {len(latent.ws)} latents: give a file with one.")
        return latent.to(self.device)

    def apply(self, face: Latent) -> Latent:
        """The face mixed and moved."""
        ws = face.ws if self.other is None else mix(face.ws, self.other, self.G, self.mix_layers)
        ws = edit(ws, self.amounts, network=self.G, sefa_amounts=self.sefa_amounts, layers=self.layers)
        return face.moved(ws)

    def steps(self, before: Latent, after: Latent, count: int) -> list[Latent]:
        """``count`` faces in equal steps; the first is ``before`` and the last ``after``, bit for bit."""
        between = [before.ws + i / (count - 1) * (after.ws - before.ws) for i in range(1, count - 1)]
        return [before, *(before.moved(ws) for ws in between), after]

    def walk(self, faces: list[Latent], edited: list[Latent], frames: int) -> list[Latent]:
        """A path through the edited faces; of a single one, from before to after."""
        stops = edited if len(edited) > 1 else [faces[0], edited[0]]
        path = walk(torch.cat([stop.ws for stop in stops]), frames)
        return [stops[0].moved(ws[None]) for ws in path]

    @torch.no_grad()
    def picture(self, face: Latent) -> Image.Image:
        """The picture of a face, with its own noise and tuning."""
        return to_pil(self._network(face).synthesis(face.ws, noise_mode="const", resolution=self.resolution)[0])

    def _network(self, face: Latent) -> Generator:
        """The network with the noise and tuning of a face; the last one is kept for the next picture."""
        if not face.noise and not face.tuned:
            return self.G
        known = self._shown[0]
        if known is None or known.noise is not face.noise or known.tuned is not face.tuned:
            self._shown = face, network_of(face, self.G)
        return self._shown[1]

"""Likeness of a fine-tooned network before and after, on latents that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ..data.images import image_grid, to_pil
from ..errors import ToonError
from ..features.identity import FaceEmbedder
from ..models import Generator
from ..models.sides import side_or_largest
from .finetoon import Triplet
from .generate import latents

FIRST = 1_000_000  # of the held-out seeds
ROWS = 6  # faces on the sheet at most


def held_out_seeds(seeds: Sequence[int], count: int) -> list[int]:
    """The first ``count`` seeds from 1,000,000 on that are not among ``seeds``."""
    taken = set(seeds)
    return [seed for seed in range(FIRST, FIRST + count + len(taken)) if seed not in taken][:count]


class HeldOut:
    """Faces of a base, a blend and a toonier blend that nothing learns from, with the judge's cosines to the base.

    Args:
        networks: from `finetoon.triplet`, before the anchor is trained.
        judge: a recogniser other than the one that is trained with.
        teacher: name of the one that is trained with.
        seeds: those that are learned from.
        count: faces.
        psi: truncation.
        resolution: side of the pictures, as for `finetoon.FinetoonConfig`.

    Attributes:
        before: mean cosine of the blend before training.

    Raises:
        ToonError: judge and teacher are the same.
    """

    def __init__(
        self, networks: Triplet, judge: FaceEmbedder, teacher: str, *, seeds: Sequence[int] = (), count: int = 16,
        psi: float = 0.7, resolution: int = 256,
    ) -> None:  # fmt: skip
        if judge.name == teacher:
            raise ToonError(f"{teacher} trains the network and cannot judge it, too: choose another --judge.")
        self.judge, self.psi = judge, psi
        self.side = side_or_largest(networks.anchor, resolution)
        device = networks.anchor.mapping.w_avg.device
        self.z = latents(held_out_seeds(seeds, count), networks.anchor.config.z_dim).to(device)
        self.base, self.faces = self._look(networks.positive)
        self.start, cosines = self._compare(networks.anchor)
        self.toonier, self.toonier_cosines = self._compare(networks.negative, ROWS)
        self.start_cosines, self.before = cosines, float(cosines.mean())

    def likeness(self, G: Generator) -> float:
        """Mean cosine of the judge over all held-out faces, -1 to 1."""
        return float(self._compare(G)[1].mean())

    def sheet(self, G: Generator) -> Image.Image:
        """Base, blend, ``G`` and the toonier blend side by side for the first faces, with the cosines to the base."""
        now, cosines = self._compare(G, ROWS)
        columns = {
            "base": (self.base, None),
            "blend": (self.start, self.start_cosines),
            "fine-tooned": (now, cosines),
            "toonier": (self.toonier, self.toonier_cosines),
        }
        pictures, captions = [], []
        for row in range(len(now)):
            for shown, values in columns.values():
                pictures.append(to_pil(shown[row]))
                captions.append("" if values is None else f"{values[row]:.3f}")
        return image_grid(
            pictures, len(columns), size=max(128, self.side), captions=captions, column_labels=list(columns)
        )

    @torch.no_grad()
    def _look(self, G: Generator, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Pictures for the sheet and the judge's embeddings."""
        shown, faces = [], []
        for z in self.z[:count].split(4):
            img = G(z, psi=self.psi, noise_mode="const", resolution=self.side)
            faces.append(self.judge(img))
            if sum(map(len, shown)) < ROWS:
                shown.append(img.cpu())
        return torch.cat(shown)[:ROWS], torch.cat(faces)

    def _compare(self, G: Generator, count: int | None = None) -> tuple[Tensor, Tensor]:
        shown, faces = self._look(G, count)
        return shown, (faces * self.faces[:count]).sum(1).cpu()

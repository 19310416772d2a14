"""Time to quality of inversion: encoder and coarse tuning beside the published projector, on the same network.

    python benchmarks/inversion.py --photos PORTRAITS --threads 1
    python benchmarks/inversion.py --photos PORTRAITS --quick

"published" is the schedule of StyleGAN2-ADA's projector (1000 steps of one w, with noise maps) run by this library's
kernels, with the perceptual distance that ours minimises, too (VGG16 at 128 px), and not the authors' program. "ours"
is what `toonify` does: the encoder's latent, then tuning of the coarse blocks, for a twentieth of the published steps'
time. Both are taken in turn, photo by photo. All scores are of pictures of 256 px; times are processor time of this
process, so a busy machine does not count, and leave out loading, alignment and scoring.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import describe
from torch import Tensor

from stylegan_toon import InversionConfig, load_network, project
from stylegan_toon.data.images import to_tensor
from stylegan_toon.faces.align import largest
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.features.identity import DlibFaces
from stylegan_toon.features.perceptual import Perceptual, fit, perceptual
from stylegan_toon.inversion.optimise import Progress
from stylegan_toon.memory import keep_pages
from stylegan_toon.models import Generator

# Kept out of all fitting (pretrained/recipes/portraits.txt); different skin, age, hair, and spectacles.
NAMES = "A000380,E000215,I000058,H001085,K000397,D000629"
SIDE = 256
MOST = 400  # steps of ours, at most


@dataclass
class Scores:
    """How near a picture is to the photo: mean absolute error (0 to 255), perceptual distance, dlib's cosine."""

    pixel: float
    perceptual: float
    identity: float

    def reaches(self, other: Scores) -> bool:
        """Whether it is as near as ``other`` in all three."""
        nearer = self.pixel <= other.pixel and self.perceptual <= other.perceptual
        return nearer and self.identity >= other.identity

    def __str__(self) -> str:
        return f"pixel {self.pixel:5.2f}  perceptual {self.perceptual:.3f}  identity {self.identity:.3f}"


class Run:
    """A projection that notes its processor time and its pictures."""

    def __init__(self, G: Generator, photo: Tensor, config: InversionConfig, measure: Perceptual, limit: float) -> None:
        self.seconds: list[float] = []
        self.pictures: list[Tensor] = []
        self._begun, self._limit = time.process_time(), limit
        project(G, photo, config, resolution=SIDE, noise=config.legacy, measure=measure, callback=self._note)

    def _note(self, at: Progress) -> None:
        """Keep the picture of a step, and end the run when another step would not fit the limit."""
        self.seconds.append(time.process_time() - self._begun)
        self.pictures.append(at.image)
        if self.seconds[-1] * (1 + 1 / len(self.seconds)) > self._limit:
            raise KeyboardInterrupt


@torch.no_grad()
def scores(picture: Tensor, photo: Tensor, measure: Perceptual, embedder: DlibFaces) -> Scores:
    pixel = 127.5 * float((picture.clamp(-1, 1) - photo).abs().mean())
    return Scores(pixel, float(measure.distance(picture, photo)), float(embedder.similarity(picture, photo)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--names", default=NAMES)
    parser.add_argument("--network", default="faces")
    parser.add_argument("--steps", type=int, default=1000, help="Of the published schedule.")
    parser.add_argument("--part", type=float, default=20, help="Ours gets the published time divided by this.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="Two photos, 100 published steps: a test of the script.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_pages()
    names = args.names.split(",")[: 2 if args.quick else None]
    steps = 100 if args.quick else args.steps
    print(f"{describe()}\npublished schedule of {steps} steps, ours in 1/{args.part:g} of its time", flush=True)
    G = load_network(args.network).requires_grad_(False)
    measure, embedder = perceptual(), DlibFaces().eval().requires_grad_(False)
    rows: list[tuple[float, float, float | None, Scores, Scores]] = []
    for name in names:
        crop = largest(open_photo(args.photos / f"{name}.jpg", 2 * SIDE).faces).image
        photo = fit(to_tensor(crop), SIDE)
        old = Run(G, photo, InversionConfig(legacy=True, steps=steps), measure, float("inf"))
        goal = scores(old.pictures[-1], photo, measure, embedder)
        config = InversionConfig(steps=0, tune_steps=MOST)
        new = Run(G, photo, config, measure, old.seconds[-1] / args.part)
        ours = [scores(picture, photo, measure, embedder) for picture in new.pictures]
        reached = next((s for s, score in zip(new.seconds, ours) if score.reaches(goal)), None)
        rows.append((old.seconds[-1], new.seconds[-1], reached, goal, ours[-1]))
        print(f"{name} published {old.seconds[-1]:7.1f} s  {goal}")
        print(f"{name} ours      {new.seconds[-1]:7.1f} s  {ours[-1]}  ({len(ours)} steps; ", end="")
        print("never as near)" if reached is None else f"as near after {reached:.1f} s)", flush=True)
    published, mine, reached, goals, ends = zip(*rows)

    def middle(what: str, found: tuple[Scores, ...]) -> Scores:
        return Scores(*(statistics.median(getattr(s, f) for s in found) for f in ("pixel", "perceptual", "identity")))

    print(f"median of {len(rows)}: published {statistics.median(published):.1f} s  {middle('', goals)}")
    print(f"median of {len(rows)}: ours      {statistics.median(mine):.1f} s  {middle('', ends)}")
    times = [t / s for t, s in zip(published, reached) if s is not None]
    if times:
        part = statistics.median(times)
        print(f"as near in all three: {len(times)} of {len(rows)}, in a median of 1/{part:.0f} of the time")


if __name__ == "__main__":
    main()

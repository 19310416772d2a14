"""Inversion beside the published projector on the same network: how near both come to photos, and in what time.

    python benchmarks/inversion.py --photos PORTRAITS --threads 1
    python benchmarks/inversion.py --photos PORTRAITS --quick

"published" is the schedule of StyleGAN2-ADA's projector (1000 steps of one w, with noise maps) run by this library's
kernels, with the perceptual distance that ours minimises, too (VGG16 at 128 px), and not the authors' program.
"default" is what `toonify` does: the encoder's latent and 20 steps of coarse tuning with Muon; "adam" 60 steps with
Adam; "longer" as many steps with Muon as fit into a twentieth of the published time. They are taken in turn, photo by
photo. All compare pictures of 256 px, and the scores are of pictures of that size. Times are processor time of this
process, so that a busy machine counts little; they leave out loading, alignment and scoring.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import astuple, dataclass
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
from stylegan_toon.memory import keep_pages
from stylegan_toon.models import Generator
from stylegan_toon.pipelines.defaults import TUNE_STEPS, TUNE_STEPS_MUON

# Kept out of all fitting (pretrained/recipes/portraits.txt); different skin, age, hair, and spectacles.
NAMES = "A000380,E000215,I000058,H001085,K000397,D000629"
SIDE = 256


@dataclass
class Row:
    """A run: seconds, and how near its picture is: mean absolute error (0 to 255), VGG16's distance, dlib's cosine."""

    seconds: float
    pixel: float
    perceptual: float
    identity: float

    def reaches(self, other: Row) -> bool:
        """Whether it is as near as ``other`` in all three."""
        nearer = self.pixel <= other.pixel and self.perceptual <= other.perceptual
        return nearer and self.identity >= other.identity

    def __str__(self) -> str:
        scores = f"pixel {self.pixel:5.2f}  perceptual {self.perceptual:.3f}  identity {self.identity:.3f}"
        return f"{self.seconds:7.1f} s  {scores}"


def run(
    G: Generator, photo: Tensor, config: InversionConfig, measure: Perceptual, embedder: DlibFaces, resolution: int
) -> Row:
    begun = time.process_time()
    found = project(G, photo, config, resolution=resolution, noise=config.legacy, measure=measure)
    seconds = time.process_time() - begun
    with torch.no_grad():
        identity = float(embedder.similarity(found.image, found.target))
    return Row(seconds, found.pixel_error, found.distance, identity)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--names", default=NAMES)
    parser.add_argument("--network", default="faces")
    parser.add_argument("--steps", type=int, default=1000, help="Of the published schedule.")
    parser.add_argument("--part", type=float, default=20, help="Longer gets the published time divided by this.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="One photo, 100 published steps: a test of the script.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_pages()
    names = args.names.split(",")[: 1 if args.quick else None]
    steps = 100 if args.quick else args.steps
    print(f"{describe()}\npublished schedule of {steps} steps; longer is 1/{args.part:g} of its time", flush=True)
    G = load_network(args.network).requires_grad_(False)
    measure, embedder = perceptual(), DlibFaces().eval().requires_grad_(False)
    table: dict[str, list[Row]] = {"published": [], "default": [], "adam": [], "longer": []}
    for name in names:
        photo = fit(to_tensor(largest(open_photo(args.photos / f"{name}.jpg", 2 * SIDE).faces).image), SIDE)
        plans = {"published": InversionConfig(legacy=True, steps=steps)}
        plans["default"] = InversionConfig(steps=0, tune_steps=TUNE_STEPS_MUON, tune_optimizer="muon")
        plans["adam"] = InversionConfig(steps=0, tune_steps=TUNE_STEPS, tune_optimizer="adam")
        for kind in table:
            if kind == "longer":
                published, default = (table[k][-1].seconds for k in ("published", "default"))
                longer = max(1, int(published / args.part / default * TUNE_STEPS_MUON))
                plans[kind] = InversionConfig(steps=0, tune_steps=longer, tune_optimizer="muon")
            row = run(G, photo, plans[kind], measure, embedder, SIDE)
            table[kind].append(row)
            print(f"{name} {kind:9} {row}  {plans[kind].total_steps} steps", flush=True)
    for kind, rows in table.items():
        print(f"median of {len(rows)} {kind:9} {Row(*map(statistics.median, zip(*map(astuple, rows))))}")
    for kind in ("default", "adam", "longer"):
        pairs = list(zip(table["published"], table[kind]))
        times = [old.seconds / new.seconds for old, new in pairs if new.reaches(old)]
        part = f", in a median of {1 / statistics.median(times):.2g} of the time" if times else ""
        print(f"{kind} is as near in all three scores for {len(times)} of {len(pairs)} photos{part}")


if __name__ == "__main__":
    main()

"""Makes ``directions.safetensors``: directions of w in which one attribute of a face changes and the others stay.

    D="python pretrained/recipes/directions.py"
    $D measure --faces faces-256.zip --latents faces-256-w.npz --out runs/directions --count 1200
    $D fit --out runs/directions --latents faces-256-w.npz --leave-out smile eyes-open eye-size hair-lightness
    $D check --out runs/directions --seeds 9100 9101 9102

``--faces`` are pictures of the network `faces`, ``w`` ``[count, w_dim]`` in ``--latents`` what made them, in the
order of their file names. ``measure`` measures each picture (`metrics.attributes`). ``fit`` is a ridge regression in
whitened coordinates (`models.directions.fit_directions`). ``check`` moves faces of other seeds and measures them again.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stylegan_toon import load_network
from stylegan_toon.data.images import to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.mesh import face_mesh
from stylegan_toon.features.identity import face_embedder
from stylegan_toon.files import atomic_path
from stylegan_toon.metrics.attributes import ATTRIBUTES, measure_attributes
from stylegan_toon.models import Generator
from stylegan_toon.models.directions import Directions, DirectionsConfig, fit_directions
from stylegan_toon.pipelines.generate import latents
from stylegan_toon.weights import load_networks, save_networks

PART = 100


def measure(args: argparse.Namespace) -> None:
    """Measure the pictures in parts of 100, each a file, so that a run that was stopped goes on."""
    args.out.mkdir(parents=True, exist_ok=True)
    w = np.load(args.latents)["w"]
    with zipfile.ZipFile(args.faces) as file:
        names = sorted(name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png", ".webp")))
        if len(names) != len(w):
            raise ToonError(f"{args.faces} holds {len(names)} pictures and {args.latents} {len(w)} latents.")
        for start in range(0, min(args.count, len(names)), PART):
            part = args.out / f"part-{start:05d}.npz"
            if part.exists():
                continue
            numbers = range(start, min(start + PART, args.count))
            rows = []
            for number in numbers:
                with file.open(names[number]) as opened, Image.open(opened) as picture:
                    face = picture.convert("RGB")
                    rows.append(measure_attributes(face, face_mesh(face, looks=1)))  # the errors average out
            with atomic_path(part) as temporary:
                np.savez(temporary, w=w[numbers.start : numbers.stop].astype(np.float32), attributes=np.array(rows))
            print(part, flush=True)


# name: layers in which it acts, and the attributes that are to stay; the card says which were left out
ACTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "smile": (
        "b8-b32",
        ("brows", "eye-size", "yaw", "pitch", "face-width", "skin-lightness", "hair-lightness", "eyes-open"),
    ),
    "mouth-open": ("b8-b32", ("smile", "yaw", "pitch", "face-width", "skin-lightness", "hair-lightness")),
    "eyes-open": (
        "b8-b32",
        ("brows", "eye-size", "smile", "mouth-open", "yaw", "pitch", "face-width", "skin-lightness"),
    ),
    "brows": ("b8-b32", ("smile", "mouth-open", "eyes-open", "yaw", "pitch", "skin-lightness")),
    "yaw": ("b4-b16", ("smile", "mouth-open", "pitch", "face-width", "hair-lightness")),
    "pitch": ("b4-b16", ("smile", "mouth-open", "yaw", "face-width", "hair-lightness")),
    "face-width": ("b4-b16", ("smile", "mouth-open", "yaw", "pitch", "skin-lightness")),
    "eye-size": ("b8-b32", ("smile", "mouth-open", "eyes-open", "yaw", "pitch", "face-width")),
    "hair-lightness": ("b32-", ("skin-lightness", "yaw", "pitch")),
    "skin-lightness": ("b32-", ("hair-lightness", "yaw", "pitch")),
}
RANK, RIDGE = 100, 0.1  # best correlation with measurements of pictures left out, of 50 to 200 and 0.1 to 1


def samples(folder: Path) -> tuple[Tensor, Tensor]:
    """w ``[N, w_dim]`` and attributes ``[N, A]`` of all parts; pictures whose measurements are far off are left out."""
    parts = [np.load(path) for path in sorted(folder.glob("part-*.npz"))]
    w = np.concatenate([part["w"] for part in parts])
    attributes = np.concatenate([part["attributes"] for part in parts])
    off = np.abs(attributes - attributes.mean(0)) > 5 * attributes.std(0)
    keep = np.isfinite(attributes).all(1) & ~off.any(1)
    return torch.from_numpy(w[keep]), torch.from_numpy(attributes[keep])


def fit(args: argparse.Namespace) -> None:
    """Fit the directions, scale them to their effect on ``--seeds``, and store them."""
    w, attributes = samples(args.out)
    population = torch.from_numpy(np.load(args.latents)["w"].astype(np.float32))
    names = list(ATTRIBUTES)
    held = [[names.index(other) for other in ACTS[name][1]] for name in names]
    moves = fit_directions(w, attributes, held=held, population=population, rank=RANK, ridge=RIDGE)
    G = load_network("faces")
    unit = attributes.std(0)
    directions = _directions(names, moves, G)
    slope = effects(G, directions, args.seeds, 1.0)[0] / unit
    chosen = [i for i in range(len(names)) if slope[i, i] > 0.15 and names[i] not in args.leave_out]
    for i in chosen:
        moves[i] /= slope[i, i]
    directions = _directions([names[i] for i in chosen], moves[chosen], G)
    history = {"samples": len(w), "unit": {names[i]: float(unit[i]) for i in chosen}}
    save_networks(args.save, {"directions": directions}, provenance=history, dtype=torch.float16, overwrite=True)
    torch.set_printoptions(precision=2, sci_mode=False, linewidth=200)
    print(len(w), "samples; slope of each attribute (columns) per unit before scaling:\n", names, "\n", slope)


def _directions(names: list[str], moves: Tensor, G: Generator) -> Directions:
    config = DirectionsConfig(
        tuple(names), tuple(ATTRIBUTES[name] for name in names), tuple(ACTS[name][0] for name in names), G.config.w_dim
    )
    result = Directions(config)
    result.vectors.copy_(moves)
    result.w_avg.copy_(G.mapping.w_avg)
    return result


@torch.no_grad()
def effects(G: Generator, directions: Directions, seeds: list[int], amount: float) -> tuple[Tensor, Tensor]:
    """Half the change of all attributes from -amount to amount ``[D, A]`` over ``amount``, the mean over seeds, and the
    cosine of dlib's embeddings of the face at ``amount`` and the face itself ``[D]``."""
    ws = G.mapping(latents(seeds, G.config.z_dim), psi=0.7)
    embedder = face_embedder("dlib")
    count = len(directions.config.names)
    slopes, alike = torch.zeros(count, len(ATTRIBUTES), dtype=torch.float64), torch.zeros(count)
    plain = G.synthesis(ws, resolution=256)
    for d, name in enumerate(directions.config.names):
        for sign in (-1, 1):
            faces = G.synthesis(ws + directions.offsets(G, {name: sign * amount}), resolution=256)
            measured = np.mean([measure_attributes(p, face_mesh(p, looks=1)) for p in map(to_pil, faces)], axis=0)
            slopes[d] += torch.from_numpy(measured) * sign / 2 / amount
        alike[d] = embedder.similarity(faces, plain).mean()
    return slopes, alike


def check(args: argparse.Namespace) -> None:
    """Print what a unit of each direction changes in faces of ``--seeds``, in standard deviations, and the identity."""
    torch.set_printoptions(precision=2, sci_mode=False, linewidth=200)
    directions = load_networks(args.save)["directions"]
    assert isinstance(directions, Directions)
    unit = samples(args.out)[1].std(0)
    slopes, alike = effects(load_network("faces"), directions, args.seeds, args.amount)
    for name, slope, cosine in zip(directions.config.names, slopes / unit, alike):
        changes = ", ".join(f"{other} {value:+.2f}" for other, value in zip(ATTRIBUTES, slope.tolist()))
        print(f"{name}: {changes}; identity at {args.amount:g}: {cosine:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["measure", "fit", "check"])
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/directions"))
    parser.add_argument("--save", type=Path, default=Path("pretrained/directions.safetensors"))
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(9000, 9006)))
    parser.add_argument("--amount", type=float, default=1.5)
    parser.add_argument("--leave-out", nargs="*", default=[])
    args = parser.parse_args()
    {"measure": measure, "fit": fit, "check": check}[args.task](args)


if __name__ == "__main__":
    main()

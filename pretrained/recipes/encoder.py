"""Makes ``encoder.safetensors``: a linear map from what shipped networks see of a face to ws, by ridge regression.

    E="python pretrained/recipes/encoder.py"
    $E pairs --out runs/encoder --count 1400
    $E features --out runs/encoder --singles faces-256.zip faces-256-w.npz --count 6500
    $E fit --out runs/encoder --save pretrained/encoder.safetensors

``pairs`` synthesises faces of mixed latents at 512 px and keeps them at 256 px. ``--singles`` are faces with one w in
all layers: a zip of 256 px pictures, and ``w`` ``[count, w_dim]`` in the order of their file names. ``features`` makes
every picture a little like a photo (`degrade`) and keeps what the encoder sees of it. ``fit`` solves the ridge
regression, prints how much of w it explains on faces left out, and stores the map in 8 bits. A run that was stopped
goes on: the work is done in parts of 100 faces.
"""

from __future__ import annotations

import argparse
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from stylegan_toon import load_network
from stylegan_toon.data.images import to_tensor
from stylegan_toon.files import atomic_path
from stylegan_toon.inversion.encoder import FEATURES, Encoder, EncoderConfig, face_features
from stylegan_toon.memory import keep_pages
from stylegan_toon.models import Generator
from stylegan_toon.weights import descend, save_networks

PART = 100
LEFT_OUT = 2  # parts of either kind, the last ones
# Share of the three kinds of features in the distance of two faces.
BLOCKS = ((256 * 8 * 8, 1.0), (128 * 8 * 8, 1.0), (3 * 32 * 32, 0.3))
RIDGES = (0.5, 1.0, 2.0)


@torch.no_grad()
def latent(G: Generator, number: int) -> Tensor:
    """ws ``[1, num_ws, w_dim]`` of mixed face ``number``.

    Half have the fine layers of a second face, a third the coarse layers of a third one, and all layers lie a little
    beside each other, as those that a search in w+ gives.
    """
    random = torch.Generator().manual_seed(2_000_000 + number)
    rows = G.num_ws

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand([], generator=random))

    mean = G.mapping.w_avg
    far = G.mapping(torch.randn(3 + rows, G.config.z_dim, generator=random))[:, 0] - mean
    ws = uniform(0.6, 1.1) * far[0].expand(rows, -1)
    if uniform(0, 1) < 0.5:
        fine = int(uniform(6, 11))  # rows from 32 to 256 px
        ws = torch.cat([ws[:fine], uniform(0.5, 1.0) * far[1].expand(rows - fine, -1)])
    if uniform(0, 1) < 0.35:
        coarse = int(uniform(3, 6))  # rows from 8 to 32 px
        ws = torch.cat([uniform(0.6, 1.0) * far[2].expand(coarse, -1), ws[coarse:]])
    return (mean + ws + uniform(0.0, 0.3) * far[3:])[None]


@torch.no_grad()
def make_pairs(network: str, count: int, out: Path) -> None:
    """Write mixed-NNN.npz: ``pictures`` uint8 ``[100, 256, 256, 3]`` and ``ws`` float16 ``[100, num_ws, w_dim]``."""
    G = load_network(network)
    for part in tqdm(range(count // PART), unit="part"):
        path = out / f"mixed-{part:03d}.npz"
        if path.exists():
            continue
        ws = torch.cat([latent(G, PART * part + i) for i in range(PART)]).half()
        pictures = [_to_bytes(F.interpolate(G.synthesis(row[None].float(), resolution=512), size=256, mode="area"))
                    for row in ws]  # fmt: skip
        _save(path, pictures=np.stack(pictures), ws=ws.numpy())


def degrade(img: Tensor, random: np.random.Generator) -> Tensor:
    """``[1, 3, R, R]`` in [-1, 1], as a photo might have it: cut askew, other light, blurred, noisy, JPEG.

    Each happens to some of the pictures. Light changes little, since w is to show it.
    """
    side, chance = img.shape[-1], random.uniform
    if chance() < 0.8:
        turn, scale, shift = np.deg2rad(random.normal(0, 1.5)), 1 + random.normal(0, 0.02), random.normal(0, 0.016, 2)
        cos, sin = scale * math.cos(turn), scale * math.sin(turn)
        theta = torch.tensor([[[cos, -sin, shift[0]], [sin, cos, shift[1]]]], dtype=torch.float32)
        grid = F.affine_grid(theta, list(img.shape), align_corners=False)
        img = F.grid_sample(img, grid, padding_mode="reflection", align_corners=False)
    if chance() < 0.5:
        gain = math.exp(random.normal(0, 0.05)) * torch.from_numpy(np.exp(random.normal(0, 0.02, (1, 3, 1, 1))))
        img = (img + 1) * gain.float() - 1
    if chance() < 0.3:
        img = 2 * ((img.clamp(-1, 1) + 1) / 2) ** math.exp(random.normal(0, 0.08)) - 1
    if chance() < 0.6:
        img = _blur(img, chance(0.3, 2.2) * side / 256)
    if chance() < 0.5:
        img = img + chance(0, 0.06) * torch.from_numpy(random.standard_normal(img.shape)).float()
    pixels = _to_bytes(img)
    if chance() < 0.7:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(chance(35, 95)))
        return to_tensor(Image.open(file))
    return to_tensor(Image.fromarray(pixels))


def _blur(img: Tensor, sigma: float) -> Tensor:
    radius = int(3 * sigma) + 1
    bell = torch.exp(-torch.arange(-radius, radius + 1).float().square() / (2 * sigma**2))
    bell = (bell / bell.sum()).expand(3, 1, 1, -1)
    img = F.pad(img, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(img, bell, groups=3), bell.transpose(2, 3), groups=3)


def _to_bytes(img: Tensor) -> np.ndarray:
    return ((img[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def _save(path: Path, **arrays: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def sources(
    out: Path, singles: list[Path] | None, count: int, rows: int
) -> Iterator[tuple[str, int, list, np.ndarray]]:
    """Name of a part, number of its first face, its pictures, and their ws."""
    for path in sorted(out.glob("mixed-[0-9]*.npz")):
        with np.load(path) as part:
            yield path.stem, 1_000_000 + PART * int(path.stem[-3:]), list(part["pictures"]), part["ws"]
    if singles is None:
        return
    w = np.load(singles[1])["w"]
    with zipfile.ZipFile(singles[0]) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))[:count]
        for first in range(0, len(names) - PART + 1, PART):
            pictures = [np.array(Image.open(io.BytesIO(file.read(name)))) for name in names[first : first + PART]]
            yield f"single-{first // PART:03d}", first, pictures, w[first : first + PART, None].repeat(rows, 1)


def keep_features(out: Path, singles: list[Path] | None, count: int, rows: int = 16) -> None:
    """Write features-PART.npz: ``features`` float16 ``[100, FEATURES]`` and ``ws``."""
    for name, first, pictures, ws in sources(out, singles, count, rows):
        path = out / f"features-{name}.npz"
        if path.exists():
            continue
        found = []
        for i in tqdm(range(0, len(pictures), 4), desc=name, leave=False):
            faces = [to_tensor(Image.fromarray(picture)) for picture in pictures[i : i + 4]]
            # The draws depend on the number of the face alone.
            random = [np.random.default_rng([7, first + i + j]) for j in range(len(faces))]
            found.append(face_features(torch.cat(list(map(degrade, faces, random)))))
        _save(path, features=torch.cat(found).half().numpy(), ws=ws)


def fit_map(out: Path, network: str, save: Path, config: EncoderConfig) -> None:
    """Ridge regression in its dual form, reduced to ``config.rank``; prints the share of w explained on left-out faces.

    With K = X X' of the standardised features and Y the offsets of w from w_avg, the coefficients are
    X' (K + ridge)^-1 Y. Of all maps of rank r, the one whose outputs lie in the r leading directions of the fitted
    outputs is nearest to it on the training faces (reduced-rank regression, Izenman 1975).
    """
    G = load_network(network)
    kinds = {kind: sorted(out.glob(f"features-{kind}-*.npz")) for kind in ("single", "mixed")}
    files = [*kinds["single"][:-LEFT_OUT], *kinds["mixed"][:-LEFT_OUT]]
    X, ws = _read(files)
    centre, spread = X.mean(0), X.std(0)
    spread = torch.cat([
        part.clamp(min=0.1 * float(part.mean())) * (size / share) ** 0.5
        for part, (size, share) in zip(spread.split([size for size, _ in BLOCKS]), BLOCKS)
    ])  # fmt: skip
    X.sub_(centre).div_(spread)
    Y = _offsets(ws, G.mapping.w_avg, config.rows)
    bias = Y.mean(0)
    gram = X @ X.T
    tests = {kind: _read(paths[-LEFT_OUT:]) for kind, paths in kinds.items() if paths}
    best, coefficients = -math.inf, None
    for ridge in RIDGES:
        lower = torch.linalg.cholesky(gram.double() + ridge * torch.eye(len(gram), dtype=torch.float64))
        dual = torch.cholesky_solve((Y - bias).double(), lower).float()
        scores = {}
        for kind, (features, truth) in tests.items():
            shown = ((features - centre) / spread) @ X.T @ dual + bias
            scores[kind] = explained(shown, _offsets(truth, G.mapping.w_avg, config.rows), len(config.rows))
        print(f"ridge {ridge}: " + ", ".join(f"{kind} {[round(s, 3) for s in row]}" for kind, row in scores.items()))
        if (score := sum(sum(row) for row in scores.values())) > best:
            best, coefficients = score, dual
    assert coefficients is not None
    fitted = gram @ coefficients
    directions = torch.linalg.eigh(fitted.T @ fitted)[1][:, -config.rank :]
    encoder = Encoder(config).eval()
    for name, tensor in {
        "centre": centre, "spread": spread, "mix": (X.T @ (coefficients @ directions)).T, "heads": directions,
        "bias": bias, "w_avg": G.mapping.w_avg,
    }.items():  # fmt: skip
        getattr(encoder, name).copy_(tensor)
    provenance = descend("encoder", {"faces": len(X), "rank": config.rank}, [G], data=f"{len(X)} synthetic faces")
    save_networks(
        save, {"encoder": encoder}, provenance=provenance, dtype=torch.float16, eight_bits=True, overwrite=True
    )
    for kind, (features, truth) in tests.items():
        shown = _offsets(encoder.decode(features), G.mapping.w_avg, config.rows)
        row = explained(shown, _offsets(truth, G.mapping.w_avg, config.rows), len(config.rows))
        print(f"rank {config.rank}: {kind} {[round(s, 3) for s in row]}")


def explained(shown: Tensor, truth: Tensor, heads: int) -> list[float]:
    """For each head: 1 - squared error / squared distance from w_avg; 0 is what w_avg itself has."""
    pairs = zip(shown.chunk(heads, 1), truth.chunk(heads, 1))
    return [float(1 - (a - b).square().sum() / b.square().sum()) for a, b in pairs]


def _offsets(ws: Tensor, w_avg: Tensor, rows: tuple[int, ...]) -> Tensor:
    """``[N, num_ws, w_dim]`` -> mean offset from ``w_avg`` in each group of rows, side by side."""
    return torch.cat([part.mean(1) - w_avg for part in ws.split(rows, dim=1)], dim=1)


def _read(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """Features ``[N, FEATURES]`` and ws of some parts, float32."""
    X, ws = torch.empty(PART * len(paths), FEATURES), []
    for i, path in enumerate(paths):
        with np.load(path) as part:
            X[PART * i : PART * (i + 1)] = torch.from_numpy(part["features"])
            ws.append(torch.from_numpy(part["ws"]).float())
    return X, torch.cat(ws)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("step", choices=["pairs", "features", "fit"])
    parser.add_argument("--network", default="faces")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1400, help="Faces to synthesise, or to take of --singles.")
    parser.add_argument("--singles", type=Path, nargs=2, metavar=("ZIP", "NPZ"))
    parser.add_argument("--rank", type=int, default=EncoderConfig.rank)
    parser.add_argument("--save", type=Path, default=Path("pretrained/encoder.safetensors"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    keep_pages()
    if args.step == "pairs":
        make_pairs(args.network, args.count, args.out)
    elif args.step == "features":
        keep_features(args.out, args.singles, args.count)
    else:
        fit_map(args.out, args.network, args.save, EncoderConfig(rank=args.rank))


if __name__ == "__main__":
    main()

"""Step 1 of `faces`: teach a new generator, layer by layer, what a published face generator computes inside.

A regression from latents to pictures alone learns slowly on a CPU; every layer of the student regressing the
features of the teacher's layer at the same place learns in minutes, and needs no pictures, only latents.
The teacher is MobileStyleGAN (arXiv 2104.04767): weights of the PyPI wheel random-face 2021.7.21.1.

    python pretrained/recipes/distill_features.py --teacher DIR --out runs/faces-features.safetensors
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from prepare import latent_statistics, load_teacher
from torch import Tensor, nn

from stylegan_toon.nn import Generator, GeneratorConfig
from stylegan_toon.training.memory import keep_pages
from stylegan_toon.training.warmstart import fit_mapping
from stylegan_toon.weights import save_networks

# Student layer -> teacher layer whose output it learns. Both are the n-th convolution at that resolution.
LAYERS = {
    "b4.conv1": "conv1",
    **{f"b{8 << k}.conv0": f"b{k}.conv1" for k in range(4)},
    **{f"b{8 << k}.conv1": f"b{k}.conv2" for k in range(4)},
}


def teacher_features(teacher: nn.Module, w: Tensor, resolution: int) -> dict[str, Tensor]:
    """Outputs of the teacher's convolutions up to ``resolution``, by the teacher's layer names."""
    x = teacher.styled("conv1", teacher.p("const").expand(w.shape[0], -1, -1, -1), w)
    found, k = {"conv1": x}, 0
    while 8 << k <= resolution:
        x = teacher.idwt(x * teacher.mod(f"b{k}.up", w))
        x = found[f"b{k}.conv1"] = teacher.styled(f"b{k}.conv1", x, w)
        x = found[f"b{k}.conv2"] = teacher.styled(f"b{k}.conv2", x, w)
        k += 1
    return found


class Basis(nn.Module):
    """Principal components of a teacher layer and the student's linear head that predicts them."""

    def __init__(self, sample: Tensor, count: int, width: int) -> None:
        super().__init__()
        rows = sample.permute(0, 2, 3, 1).reshape(-1, sample.shape[1])
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        self.register_buffer("mean", mean)
        self.register_buffer("project", vectors[:, -count:] / values[-count:].mean().sqrt())
        self.share = float(values[-count:].sum() / values.sum())
        self.head = nn.Conv2d(width, count, 1)

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        target = (teacher - self.mean[:, None, None]).permute(0, 2, 3, 1) @ self.project
        return F.mse_loss(self.head(student).permute(0, 2, 3, 1), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="folder with mobilestylegan_torch.py and its npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kimg", type=float, default=17)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--minutes", type=float, default=1e9)
    args = parser.parse_args()
    keep_pages()
    torch.manual_seed(0)
    teacher = load_teacher(args.teacher)
    w, mean, scale = latent_statistics(teacher)
    G = Generator(
        GeneratorConfig(resolution=128, channel_base=4096, channel_max=192, mapping_layers=2, mapping_features=1024)
    )
    fit_mapping(G.mapping, w * scale)
    taps: dict[str, Tensor] = {}
    for name in LAYERS:
        G.synthesis.get_submodule(name).register_forward_hook(lambda _m, _i, out, n=name: taps.__setitem__(n, out))

    def latents(count: int) -> Tensor:
        with torch.no_grad():
            psi = torch.empty(count, 1).uniform_(0.5, 1.0)
            return mean + psi * (teacher.mapping(torch.randn(count, 512)) - mean)

    def run(blocks: int, w: Tensor) -> None:
        x = img = None
        w = w * scale
        for block in G.synthesis.blocks()[:blocks]:
            x, img = block(x, img, iter([w, w]), w, "none", None)

    with torch.no_grad():
        found = teacher_features(teacher, latents(48), 64)
        run(5, latents(1))
    bases = nn.ModuleDict()
    for name, source in LAYERS.items():
        width = taps[name].shape[1]
        bases[name.replace(".", "_")] = basis = Basis(found[source], min(width, 192), width)
        print(f"{name}: {width} channels hold {basis.share:.3f} of {source}'s variance", flush=True)
    del found
    seen = 0
    parameters = [*G.synthesis.parameters(), *bases.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=args.lr, betas=(0.9, 0.99))
    started, last, losses = time.time(), time.time(), {}
    while seen < args.kimg * 1000:
        share = max(seen / (args.kimg * 1000), (time.time() - started) / 60 / args.minutes)
        if share >= 1:
            break
        for group in optimizer.param_groups:  # warm up, then cosine down over the last half
            group["lr"] = args.lr * min(1, (seen + 1) / 2000) * (0.5 + 0.5 * np.cos(np.pi * max(0, 2 * share - 1)))
        top = 64 if share > 0.6 else 32  # the 64 px layers cost as much as all below; they learn last
        w = latents(args.batch)
        with torch.no_grad():
            found = teacher_features(teacher, w, top)
        run(5 if top == 64 else 4, w)
        terms = {n: bases[n.replace(".", "_")].loss(taps[n], found[s]) for n, s in LAYERS.items() if s in found}
        loss = sum(terms.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for n, v in terms.items():
            losses.setdefault(n, []).append(v.item())
        seen += args.batch
        if time.time() - last > 60 or seen >= args.kimg * 1000:
            last = time.time()
            text = " ".join(f"{n} {np.mean(v):.3f}" for n, v in losses.items())
            print(f"{seen} {(time.time() - started):.0f}s {text}", flush=True)
            losses = {}
            save(G, args, seen)
    save(G, args, seen)


def save(G: Generator, args: argparse.Namespace, seen: int) -> None:
    provenance = {
        "verb": "pretrained/recipes/distill_features.py",
        "options": {"kimg": args.kimg, "minutes": args.minutes, "batch": args.batch, "lr": args.lr},
        "data": "features of MobileStyleGAN (random-face 2021.7.21.1) at random latents",
        "latents_seen": seen,
        "licence": "non-commercial research",
    }
    save_networks(args.out, {"G_ema": G}, provenance=provenance, overwrite=True)


if __name__ == "__main__":
    main()

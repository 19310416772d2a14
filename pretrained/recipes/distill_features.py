"""Step 1 of `faces`: teach a new generator, layer by layer, what a published face generator computes inside.

A regression from latents to pictures alone learns slowly on a CPU; every layer of the student regressing the
features of the teacher's layer at the same place learns in minutes. The teacher is slower than the student, so its
features are computed once, for the latents of the pictures, and kept as 8-bit numbers; then both the features and
the pictures are learned at once. The teacher is MobileStyleGAN (arXiv 2104.04767): weights of the PyPI wheel
random-face 2021.7.21.1.

    python pretrained/recipes/distill_features.py --teacher DIR --data runs/data --out runs/features.safetensors
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from prepare import latent_statistics, load_teacher
from torch import Tensor, nn

from stylegan_toon.data.dataset import ImageDataset
from stylegan_toon.nn import Generator, GeneratorConfig
from stylegan_toon.training.memory import keep_pages
from stylegan_toon.training.vgg import VggLoss
from stylegan_toon.training.warmstart import fit_mapping, pyramid_loss, read_latents
from stylegan_toon.weights import load_network, save_networks

# Student layer -> teacher layer whose output it learns. Both are the n-th convolution at that resolution.
LAYERS = {
    "b4.conv1": "conv1",
    **{f"b{8 << k}.conv0": f"b{k}.conv1" for k in range(4)},
    **{f"b{8 << k}.conv1": f"b{k}.conv2" for k in range(4)},
}
STEP = 1 / 32  # of the stored 8-bit numbers, in standard deviations: they hold +-4


def teacher_features(teacher: nn.Module, w: Tensor, resolution: int = 64) -> dict[str, Tensor]:
    """Outputs of the teacher's convolutions up to ``resolution``, by the teacher's layer names."""
    x = teacher.styled("conv1", teacher.p("const").expand(w.shape[0], -1, -1, -1), w)
    found, k = {"conv1": x}, 0
    while 8 << k <= resolution:
        x = teacher.idwt(x * teacher.mod(f"b{k}.up", w))
        x = found[f"b{k}.conv1"] = teacher.styled(f"b{k}.conv1", x, w)
        x = found[f"b{k}.conv2"] = teacher.styled(f"b{k}.conv2", x, w)
        k += 1
    return found


class Layer:
    """The principal components of one teacher layer, on disk for every picture: int8 ``[pictures, H, W, count]``."""

    def __init__(self, folder: Path, name: str, sample: Tensor, count: int, pictures: int) -> None:
        rows = sample.permute(0, 2, 3, 1).reshape(-1, sample.shape[1]).double()
        self.mean = rows.mean(0).float()
        values, vectors = torch.linalg.eigh((rows - self.mean).T @ (rows - self.mean) / len(rows))
        self.share = float(values[-count:].sum() / values.sum())
        self.vectors, std = vectors[:, -count:].float(), values[-count:].clamp(min=1e-12).sqrt().float()
        self.std = std / std.square().mean().sqrt()  # the loss weighs a component by its variance, 1 on average
        self.project = self.vectors / std / STEP
        shape = (pictures, sample.shape[2], sample.shape[3], count)
        path = folder / f"{name}.npy"
        self.known = path.exists()
        mode = "r+" if self.known else "w+"
        self.table = np.lib.format.open_memmap(path, mode, dtype=np.int8, shape=None if self.known else shape)

    def store(self, start: int, features: Tensor) -> None:
        x = (features.permute(0, 2, 3, 1) - self.mean) @ self.project
        self.table[start : start + len(x)] = x.round().clamp(-127, 127).to(torch.int8).numpy()

    def targets(self, rows: list[int]) -> Tensor:
        """float32 ``[N, count, H, W]``."""
        x = torch.from_numpy(np.stack([self.table[row] for row in rows])).float()
        return (x * (self.std * STEP)).permute(0, 3, 1, 2)


@torch.no_grad()
def remember(teacher: nn.Module, w: Tensor, widths: dict[str, int], folder: Path) -> dict[str, Layer]:
    """Fill (or find again) the tables of all layers for the teacher's latents ``w``."""
    folder.mkdir(parents=True, exist_ok=True)
    sample = teacher_features(teacher, w[:48])
    layers = {
        name: Layer(folder, name, sample[source], min(widths[name], 192), len(w)) for name, source in LAYERS.items()
    }
    for name, layer in layers.items():
        print(f"{name}: {layer.std.numel()} numbers hold {layer.share:.3f} of {LAYERS[name]}'s variance", flush=True)
    if not all(layer.known for layer in layers.values()):
        for start in range(0, len(w), 8):
            found = teacher_features(teacher, w[start : start + 8])
            for name, layer in layers.items():
                layer.store(start, found[LAYERS[name]])
            if start % 400 == 0:
                print(f"teacher: {start} of {len(w)}", flush=True)
    return layers


@torch.no_grad()
def heads(G: Generator, taps: dict[str, Tensor], ws: Tensor, layers: dict[str, Layer]) -> nn.ModuleDict:
    """Linear maps from the student's layers to the targets, set by least squares to what they are now."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    rows = list(range(128))
    for start in range(0, len(rows), 8):
        G.synthesis(ws[rows[start : start + 8]], noise_mode="none")
        for name in layers:
            found[name].append(taps[name].permute(0, 2, 3, 1).flatten(0, 2))
    made = nn.ModuleDict()
    for name, layer in layers.items():
        x = torch.cat(found[name]).double()
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
        y = layer.targets(rows).permute(0, 2, 3, 1).flatten(0, 2).double()
        ridge = 1e-3 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
        solved = torch.linalg.solve(x.T @ x + ridge, x.T @ y).float()
        made[name.replace(".", "_")] = head = nn.Conv2d(x.shape[1] - 1, y.shape[1], 1)
        head.weight.copy_(solved[:-1].T[:, :, None, None])
        head.bias.copy_(solved[-1])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="folder with mobilestylegan_torch.py and its npz")
    parser.add_argument("--data", type=Path, required=True, help="folder with faces.zip and faces.npz of prepare.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init-from", help="go on from this network, of this or half the resolution")
    parser.add_argument("--vgg", help="npz of VGG16's first three stages")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--kimg", type=float, default=20)
    parser.add_argument("--top", type=int, default=64, help="learn features and pictures up to this resolution")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the weights' moving average, which is saved")
    args = parser.parse_args()
    keep_pages()
    torch.manual_seed(0)
    teacher = load_teacher(args.teacher)
    w, _, scale = latent_statistics(teacher)
    known = torch.from_numpy(read_latents(args.data / "faces.npz")["w"])
    pictures = ImageDataset(args.data / "faces.zip", args.top, resize=True)
    targets = torch.stack([pictures[row][0] for row in range(len(known))])
    G = Generator(
        GeneratorConfig(
            resolution=args.resolution, channel_base=4096, channel_max=192, mapping_layers=2, mapping_features=1024
        )
    )
    if args.init_from:
        missing = G.load_state_dict(load_network(args.init_from).state_dict(), strict=False).missing_keys
        print("new:", sorted({key.split(".")[1] for key in missing}))
    else:
        fit_mapping(G.mapping, w * scale)
    taps: dict[str, Tensor] = {}
    for name in LAYERS:
        G.synthesis.get_submodule(name).register_forward_hook(lambda _m, _i, out, n=name: taps.__setitem__(n, out))
    with torch.no_grad():
        G.synthesis(known[:1, None].expand(-1, G.num_ws, -1), noise_mode="none")
    widths = {name: taps[name].shape[1] for name in LAYERS}
    layers = remember(teacher, known / scale, widths, args.out.with_suffix(".tables"))
    bases = heads(G, taps, known[:, None].expand(-1, G.num_ws, -1), layers)
    perceptual = VggLoss(args.vgg) if args.vgg else None
    optimizer = torch.optim.Adam([*G.synthesis.parameters(), *bases.parameters()], lr=args.lr, betas=(0.9, 0.99))
    blocks = [block for block in G.synthesis.blocks() if block.resolution <= args.top]
    seen, minute, started, last, losses = 0, 1, time.time(), time.time(), {}
    state = args.out.with_suffix(".state.pt")
    average = copy.deepcopy(G).requires_grad_(False)
    parts = {"G": G, "average": average, "bases": bases, "optimizer": optimizer}
    if state.exists():  # go on where the last run of this command ended
        saved = torch.load(state, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        seen = saved["seen"]
    order: list[int] = []
    while True:
        if seen >= args.kimg * 1000 or time.time() - started > args.minutes * 60:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (seen + 1) / 2000)
        if len(order) < args.batch:
            order = torch.randperm(len(known)).tolist()
        rows = [order.pop() for _ in range(args.batch)]
        ws = known[rows, None].expand(-1, G.num_ws, -1)
        terms: dict[str, Tensor] = {}
        x = img = None
        images = []
        for block in blocks:
            x, img = block(x, img, iter([ws[:, 0]] * 2), ws[:, 0], "none", None)
            images.append(img)
        terms["pictures"] = pyramid_loss(images, targets[rows].float() / 127.5 - 1, perceptual)
        for name, layer in layers.items():
            terms[name] = F.mse_loss(bases[name.replace(".", "_")](taps[name]), layer.targets(rows))
        optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(G.parameters()), 1 - args.ema)
        for n, v in terms.items():
            losses.setdefault(n, []).append(v.item())
        seen += args.batch
        if time.time() - last > 60:
            last = time.time()
            text = " ".join(f"{n} {np.mean(v):.3f}" for n, v in losses.items())
            print(f"{seen} {(time.time() - started):.0f}s {text}", flush=True)
            losses = {}
            if minute % 5 == 0:
                keep(state, parts, seen, average, args)
            minute += 1
    keep(state, parts, seen, average, args)


def keep(state: Path, parts: dict, seen: int, average: Generator, args: argparse.Namespace) -> None:
    whole = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**whole, "seen": seen}, state.with_suffix(".new"))
    state.with_suffix(".new").replace(state)
    save(average, args, seen)


def save(G: Generator, args: argparse.Namespace, seen: int) -> None:
    provenance = {
        "verb": "pretrained/recipes/distill_features.py",
        "options": {"kimg": args.kimg, "minutes": args.minutes, "batch": args.batch, "lr": args.lr},
        "data": "features of MobileStyleGAN (random-face 2021.7.21.1), and its pictures",
        "latents_seen": seen,
        "licence": "non-commercial research",
    }
    save_networks(args.out, {"G_ema": G}, provenance=provenance, overwrite=True)


if __name__ == "__main__":
    main()

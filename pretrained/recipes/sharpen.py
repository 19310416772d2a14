"""Crisp lines on photos: the upper blocks of a cartoon network, trained on what tuning gives them.

    P="python pretrained/recipes/sharpen.py"
    $P tune --faces runs/faces512 --out runs/tuned
    $P train --drawings runs/comic-drawings --tuned runs/tuned --out runs/sharp

``tune`` does to each face of `faces.py` what `toonify` does to a photo: the picture is made a little like one (smaller,
JPEG, light), encoded, and the coarse blocks of ``faces`` are tuned to it. It keeps the features at 64 px that the
cartoon networks (``--network comic,animated``) have after the same change of their weights, and ws. No photo of a
person is used.

``train`` teaches the blocks above 64 px to make the drawing of the face from these features (half of the pictures) and
from untuned ones: L1, the finest Haar bands and VGG16's features, and a projected discriminator on windows of 256 px.
The blocks below stay, so their features are computed once and a step costs a window of the upper blocks only. Both
can be stopped and go on.
"""

from __future__ import annotations

import argparse
import copy
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stylegan_toon import load_network
from stylegan_toon.data.images import image_grid, read_image, save_image, to_pil, to_tensor
from stylegan_toon.features.perceptual import fit, perceptual
from stylegan_toon.features.projected import ProjectedConfig, ProjectedDiscriminator
from stylegan_toon.features.vgg import VggLoss
from stylegan_toon.files import atomic_path
from stylegan_toon.inversion.encoder import encoder
from stylegan_toon.inversion.tuning import COARSE, tune
from stylegan_toon.memory import keep_pages
from stylegan_toon.models import Generator
from stylegan_toon.models.mobile import MobileBlock, MobileSynthesis
from stylegan_toon.ops.haar import haar_down
from stylegan_toon.pipelines.toonify import carry_over
from stylegan_toon.training.losses import discriminator_loss, generator_loss
from stylegan_toon.training.optimise import update_average
from stylegan_toon.training.pairs import detail_loss
from stylegan_toon.weights import save_networks
from stylegan_toon.weights.provenance import descend

SIZE, VIEW, MARGIN, PATCH = 512, 256, 2, 128  # pixels of pictures, windows and VGG's windows; MARGIN in features
HELD_OUT = 50  # every 50th face is only looked at


class Photo(NamedTuple):
    """How the face of a number is made like a photo: side in pixels, quality of JPEG, contrast, light (of 255)."""

    side: int
    quality: int
    contrast: float
    light: float

    @classmethod
    def of(cls, number: int) -> Photo:
        random = np.random.default_rng(number)
        side, quality = int(random.integers(230, SIZE)), int(random.integers(60, 95))
        return cls(side, quality, random.uniform(0.85, 1.2), random.uniform(-12, 12))

    def taken(self, picture: Image.Image) -> Image.Image:
        """The picture as a photo shows it."""
        file = io.BytesIO()
        picture.resize((self.side, self.side), Image.Resampling.LANCZOS).save(file, "JPEG", quality=self.quality)
        small = Image.open(file).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        x = 128 + (np.asarray(small, np.float32) - 128) * self.contrast + self.light
        return Image.fromarray(np.clip(x, 0, 255).astype(np.uint8))

    def drawn(self, drawing: Tensor) -> Tensor:
        """A drawing in [-1, 1] in the light of the photo."""
        return (drawing * self.contrast + self.light / 127.5).clamp(-1, 1)


class Network:
    """A cartoon network of the mobile family in two halves: blocks up to 64 px, which stay, and those above."""

    def __init__(self, G: Generator) -> None:
        self.G = G.eval().requires_grad_(False)
        assert isinstance(G.synthesis, MobileSynthesis), "only networks of the mobile family have two such halves"
        self.synthesis = G.synthesis
        blocks: list[Any] = [b for b in G.synthesis.blocks() if not b.wavelet and b.resolution <= SIZE]
        self.low: list[MobileBlock] = [b for b in blocks if b.resolution <= COARSE]
        self.high: list[MobileBlock] = [b for b in blocks if b.resolution > COARSE]
        self.rows = 2 * len(self.low) - 1  # of ws that the lower half reads
        self.trained = nn.ModuleList([*self.high, getattr(G.synthesis, f"b{G.config.resolution}")])
        self.noise = {name: b.clone() for name, b in self.trained.named_buffers() if name.endswith("noise_const")}

    @torch.no_grad()
    def features(self, ws: Tensor) -> Tensor:
        """What the lower half gives for ws ``[1, num_ws, w_dim]``: ``[1, C, 64, 64]``."""
        rows, x = iter(ws.unbind(1)), None
        for block in self.low:
            x = block(x, rows, "const", None)
        assert x is not None
        return x

    def pictures(self, x: Tensor, ws: Tensor, place: tuple[int, int] | None = None) -> list[Tensor]:
        """Pictures of 128, 256 and 512 px of features, or of a window of them, without its margin."""
        side = VIEW * COARSE // SIZE + 2 * MARGIN
        top, left = place or (0, 0)
        if place is not None:
            x = x[:, :, top : top + side, left : left + side]
        rows, used, pictures = iter(ws.unbind(1)[self.rows :]), self.rows, []
        for block in self.high:
            scale = block.resolution // COARSE
            for name, layer in (("conv0", block.conv0), ("conv1", block.conv1)):
                if layer.use_noise:
                    noise = self.noise[f"{self.high.index(block)}.{name}.noise_const"]
                    if place is not None:
                        noise = noise[top * scale : (top + side) * scale, left * scale : (left + side) * scale]
                    layer.noise_const = noise.contiguous()
            x, used = block(x, rows, "const", None), used + 2
            picture = self.synthesis._picture(block, x, ws[:, used])
            cut = MARGIN * scale if place is not None else 0
            pictures.append(picture[:, :, cut : picture.shape[2] - cut, cut : picture.shape[3] - cut])
        return pictures

    def whole(self) -> None:
        """Put back the noise of whole pictures."""
        for name, noise in self.noise.items():
            layer, _, buffer = name.rpartition(".")
            setattr(self.trained.get_submodule(layer), buffer, noise)


def tune_faces(args: argparse.Namespace) -> None:
    """The command ``tune``."""
    args.out.mkdir(parents=True, exist_ok=True)
    base = load_network("faces").eval().requires_grad_(False)
    toons = {name: load_network(name).requires_grad_(False) for name in args.network.split(",")}
    measure = perceptual("vgg")
    part, parts = args.part
    for path in sorted(args.faces.glob("[0-9]*.png"))[: args.count][part::parts]:
        target = args.out / f"{path.stem}.safetensors"
        if target.exists():
            continue
        number = int(path.stem)
        picture = to_tensor(Photo.of(number).taken(read_image(path)))
        tuned = copy.deepcopy(base)
        found = tune(
            tuned, encoder()(picture).detach(), fit(picture, 256), measure, steps=20 + number % 3 * 20, coarse=True
        )
        kept = {"ws": found.ws.contiguous()}
        for name, toon in toons.items():
            features = Network(carry_over(base, tuned, toon)).features(found.ws)
            kept[f"features.{name}"] = features.half().contiguous()
        with atomic_path(target) as temporary:
            save_file(kept, temporary)
        print(path.stem, f"{found.history[0]:.3f} -> {found.history[-1]:.3f}", flush=True)


class Faces:
    """Features, ws and drawings of faces, by number, tuned or not."""

    def __init__(self, network: Network, name: str, drawings: Path, tuned: Path) -> None:
        self.network, self.drawings, self.tuned, self.key = network, drawings, tuned, f"features.{name}"
        self.ws = torch.from_numpy(np.load(drawings / "ws.npz")["w"]).float()
        self.numbers = [int(p.stem) for p in sorted(drawings.glob("[0-9]*.png")) if int(p.stem) < len(self.ws)]
        self.with_tuning = [n for n in self.numbers if (tuned / f"{n:05d}.safetensors").exists()]
        self.features: dict[int, Tensor] = {}

    def look(self, number: int, tuned: bool) -> tuple[Tensor, Tensor]:
        """Features ``[1, C, 64, 64]`` and ws ``[1, num_ws, w_dim]``."""
        if tuned:
            stored = load_file(self.tuned / f"{number:05d}.safetensors")
            return stored[self.key].float(), stored["ws"]
        ws = self.ws[number : number + 1]
        if number not in self.features:
            self.features[number] = self.network.features(ws).half()
        return self.features[number].float(), ws

    def drawing(self, number: int, tuned: bool) -> Tensor:
        """``[1, 3, 512, 512]`` in [-1, 1]."""
        drawing = to_tensor(read_image(self.drawings / f"{number:05d}.png"))
        return Photo.of(number).drawn(drawing) if tuned else drawing

    def draw(self, random: np.random.Generator, share: float) -> tuple[int, bool]:
        """A face to learn from, and whether as tuned."""
        tuned = bool(self.with_tuning) and random.random() < share
        numbers = [n for n in (self.with_tuning if tuned else self.numbers) if n % HELD_OUT]
        return int(random.choice(numbers)), tuned


def window(picture: Tensor, place: tuple[int, int]) -> Tensor:
    top, left = ((p + MARGIN) * SIZE // COARSE for p in place)
    return picture[:, :, top : top + VIEW, left : left + VIEW]


def places(random: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Windows, more often near the middle, in features."""
    room = COARSE - VIEW * COARSE // SIZE - 2 * MARGIN + 1
    while True:
        y, x, also_y, also_x = (int(n) for n in random.integers(0, room, 4))
        yield (y + also_y) // 2, (x + also_x) // 2


@torch.no_grad()
def sheet(network: Network, average: nn.Module, faces: Faces, path: Path) -> float:
    """Drawings beside pictures of held-out faces; returns the finest bands' energy over that of the drawings."""
    current = copy.deepcopy(network.trained.state_dict())
    network.trained.load_state_dict(average.state_dict())
    cells, ours, theirs = [], 0.0, 0.0
    for number in [n for n in faces.numbers if n % HELD_OUT == 0][:8]:
        for tuned in {False, number in faces.with_tuning}:
            picture, drawing = network.pictures(*faces.look(number, tuned))[-1], faces.drawing(number, tuned)
            ours, theirs = (
                total + float(haar_down(p)[:, 3:].square().mean()) for total, p in ((ours, picture), (theirs, drawing))
            )
            cells += [to_pil(drawing), to_pil(picture)]
    save_image(image_grid(cells, columns=4, size=SIZE), path)
    network.whole()
    network.trained.load_state_dict(current)
    return ours / max(theirs, 1e-12)


def train(args: argparse.Namespace) -> None:
    """The command ``train``."""
    args.out.mkdir(parents=True, exist_ok=True)
    parent = load_network(args.network)
    network = Network(copy.deepcopy(parent))
    faces = Faces(network, args.network, args.drawings, args.tuned)
    network.trained.requires_grad_(True)
    average, D, vgg = copy.deepcopy(network.trained), ProjectedDiscriminator(ProjectedConfig(VIEW)), VggLoss(None)
    g_adam = torch.optim.Adam(network.trained.parameters(), args.lr, betas=(0.0, 0.99))
    d_adam = torch.optim.Adam(D.parameters(), args.d_lr, betas=(0.0, 0.99))
    parts: dict[str, Any] = {"g": network.trained, "average": average, "d": D, "g_adam": g_adam, "d_adam": d_adam}
    seen, state = 0, args.out / "state.pt"
    if state.exists():
        stored = torch.load(state, weights_only=True)
        seen = stored.pop("seen")
        for name, part in parts.items():
            part.load_state_dict(stored[name])
    random = np.random.default_rng(seen)
    where = places(random)
    while seen < args.images:
        rate = args.lr * min(1.0, (seen / args.batch + 1) / 30)
        rate *= 0.1 + 0.45 * (1 + math.cos(math.pi * seen / args.images))
        for group in g_adam.param_groups:
            group["lr"] = rate
        fakes, reals, pairs = [], [], 0.0
        g_adam.zero_grad()
        D.requires_grad_(False)
        for _ in range(args.batch):
            (number, tuned), place = faces.draw(random, args.share), next(where)
            pictures = network.pictures(*faces.look(number, tuned), place)
            target = window(faces.drawing(number, tuned), place)
            loss = F.l1_loss(pictures[-1], target) + args.detail * detail_loss(pictures[-1], target)
            for small in pictures[:-1]:
                loss = loss + F.l1_loss(small, F.interpolate(target, size=small.shape[2:], mode="area")) / 4
            y, x = (int(n) for n in random.integers(0, VIEW - PATCH + 1, 2))
            loss = loss + vgg(*(p[:, :, y : y + PATCH, x : x + PATCH] for p in (pictures[-1], target)))
            ((loss + args.adversarial * generator_loss(D(pictures[-1])).mean()) / args.batch).backward()
            pairs += float(loss.detach()) / args.batch
            fakes.append(pictures[-1].detach())
            reals.append(window(faces.drawing(*faces.draw(random, args.share)), next(where)))
        g_adam.step()
        D.requires_grad_(True)
        d_adam.zero_grad()
        d_loss = discriminator_loss(D(torch.cat(reals)), D(torch.cat(fakes))).mean()
        d_loss.backward()
        d_adam.step()
        network.whole()
        seen += args.batch
        update_average(average, network.trained, 0.5 ** (args.batch / 100))
        if seen % 20 < args.batch:
            print(seen, f"pairs {pairs:.3f} D {float(d_loss.detach()):.3f}", flush=True)
        if seen % 200 < args.batch or seen >= args.images:
            print(seen, "finest band", sheet(network, average, faces, args.out / f"sheet-{seen:06d}.png"), flush=True)
            with atomic_path(state) as temporary:
                torch.save({**{name: part.state_dict() for name, part in parts.items()}, "seen": seen}, temporary)
    network.trained.load_state_dict(average.state_dict())
    options = {key: value for key, value in vars(args).items() if isinstance(value, (int, float))}
    provenance = descend("sharpen", options, [parent], data=args.drawings.name)
    save_networks(args.out / "network.safetensors", {"G_ema": network.G}, provenance=provenance, overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("tune")
    one.add_argument("--faces", type=Path, required=True)
    one.add_argument("--count", type=int, default=200)
    one.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="Every Nth face, from I on.")
    one.set_defaults(run=tune_faces)
    two = commands.add_parser("train")
    two.add_argument("--drawings", type=Path, required=True)
    two.add_argument("--tuned", type=Path, required=True)
    two.add_argument("--images", type=int, default=2400)
    two.add_argument("--batch", type=int, default=2)
    two.add_argument("--lr", type=float, default=0.0004)
    two.add_argument("--d-lr", type=float, default=0.001)
    two.add_argument("--adversarial", type=float, default=0.1)
    two.add_argument("--detail", type=float, default=3.0)
    two.add_argument("--share", type=float, default=0.5, help="Of the pictures that are as tuning gives them.")
    two.set_defaults(run=train)
    for command in (one, two):
        command.add_argument("--network", default="comic")
        command.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    keep_pages()
    torch.manual_seed(0)
    args.run(args)


if __name__ == "__main__":
    main()

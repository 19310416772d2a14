"""Train a CycleGAN: photos into cartoons and back, from two sets that have nothing to do with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from projects import _common as kit
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil, to_tensor
from stylegan_toon.training.config import RunConfig, setting
from stylegan_toon.training.log import Sink
from stylegan_toon.training.run import Run, Saved
from stylegan_toon.training.update import untrained

from .model import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, Pool

SHOWN = 6  # pictures of each set shown while training
GENERATORS = ("toon", "photo")  # named after what they make


@dataclass(frozen=True)
class Config(RunConfig):
    """How to train; the defaults are the paper's, with `config.toml` beside this over them."""

    resolution: int = setting(256, "Side of the pictures, a multiple of 4.")
    blocks: int = setting(9, "Residual blocks of a generator: 4, 6 or 9.")
    g_channels: int = setting(64, "Generators: channels after the first layer.")
    d_channels: int = setting(64, "Discriminators: channels after the first layer.")
    norm: str = setting("instance", "Norm in all networks: instance, or layer, which keeps colours.")
    upsample: str = setting("transposed", "How generators enlarge: transposed, or nearest (and a convolution).")
    d_layers: int = setting(3, "Discriminators: layers; 1, 2, 3, 4 judge patches of 16, 34, 70, 142 pixels.")
    batch: int = setting(1, "Pairs of pictures per step.")
    loss: str = setting("lsgan", "What D and G play for: lsgan (least squares) or bce (cross-entropy).")
    cycle: float = setting(10.0, "Weight of getting a picture back, L1.")
    identity: float = setting(0.5, "Weight of leaving alone what is of the right kind already, as a part of --cycle.")
    pool: int = setting(50, "Older pictures kept for D; 0: none.")
    lr: float = setting(2e-4, "Adam's rate for all networks.")
    beta1: float = setting(0.5, "Adam's first beta.")
    decay_kimg: float = setting(0.0, "Let the rate fall to zero over the last so many thousand pictures; 0: constant.")
    mirror: bool = setting(False, "Double both sets by mirror images.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generator, self.discriminator  # noqa: B018 - or refuse
        if self.loss not in ("lsgan", "bce"):
            raise ValueError(f"loss is {self.loss!r}, not lsgan or bce")
        if self.resolution < 32 or self.resolution % 4:
            raise ValueError(f"resolution is {self.resolution}, not a multiple of 4 from 32 on")
        if self.pool < 0 or min(self.cycle, self.identity, self.decay_kimg) < 0:
            raise ValueError("pool, cycle, identity and decay_kimg must not be negative")

    @property
    def generator(self) -> GeneratorConfig:
        return GeneratorConfig(self.g_channels, self.blocks, self.norm, self.upsample)

    @property
    def discriminator(self) -> DiscriminatorConfig:
        return DiscriminatorConfig(self.d_channels, self.d_layers, self.norm)


def build(config: Config) -> dict[str, torch.nn.Module]:
    """New networks: ``toon`` and ``photo`` make such pictures, ``D_toon`` and ``D_photo`` judge them."""
    makers = {name: Generator(config.generator) for name in GENERATORS}
    return makers | {f"D_{name}": Discriminator(config.discriminator) for name in GENERATORS}


def adversarial(loss: str, scores: Tensor, real: bool) -> Tensor:
    """How far patch scores are from "all real" or "all not"."""
    if loss == "lsgan":
        return (scores - float(real)).square().mean()
    return F.softplus(-scores if real else scores).mean()


def train(
    photos: ImageDataset,
    cartoons: ImageDataset,
    folder: Path,
    config: Config,
    *,
    device: torch.device | str = "cpu",
    saved: Saved | None = None,
    sinks: Sequence[Sink] = (),
    provenance: dict[str, Any] | None = None,
    quiet: bool = True,
) -> Path:
    """Train on the two sets; returns the file with ``toon`` and ``photo``. The other arguments are those of `Run`."""
    networks = {name: network.to(device) for name, network in (saved.networks if saved else build(config)).items()}
    to_toon, to_photo, D_toon, D_photo = (networks[name] for name in (*GENERATORS, "D_toon", "D_photo"))
    side = (3, config.resolution, config.resolution)
    pools = {name: Pool(config.pool, side, device) for name in GENERATORS}

    def adam(*names: str) -> torch.optim.Adam:
        parameters = [p for name in names for p in networks[name].parameters()]
        return torch.optim.Adam(parameters, config.lr, betas=(config.beta1, 0.999))

    run = Run(
        folder, config, networks, {"G": adam(*GENERATORS), "D": adam("D_toon", "D_photo")},
        extras={f"{name}.{k}": getattr(pool, k) for name, pool in pools.items() for k in ("pictures", "count")},
        resume=saved, sinks=sinks, provenance=provenance, quiet=quiet,
    )  # fmt: skip

    def generators(photo: Tensor, toon: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses of both, and what they made."""
        with run.autocast():
            fake_toon, fake_photo = to_toon(photo), to_photo(toon)
            back_photo, back_toon = to_photo(fake_toon), to_toon(fake_photo)
            scores = D_toon(fake_toon).float(), D_photo(fake_photo).float()
            losses = {
                "G_toon": adversarial(config.loss, scores[0], real=True),
                "G_photo": adversarial(config.loss, scores[1], real=True),
                "cycle": F.l1_loss(back_photo.float(), photo) + F.l1_loss(back_toon.float(), toon),
            }
            if config.identity:
                same = F.l1_loss(to_toon(toon).float(), toon) + F.l1_loss(to_photo(photo).float(), photo)
                losses["identity"] = same
        return losses, fake_toon.float(), fake_photo.float()

    def judge(D: Discriminator, real: Tensor, fake: Tensor) -> Tensor:
        with run.autocast():
            scores = D(real).float(), D(fake).float()
        return (adversarial(config.loss, scores[0], True) + adversarial(config.loss, scores[1], False)) / 2

    def step(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        photo, toon = batch["photos"], batch["cartoons"]
        lr = learning_rate(config, run.counters.images)
        run.rate("G", lr)
        run.rate("D", lr)
        with untrained(D_toon), untrained(D_photo):
            losses, fake_toon, fake_photo = generators(photo, toon)
            weights = {"cycle": config.cycle, "identity": config.cycle * config.identity}
            run.minimise("G", sum(weights.get(name, 1.0) * loss for name, loss in losses.items()))
        d_toon = judge(D_toon, toon, pools["toon"].exchange(fake_toon))
        d_photo = judge(D_photo, photo, pools["photo"].exchange(fake_photo))
        run.minimise("D", d_toon + d_photo)
        return losses | {"D_toon": d_toon, "D_photo": d_photo}

    shown = [[data.image(row) for row in range(min(SHOWN, len(data.names)))] for data in (photos, cartoons)]

    def paint() -> Image.Image:
        return sheet(networks, *shown)

    return run.train({"photos": photos, "cartoons": cartoons}, step, paint, publish=GENERATORS)


def learning_rate(config: Config, images: int) -> float:
    """Constant, then over the last ``decay_kimg`` thousand pictures straight down to zero."""
    left = config.kimg * 1000 - images
    return config.lr * (min(1.0, left / (config.decay_kimg * 1000)) if config.decay_kimg else 1.0)


@torch.no_grad()
def translate(network: Generator, image: Image.Image) -> Image.Image:
    """A picture of the other kind; ``image`` has sides that are multiples of 4. The same wherever it is called."""
    device = next(network.parameters()).device
    return to_pil(network(to_tensor(image).to(device)))


def sheet(networks: dict[str, torch.nn.Module], photos: list[Image.Image], cartoons: list[Image.Image]) -> Image.Image:
    """A row each: photos, made into cartoons, and back again; cartoons, made into photos, and back again."""
    rows: list[list[Image.Image]] = []
    for images, (there, back) in ((photos, GENERATORS), (cartoons, GENERATORS[::-1])):
        made = [translate(networks[there], image) for image in images]
        rows += [images, made, [translate(networks[back], image) for image in made]]
    columns = max(len(row) for row in rows)
    blank = Image.new("RGB", photos[0].size, "white")
    cells = [image for row in rows for image in row + [blank] * (columns - len(row))]
    labels = ["photo", "cartoon", "and back", "cartoon", "photo", "and back"]
    return image_grid(cells, columns, row_labels=labels)


@kit.trainer(
    """python -m projects.cyclegan.train --photos data/photos-train.zip --cartoons data/cartoons-train.zip
python -m projects.cyclegan.train --photos photos/ --cartoons cartoons/ --blocks 9 --dtype float16 --decay-kimg 60
python -m projects.cyclegan.train --photos photos/ --cartoons cartoons/ --resume auto""",
    Config,
    Path(__file__).with_name("config.toml"),
    [["G_toon", "G_photo"], ["D_toon", "D_photo"], ["cycle", "identity"]],
)
@click.option("--photos", required=True, help="Folder, zip or tar shards (also http) of photos.")
@click.option("--cartoons", required=True, help="The same of cartoons.")
def main(start: kit.Start, photos: str, cartoons: str) -> Path:
    """Train a CycleGAN: photos into cartoons and back.

    Writes snapshots and sheets of the same few pictures to --out every --snapshot-kimg thousand pictures, at the end
    network.safetensors (toon, photo) and curves.png.
    """
    config = start.config
    sets = [ImageDataset(path, config.resolution, resize=True, xflip=config.mirror) for path in (photos, cartoons)]
    data = f"{Path(photos).name}, {Path(cartoons).name}"
    return train(
        *sets, start.folder, config, device=start.device, saved=start.saved, sinks=start.sinks,
        provenance=start.provenance | {"data": data}, quiet=start.quiet,
    )  # fmt: skip


if __name__ == "__main__":
    main()

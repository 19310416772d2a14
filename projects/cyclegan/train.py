"""Train a CycleGAN: photos into cartoons and back, from two sets that have nothing to do with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from projects import _common as kit
from stylegan_toon.config import Config, ConfigError, option
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil, to_tensor
from stylegan_toon.training.config import MOST
from stylegan_toon.training.log import Sink
from stylegan_toon.training.run import Run, RunConfig, Saved
from stylegan_toon.training.update import untrained

from .model import BLOCKS, NORMS, UPSAMPLERS, Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, Pool

SHOWN = 6  # pictures of each set shown while training
GENERATORS = ("toon", "photo")  # named after what they make


@dataclass(frozen=True)
class Sources(Config):
    """What to train on."""

    photos: str = option(help="Folder, zip or tar shards (also http) of photos.")
    cartoons: str = option(help="The same of cartoons.")


@dataclass(frozen=True)
class TrainingConfig(RunConfig):
    """How to train; the defaults are the paper's. ``config.toml`` replaces some of them for a CPU."""

    batch: int = option(1, "Pairs of pictures per step.", low=1, high=1 << 16)
    resolution: int = option(256, "Side of the pictures, a multiple of 4.", low=32, high=2048)
    blocks: int = option(9, "Residual blocks of a generator: 4, 6 or 9.", choices=BLOCKS)
    g_channels: int = option(64, "Generators: channels after the first layer.", low=1, high=1024)
    d_channels: int = option(64, "Discriminators: channels after the first layer.", low=1, high=1024)
    norm: str = option("instance", "Norm in all networks; layer keeps colours.", choices=NORMS)
    upsample: str = option(
        "transposed", "How generators enlarge; nearest is followed by a convolution.", choices=UPSAMPLERS
    )
    d_layers: int = option(
        3, "Discriminators: layers; 1, 2, 3, 4 judge patches of 16, 34, 70, 142 pixels.", low=1, high=4
    )
    loss: str = option("lsgan", "Adversarial loss: least squares, or cross-entropy.", choices=("lsgan", "bce"))
    cycle: float = option(10.0, "Weight of the cycle loss: L1 of a picture and its way there and back.", low=0)
    identity: float = option(
        0.5, "Weight of leaving alone what is of the right kind already, as a part of --cycle.", low=0
    )
    pool: int = option(50, "Older pictures kept for D; 0: none.", low=0, high=10000)
    lr: float = option(2e-4, "Adam's learning rate for all networks.", above=0)
    beta1: float = option(0.5, "Adam's first beta.", low=0, high=0.9999)
    decay_kimg: float = option(
        0.0, "Let the rate fall to zero over the last so many thousand pictures; 0: constant.", low=0, high=MOST
    )
    mirror: bool = option(False, "Double both sets by mirror images.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution % 4:
            raise ConfigError(f"--resolution is {self.resolution}: give a multiple of 4.")

    @property
    def generator(self) -> GeneratorConfig:
        """Sizes of both generators."""
        return GeneratorConfig(self.g_channels, self.blocks, self.norm, self.upsample)

    @property
    def discriminator(self) -> DiscriminatorConfig:
        """Sizes of both discriminators."""
        return DiscriminatorConfig(self.d_channels, self.d_layers, self.norm)


def build(config: TrainingConfig) -> dict[str, torch.nn.Module]:
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
    config: TrainingConfig,
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


def learning_rate(config: TrainingConfig, images: int) -> float:
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
    TrainingConfig,
    Sources,
    Path(__file__).with_name("config.toml"),
    [["G_toon", "G_photo"], ["D_toon", "D_photo"], ["cycle", "identity"]],
)
def main(start: kit.Start) -> Path:
    """Train a CycleGAN: photos into cartoons and back.

    Writes snapshots and sheets of the same few pictures to --out every --snapshot-kimg thousand pictures, at the end
    network.safetensors (toon, photo) and curves.png.
    """
    config, photos, cartoons = start.config, start.sources.photos, start.sources.cartoons
    sets = [ImageDataset(path, config.resolution, resize=True, xflip=config.mirror) for path in (photos, cartoons)]
    data = f"{Path(photos).name}, {Path(cartoons).name}"
    return train(
        *sets, start.folder, config, device=start.device, saved=start.saved, sinks=start.sinks,
        provenance=start.provenance | {"data": data}, quiet=start.quiet,
    )  # fmt: skip


if __name__ == "__main__":
    main()

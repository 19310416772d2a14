"""Train a CycleGAN: photos into cartoons and back, from two unpaired sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from projects._common import ProjectConfig, ProjectTask, Start, add_up, fade_out, training_command
from stylegan_toon.config import Config, ConfigError, option
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil, to_tensor
from stylegan_toon.training.config import MOST
from stylegan_toon.training.optimise import frozen

from .model import BLOCKS, NORMS, UPSAMPLERS, Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, Pool

SHOWN = 6  # pictures of each set shown while training
GENERATORS = ("toon", "photo")  # named after what they make


@dataclass(frozen=True)
class Sources(Config):
    """What to train on."""

    photos: str = option(help="Folder, zip or tar shards (also http) of photos.")
    cartoons: str = option(help="The same of cartoons.")


@dataclass(frozen=True)
class TrainingConfig(ProjectConfig):
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
        0.5, "Weight of the identity loss (cartoons stay cartoons, photos photos), as a part of --cycle.", low=0
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


def new_networks(config: TrainingConfig) -> dict[str, nn.Module]:
    """New networks: the generators ``toon`` and ``photo``, and the discriminators ``D_toon`` and ``D_photo``."""
    generators: dict[str, nn.Module] = {name: Generator(config.generator) for name in GENERATORS}
    return generators | {f"D_{name}": Discriminator(config.discriminator) for name in GENERATORS}


def adversarial(loss: str, scores: Tensor, real: bool) -> Tensor:
    """Adversarial loss of patch scores; ``real`` is what they should say. A scalar."""
    if loss == "lsgan":
        return (scores - float(real)).square().mean()
    return F.softplus(-scores if real else scores).mean()


class CycleganTask(ProjectTask):
    """Two generators, each the inverse of the other, and two discriminators (sections 3 and 4 of the paper).

    Args:
        config: how to train.
        networks: ``toon``, ``photo``, ``D_toon`` and ``D_photo``, on the device to train on.
        photos, cartoons: the sets.
    """

    config_class = TrainingConfig
    published = GENERATORS
    config: TrainingConfig

    def __init__(
        self,
        config: TrainingConfig,
        networks: Mapping[str, nn.Module],
        photos: ImageDataset,
        cartoons: ImageDataset,
    ) -> None:
        def adam(*names: str) -> torch.optim.Adam:
            parameters = [parameter for name in names for parameter in networks[name].parameters()]
            return torch.optim.Adam(parameters, config.lr, betas=(config.beta1, 0.999))

        adams = {"G": adam(*GENERATORS), "D": adam("D_toon", "D_photo")}
        super().__init__(config, networks, adams, {"photos": photos, "cartoons": cartoons})
        self.to_toon, self.to_photo = (self.network(name, Generator) for name in GENERATORS)
        self.D_toon, self.D_photo = (self.network(f"D_{name}", Discriminator) for name in GENERATORS)
        side = (3, config.resolution, config.resolution)
        self.pools = {name: Pool(config.pool, side, self.device) for name in GENERATORS}
        self.shown = [[data.image(row) for row in range(min(SHOWN, len(data.names)))] for data in (photos, cartoons)]

    def step(self, phase: str, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One step of both generators, then one of both discriminators."""
        config, photo, toon = self.config, batch["photos"], batch["cartoons"]
        lr = config.lr * fade_out(config.kimg, self.images, config.decay_kimg)
        self.set_learning_rate("G", lr)
        self.set_learning_rate("D", lr)
        with frozen(self.D_toon), frozen(self.D_photo):
            losses, fake_toon, fake_photo = self.generator_losses(photo, toon)
            weights = {"cycle": config.cycle, "identity": config.cycle * config.identity}
            self.minimise("G", add_up(weights.get(name, 1.0) * loss for name, loss in losses.items()))
        d_toon = self.discriminator_loss(self.D_toon, toon, self.pools["toon"].exchange(fake_toon))
        d_photo = self.discriminator_loss(self.D_photo, photo, self.pools["photo"].exchange(fake_photo))
        self.minimise("D", d_toon + d_photo)
        return losses | {"D_toon": d_toon, "D_photo": d_photo}

    def generator_losses(self, photo: Tensor, toon: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses of both generators, and the cartoons and photos they made."""
        kind = self.config.loss
        with self.autocast():
            fake_toon, fake_photo = self.to_toon(photo), self.to_photo(toon)
            back_photo, back_toon = self.to_photo(fake_toon), self.to_toon(fake_photo)
            scores = self.D_toon(fake_toon).float(), self.D_photo(fake_photo).float()
            losses = {
                "G_toon": adversarial(kind, scores[0], real=True),
                "G_photo": adversarial(kind, scores[1], real=True),
                "cycle": F.l1_loss(back_photo.float(), photo) + F.l1_loss(back_toon.float(), toon),
            }
            if self.config.identity:
                same = F.l1_loss(self.to_toon(toon).float(), toon) + F.l1_loss(self.to_photo(photo).float(), photo)
                losses["identity"] = same
        return losses, fake_toon.float(), fake_photo.float()

    def discriminator_loss(self, D: Discriminator, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of one discriminator, halved as in the paper to slow it down."""
        kind = self.config.loss
        with self.autocast():
            scores = D(real).float(), D(fake).float()
        return (adversarial(kind, scores[0], True) + adversarial(kind, scores[1], False)) / 2

    def samples(self) -> Image.Image:
        """A sheet of the same pictures every time."""
        return sheet(self.to_toon, self.to_photo, *self.shown)

    def tensors(self) -> dict[str, Tensor]:
        """Both pools of older pictures."""
        pools = {f"{name}.{k}": getattr(pool, k) for name, pool in self.pools.items() for k in ("pictures", "count")}
        return super().tensors() | pools


@torch.no_grad()
def translate(network: Generator, image: Image.Image) -> Image.Image:
    """Translate a picture; its sides are multiples of 4. A batch of one, so the result is the same in every caller."""
    device = next(network.parameters()).device
    return to_pil(network(to_tensor(image).to(device)))


def sheet(
    to_toon: Generator, to_photo: Generator, photos: Sequence[Image.Image], cartoons: Sequence[Image.Image]
) -> Image.Image:
    """A row each: photos, made into cartoons, and back again; cartoons, made into photos, and back again."""
    rows: list[list[Image.Image]] = []
    for images, there, back in ((photos, to_toon, to_photo), (cartoons, to_photo, to_toon)):
        made = [translate(there, image) for image in images]
        rows += [list(images), made, [translate(back, image) for image in made]]
    columns = max(len(row) for row in rows)
    blank = Image.new("RGB", photos[0].size, "white")
    cells = [image for row in rows for image in row + [blank] * (columns - len(row))]
    labels = ["photo", "cartoon", "and back", "cartoon", "photo", "and back"]
    return image_grid(cells, columns, row_labels=labels)


@training_command(
    """python -m projects.cyclegan.train --photos data/photos-train.zip --cartoons data/cartoons-train.zip
python -m projects.cyclegan.train --photos photos/ --cartoons cartoons/ --blocks 9 --dtype float16 --decay-kimg 60
python -m projects.cyclegan.train --photos photos/ --cartoons cartoons/ --resume auto""",
    CycleganTask,
    Sources,
    Path(__file__).with_name("config.toml"),
    [["G_toon", "G_photo"], ["D_toon", "D_photo"], ["cycle", "identity"]],
)
def main(start: Start) -> Path:
    """Train a CycleGAN: photos into cartoons and back.

    Writes snapshots and sheets of the same few pictures to --out every --snapshot-kimg thousand pictures, at the end
    network.safetensors (toon, photo) and curves.png.
    """
    config, sources = start.config, start.sources
    photos, cartoons = (
        ImageDataset(path, config.resolution, resize=True, xflip=config.mirror)
        for path in (sources.photos, sources.cartoons)
    )
    task = CycleganTask(config, start.networks(lambda: new_networks(config)), photos, cartoons)
    return start.train(task, data=f"{Path(sources.photos).name}, {Path(sources.cartoons).name}")


if __name__ == "__main__":
    main()

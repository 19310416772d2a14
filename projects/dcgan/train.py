"""Train a DCGAN on a set of pictures."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from projects._common import ProjectConfig, ProjectTask, Start, training_command
from stylegan_toon.config import Config, option
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil
from stylegan_toon.pipelines.generate import latents
from stylegan_toon.training.augment import build_augment
from stylegan_toon.training.config import MOST
from stylegan_toon.training.optimise import frozen, update_average

from .model import RESOLUTIONS, Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, sample

SHOWN = range(32)  # seeds of the pictures shown while training


@dataclass(frozen=True)
class Sources(Config):
    """What to train on."""

    data: str = option(help="Folder, zip or tar shards (also http) of pictures.")


@dataclass(frozen=True)
class TrainingConfig(ProjectConfig):
    """How to train; the defaults are the paper's. ``config.toml`` replaces some of them for a CPU."""

    batch: int = option(128, "Pictures per step; batch norm needs 2.", low=2, high=1 << 16)
    resolution: int = option(64, "Side of the pictures: 64, 128 or 256.", choices=RESOLUTIONS)
    z_dim: int = option(100, "Size of a latent.", low=1, high=4096)
    g_channels: int = option(64, "Generator: channels at the highest resolution.", low=1, high=4096)
    d_channels: int = option(64, "Discriminator: channels after the first layer.", low=1, high=4096)
    lr: float = option(2e-4, "Adam's learning rate for both networks.", above=0)
    beta1: float = option(0.5, "Adam's first beta.", low=0, high=0.9999)
    ema_kimg: float = option(
        0.0, "Half-life of the averaged generator that is published; 0: no averaging.", low=0, high=MOST
    )
    mirror: bool = option(False, "Double the set by mirror images.")
    augment: str = option("off", "diff is DiffAugment, for a set of few thousands.", choices=("off", "diff"))


def new_networks(config: TrainingConfig) -> dict[str, nn.Module]:
    """New networks ``G``, ``G_ema`` and ``D``."""
    G = Generator(GeneratorConfig(config.resolution, config.z_dim, config.g_channels))
    D = Discriminator(DiscriminatorConfig(config.resolution, config.d_channels))
    return {"G": G, "G_ema": copy.deepcopy(G).requires_grad_(False), "D": D}


class DcganTask(ProjectTask):
    """A generator and a discriminator with the non-saturating cross-entropy loss (section 3 of the paper).

    Args:
        config: how to train.
        networks: ``G``, ``G_ema`` and ``D``, on the device to train on.
        pictures: the training set.
    """

    config_class = TrainingConfig
    published = ("G_ema", "D")
    config: TrainingConfig

    def __init__(self, config: TrainingConfig, networks: Mapping[str, nn.Module], pictures: ImageDataset) -> None:
        adams = {
            name: torch.optim.Adam(networks[name].parameters(), config.lr, betas=(config.beta1, 0.999))
            for name in ("G", "D")
        }
        super().__init__(config, networks, adams, {"pictures": pictures})
        self.G, self.G_ema = self.network("G", Generator), self.network("G_ema", Generator)
        self.D = self.network("D", Discriminator)
        self.augment = build_augment(config.augment, None, float(config.augment == "diff"))

    def step(self, phase: str, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One step of D, then one of G."""
        z = torch.randn(self.config.batch, self.config.z_dim, device=self.device)
        with self.autocast():
            fake = self.G(z).float()

        real_logits, fake_logits = self.logits(batch["pictures"]), self.logits(fake.detach())
        d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()  # cross-entropy of logits
        self.minimise("D", d_loss)

        with frozen(self.D):
            g_loss = F.softplus(-self.logits(fake)).mean()
            self.minimise("G", g_loss)
        update_average(self.G_ema, self.G, average_beta(self.config, self.images), average_buffers=True)
        accuracy = (real_logits > 0).float().mean() / 2 + (fake_logits < 0).float().mean() / 2
        return {"G": g_loss, "D": d_loss, "D_accuracy": accuracy}

    def logits(self, image: Tensor) -> Tensor:
        """D's logits ``[N]`` of augmented pictures."""
        with self.autocast():
            return self.D(self.augment(image)).float()

    def samples(self) -> Image.Image:
        """Pictures of the averaged generator for the same latents every time."""
        z = latents(SHOWN, self.config.z_dim)
        return image_grid([to_pil(image) for image in sample(self.G_ema, z)], columns=8)


def average_beta(config: TrainingConfig, images: int) -> float:
    """Decay of G_ema in a step; the half-life is a 20th of the pictures seen, up to ``ema_kimg``."""
    half_life = min(config.ema_kimg * 1000, 0.05 * images)
    return 0.5 ** (config.batch / half_life) if half_life else 0.0


@training_command(
    """python -m projects.dcgan.train --data faces64.zip --out runs/dcgan
python -m projects.dcgan.train --data faces.zip --resolution 128 --dtype float16 --out runs/dcgan128
python -m projects.dcgan.train --data faces64.zip --out runs/dcgan --resume auto""",
    DcganTask,
    Sources,
    Path(__file__).with_name("config.toml"),
    [["G", "D"], ["D_accuracy"]],
)
def main(start: Start) -> Path:
    """Train a DCGAN on a set of pictures.

    Writes snapshots and pictures of the same 32 latents to --out every --snapshot-kimg thousand pictures, at the end
    network.safetensors (G_ema, D) and curves.png.
    """
    config, data = start.config, start.sources.data
    pictures = ImageDataset(data, config.resolution, resize=True, xflip=config.mirror)
    task = DcganTask(config, start.networks(lambda: new_networks(config)), pictures)
    return start.train(task, data=Path(data).name)


if __name__ == "__main__":
    main()

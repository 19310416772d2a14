"""Train a DCGAN on a set of pictures, as one page."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from projects import _common as kit
from stylegan_toon.config import Config, option
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil
from stylegan_toon.pipelines.generate import latents
from stylegan_toon.training.augment import build_augment
from stylegan_toon.training.config import MOST
from stylegan_toon.training.log import Sink
from stylegan_toon.training.run import Run, RunConfig, Saved
from stylegan_toon.training.update import follow, untrained

from .model import RESOLUTIONS, Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, sample

SHOWN = range(32)  # seeds of the pictures shown while training


@dataclass(frozen=True)
class Sources(Config):
    """What to train on."""

    data: str = option(help="Folder, zip or tar shards (also http) of pictures.")


@dataclass(frozen=True)
class TrainingConfig(RunConfig):
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


def build(config: TrainingConfig) -> dict[str, torch.nn.Module]:
    """New networks ``G``, ``G_ema`` and ``D``."""
    G = Generator(GeneratorConfig(config.resolution, config.z_dim, config.g_channels))
    D = Discriminator(DiscriminatorConfig(config.resolution, config.d_channels))
    return {"G": G, "G_ema": copy.deepcopy(G).requires_grad_(False), "D": D}


def train(
    pictures: ImageDataset,
    folder: Path,
    config: TrainingConfig,
    *,
    device: torch.device | str = "cpu",
    saved: Saved | None = None,
    sinks: Sequence[Sink] = (),
    provenance: dict[str, Any] | None = None,
    quiet: bool = True,
) -> Path:
    """Train on ``pictures``; returns the file with ``G_ema`` and ``D``. The other arguments are those of `Run`."""
    networks = {name: network.to(device) for name, network in (saved.networks if saved else build(config)).items()}
    G, G_ema, D = networks["G"], networks["G_ema"], networks["D"]
    optimizers = {
        name: torch.optim.Adam(networks[name].parameters(), config.lr, betas=(config.beta1, 0.999))
        for name in ("G", "D")
    }
    run = Run(
        folder, config, networks, optimizers, resume=saved, sinks=sinks, provenance=provenance, quiet=quiet
    )  # fmt: skip
    augment = build_augment(config.augment, None, float(config.augment == "diff"))

    def score(image: Tensor) -> Tensor:
        with run.autocast():
            return D(augment(image)).float()

    def step(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        z = torch.randn(config.batch, config.z_dim, device=run.device)
        with run.autocast():
            fake = G(z).float()

        real_logits, fake_logits = score(batch["pictures"]), score(fake.detach())
        d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()  # cross-entropy of logits
        run.minimise("D", d_loss)

        with untrained(D):
            g_loss = F.softplus(-score(fake)).mean()
            run.minimise("G", g_loss)
        follow(G_ema, G, memory(config, run.counters.images), with_buffers=True)
        right = (real_logits > 0).float().mean() / 2 + (fake_logits < 0).float().mean() / 2
        return {"G": g_loss, "D": d_loss, "D_accuracy": right}

    def paint() -> Any:
        return image_grid([to_pil(image) for image in sample(G_ema, latents(SHOWN, config.z_dim))], columns=8)

    return run.train({"pictures": pictures}, step, paint, publish=("G_ema", "D"))


def memory(config: TrainingConfig, images: int) -> float:
    """Share of itself that G_ema keeps in a step: its half-life grows to ``ema_kimg``, a 20th of what was seen."""
    half_life = min(config.ema_kimg * 1000, 0.05 * images)
    return 0.5 ** (config.batch / half_life) if half_life else 0.0


@kit.trainer(
    """python -m projects.dcgan.train --data faces64.zip --out runs/dcgan
python -m projects.dcgan.train --data faces.zip --resolution 128 --dtype float16 --out runs/dcgan128
python -m projects.dcgan.train --data faces64.zip --out runs/dcgan --resume auto""",
    TrainingConfig,
    Sources,
    Path(__file__).with_name("config.toml"),
    [["G", "D"], ["D_accuracy"]],
)
def main(start: kit.Start) -> Path:
    """Train a DCGAN on a set of pictures.

    Writes snapshots and pictures of the same 32 latents to --out every --snapshot-kimg thousand pictures, at the end
    network.safetensors (G_ema, D) and curves.png.
    """
    config, data = start.config, start.sources.data
    pictures = ImageDataset(data, config.resolution, resize=True, xflip=config.mirror)
    return train(
        pictures, start.folder, config, device=start.device, saved=start.saved, sinks=start.sinks,
        provenance=start.provenance | {"data": Path(data).name}, quiet=start.quiet,
    )  # fmt: skip


if __name__ == "__main__":
    main()

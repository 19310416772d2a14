"""The published configurations of StyleGAN2-ADA as plain data (its table of training configurations)."""

from __future__ import annotations

from dataclasses import dataclass

from .discriminator import DiscriminatorConfig
from .stylegan2 import GeneratorConfig


@dataclass(frozen=True)
class Preset:
    """One row of the published table: sizes of the networks and how to train them.

    Attributes:
        gpus: how many the values are meant for.
        batch: pictures per step over all processes.
        mbstd: group size of the minibatch standard deviation.
        fmaps: channel multiplier; ``channel_base = 32768 * fmaps``.
        lr: Adam's rate for both networks.
        gamma: R1 weight.
        ema_kimg: half-life of the generator's moving average, in thousands of pictures.
        ema_rampup: shorten the half-life to this share of the pictures seen so far. None = off.
        mapping_layers: depth of the mapping network.
        pl_weight: path length regularisation. 0 = off.
        style_mixing: probability of mixing two latents.
        d_architecture: "resnet" or "orig".
    """

    gpus: int
    batch: int
    mbstd: int
    fmaps: float
    lr: float
    gamma: float
    ema_kimg: float
    mapping_layers: int = 8
    ema_rampup: float | None = None
    pl_weight: float = 2.0
    style_mixing: float = 0.9
    d_architecture: str = "resnet"

    def generator(self, resolution: int, *, c_dim: int = 0, img_channels: int = 3) -> GeneratorConfig:
        """Its generator at ``resolution``, mixed precision in the four highest blocks."""
        return GeneratorConfig(
            resolution=resolution,
            img_channels=img_channels,
            c_dim=c_dim,
            mapping_layers=self.mapping_layers,
            channel_base=int(32768 * self.fmaps),
            num_fp16_res=4,
            conv_clamp=256,
        )

    def discriminator(self, resolution: int, *, c_dim: int = 0, img_channels: int = 3) -> DiscriminatorConfig:
        """Its discriminator at ``resolution``."""
        return DiscriminatorConfig(
            resolution=resolution,
            img_channels=img_channels,
            c_dim=c_dim,
            channel_base=int(32768 * self.fmaps),
            architecture=self.d_architecture,
            num_fp16_res=4,
            conv_clamp=256,
            mbstd_group_size=self.mbstd,
        )


PRESETS: dict[str, Preset] = {
    "stylegan2": Preset(8, 32, 4, 1, 0.002, 10, 10),
    "paper256": Preset(8, 64, 8, 0.5, 0.0025, 1, 20),
    "paper512": Preset(8, 64, 8, 1, 0.0025, 0.5, 20),
    "paper1024": Preset(8, 32, 4, 1, 0.002, 2, 10),
    "cifar": Preset(
        2, 64, 32, 1, 0.0025, 0.01, 500, mapping_layers=2, ema_rampup=0.05, pl_weight=0, style_mixing=0,
        d_architecture="orig",
    ),
}  # fmt: skip


def preset(name: str, resolution: int, gpus: int = 1) -> Preset:
    """A preset by name; ``auto`` is worked out from the resolution and the number of GPUs.

    Raises:
        ValueError: for an unknown name.
    """
    if name != "auto":
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: choose from auto, {', '.join(PRESETS)}")
        return PRESETS[name]
    batch = max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    return Preset(
        gpus=gpus,
        batch=batch,
        mbstd=min(batch // gpus, 4),
        fmaps=1 if resolution >= 512 else 0.5,
        lr=0.002 if resolution >= 1024 else 0.0025,
        gamma=0.0002 * resolution**2 / batch,
        ema_kimg=batch * 10 / 32,
        mapping_layers=2,
        ema_rampup=0.05,
    )

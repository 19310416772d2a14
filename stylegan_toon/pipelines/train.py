"""What a StyleGAN2-ADA training begins with: networks that are new, or taken from another training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..data.datasets import ImageDataset
from ..errors import ToonError
from ..models import Discriminator, Generator, preset
from ..training.config import TrainConfig
from ..training.loop import Trainer


def build(
    resolution: int,
    cfg: str,
    *,
    c_dim: int = 0,
    channel_base: int | None = None,
    channel_max: int | None = None,
    mapping_layers: int | None = None,
    mapping_features: int | None = None,
) -> tuple[Generator, Discriminator]:
    """New networks of preset ``cfg`` at ``resolution``; the other arguments override the preset."""
    row = preset(cfg, resolution)
    g, d = row.generator(resolution, c_dim=c_dim), row.discriminator(resolution, c_dim=c_dim)
    sizes = {"channel_base": channel_base, "channel_max": channel_max}
    sizes = {name: value for name, value in sizes.items() if value}
    mapping = {"mapping_layers": mapping_layers, "mapping_features": mapping_features}
    mapping = {name: value for name, value in mapping.items() if value}
    return Generator(replace(g, **sizes, **mapping)), Discriminator(replace(d, **sizes))


def train(G: Generator, D: Discriminator, pictures: ImageDataset, folder: Path, config: TrainConfig, **more) -> Path:
    """Train ``G`` and ``D`` on ``pictures``; the arguments, also ``more``, are those of `Trainer`.

    Returns:
        path of ``network.safetensors`` (``G_ema`` and ``D``) in ``folder``.
    """
    return Trainer(G, D, pictures, folder, config, **more).run()


def networks(
    family: dict[str, torch.nn.Module], source: str, pictures: ImageDataset, cfg: str, **sizes: int | None
) -> dict[str, torch.nn.Module]:
    """``G`` and ``D`` to train and, where there is one already, ``G_ema``: what ``family`` has, the rest new.

    Raises:
        ToonError: the family, which came from ``source``, does not fit the pictures.
    """
    if not family:
        G, D = build(pictures.resolution, cfg, c_dim=pictures.label_dim, **sizes)
        return {"G": G, "D": D}
    if "G_ema" not in family:
        raise ToonError(f"{source} holds no generator: give a network that has one.")
    known = family["G_ema"].config
    if pictures.resolution not in known.head_resolutions or known.c_dim != pictures.label_dim:
        sizes_made = ", ".join(map(str, known.head_resolutions))
        raise ToonError(
            f"{source} makes {sizes_made} px pictures with labels of size {known.c_dim}, "
            f"the set has {pictures.resolution} px and {pictures.label_dim}: change --resolution or --cond."
        )
    trained = dict(family)
    if "G" not in trained:
        trained["G"] = trained.pop("G_ema")
    if "D" not in trained:
        channels = {name: sizes[name] or getattr(known, name, None) for name in ("channel_base", "channel_max")}
        trained["D"] = build(pictures.resolution, cfg, c_dim=known.c_dim, **channels)[1]
    return trained


def check_precision(config: TrainConfig, device: torch.device, trained: dict[str, torch.nn.Module]) -> None:
    """Raise ToonError for a precision that would not work."""
    if config.dtype == "float16" and device.type != "cuda":
        raise ToonError("--dtype float16 trains on CUDA only: use bfloat16.")
    if config.dtype == "float16" and any(network.config.conv_clamp is None for network in trained.values()):
        raise ToonError("--dtype float16 needs networks with conv_clamp, and these have none: use bfloat16.")

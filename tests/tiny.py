"""Networks small enough to run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_toon.features.identity import FaceEmbedder
from stylegan_toon.models import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    MobileConfig,
    MobileGenerator,
)

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)
TINY: dict[str, Any] = dict(resolution=32, channel_base=512, channel_max=32)


def tiny_generator(seed: int = 0, **changes) -> Generator:
    """A generator whose every tensor, noise strengths and biases included, is random and depends on ``seed``."""
    config = GeneratorConfig(**{**TINY, "z_dim": 32, "w_dim": 32, "mapping_layers": 2, **changes})
    return _randomised(Generator, config, seed)


def tiny_mobile(seed: int = 0, **changes) -> MobileGenerator:
    """A mobile generator of 64 px, heads at 32 and 64, whose every tensor depends on ``seed``, scales included."""
    common: dict[str, Any] = dict(resolution=64, channels=(16, 16, 8, 8), z_dim=24, w_dim=20, mapping_layers=2)
    return _randomised(MobileGenerator, MobileConfig(**{**common, **changes}), seed)


def tiny_discriminator(seed: int = 0, **changes) -> Discriminator:
    """A discriminator of 32 px whose every tensor depends on ``seed``."""
    return _randomised(Discriminator, DiscriminatorConfig(**{**TINY, **changes}), seed)


class TinyFaces(FaceEmbedder):
    """Replaces a face recogniser by a random projection of 8x8 pixels, which knows nothing about faces."""

    name = "tiny"
    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(192, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, img: Tensor) -> Tensor:
        small = F.interpolate(img.expand(-1, 3, -1, -1), size=(8, 8), mode="area")
        return F.normalize(small.flatten(1) @ self.matrix, dim=1)


def _randomised(cls: Callable[[Config], Network], config: Config, seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = cls(config).eval()
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.add_(torch.randn(tensor.shape), alpha=0.1)
    return network

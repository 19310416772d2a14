"""DCGAN (Radford, Metz, Chintala 2015, arXiv 1511.06434) for 64, 128 and 256 px."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from stylegan_toon.config import Config, option

RESOLUTIONS = (32, 64, 128, 256)  # 32 for tests


@dataclass(frozen=True)
class GeneratorConfig(Config):
    """``channels`` at the highest resolution; twice as many at each half, up to 8 times. The paper has 64."""

    resolution: int = option(64, choices=RESOLUTIONS)
    z_dim: int = option(100, low=1, high=4096)
    channels: int = option(64, low=1, high=4096)


@dataclass(frozen=True)
class DiscriminatorConfig(Config):
    """``channels`` after the first layer; see `GeneratorConfig`."""

    resolution: int = option(64, choices=RESOLUTIONS)
    channels: int = option(64, low=1, high=4096)


def widths(resolution: int, channels: int) -> list[int]:
    """Channels at 4 px, 8 px, ... resolution / 2."""
    halvings = resolution.bit_length() - 3
    return [channels * min(2**power, 8) for power in reversed(range(halvings))]


class Generator(nn.Module):
    """z ``[N, z_dim]`` -> pictures ``[N, 3, R, R]`` in (-1, 1): transposed convolutions, each doubling the side."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        sizes = widths(config.resolution, config.channels)
        layers: list[nn.Module] = [nn.ConvTranspose2d(config.z_dim, sizes[0], 4, bias=False), *_norm_relu(sizes[0])]
        for before, now in pairwise(sizes):
            layers += [nn.ConvTranspose2d(before, now, 4, stride=2, padding=1, bias=False), *_norm_relu(now)]
        layers += [nn.ConvTranspose2d(sizes[-1], 3, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z[:, :, None, None])


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


class Discriminator(nn.Module):
    """Pictures ``[N, 3, R, R]`` -> logits ``[N]``, above 0 for "real": strided convolutions, each halving the side."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        sizes = widths(config.resolution, config.channels)[::-1]
        # No batch norm on the first layer (section 3 of the paper).
        layers: list[nn.Module] = [nn.Conv2d(3, sizes[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for before, now in pairwise(sizes):
            layers += [nn.Conv2d(before, now, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(now)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 4))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image).flatten()


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Weights from N(0, 0.02), scales of batch norms from N(1, 0.02), biases 0 (section 4); laid out for speed."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.normal_(0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.normal_(1, 0.02)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            bias.zero_()
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def sample(G: Generator, z: Tensor, batch: int = 16) -> Tensor:
    """Pictures ``[N, 3, R, R]`` on the CPU of latents ``[N, z_dim]``; the same for the same G, z and ``batch``."""
    device = next(G.parameters()).device
    return torch.cat([G(part.to(device)).float().cpu() for part in z.split(batch)])

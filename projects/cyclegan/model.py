"""CycleGAN (Zhu et al. 2017, arXiv 1703.10593): ResNet generators, PatchGAN discriminators, a pool of pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stylegan_toon.nn.padded import ReflectConv3x3
from stylegan_toon.weights import KINDS


@dataclass(frozen=True)
class GeneratorConfig:
    """``channels`` after the first layer (the paper has 64); ``blocks`` residual ones: 4, 6 or 9."""

    channels: int = 64
    blocks: int = 9

    def __post_init__(self) -> None:
        if self.blocks not in (4, 6, 9) or not 0 < self.channels <= 1024:
            raise ValueError(f"{self.blocks} blocks of {self.channels} channels, not 4, 6 or 9 of 1 to 1024")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """``channels`` after the first layer (the paper has 64)."""

    channels: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.channels <= 1024:
            raise ValueError(f"{self.channels} channels, not 1 to 1024")


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity; no activation after the sum (Johnson et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ReflectConv3x3(channels, channels), nn.InstanceNorm2d(channels), nn.ReLU(True),
            ReflectConv3x3(channels, channels), nn.InstanceNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Generator(nn.Module):
    """Pictures ``[N, 3, H, W]`` in [-1, 1] -> pictures of the other kind; H and W multiples of 4, from 16 on.

    In the paper's words c7s1-k, d2k, d4k, R4k ..., u2k, uk, c7s1-3.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        k = config.channels
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, k, 7), *_after(k)]
        for size in (k, 2 * k):
            layers += [nn.Conv2d(size, 2 * size, 3, stride=2, padding=1), *_after(2 * size)]
        layers += [Residual(4 * k) for _ in range(config.blocks)]
        for size in (4 * k, 2 * k):
            up = nn.ConvTranspose2d(size, size // 2, 3, stride=2, padding=1, output_padding=1)
            layers += [up, *_after(size // 2)]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(k, 3, 7), nn.Tanh())
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def _after(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(channels), nn.ReLU(True)


class Discriminator(nn.Module):
    """Pictures ``[N, 3, H, W]`` -> scores ``[N, 1, H / 8 - 2, W / 8 - 2]``, each of a patch of 70 x 70 pixels."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        k = config.channels
        layers: list[nn.Module] = [nn.Conv2d(3, k, 4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
        for before, now, stride in ((k, 2 * k, 2), (2 * k, 4 * k, 2), (4 * k, 8 * k, 1)):
            layers += [nn.Conv2d(before, now, 4, stride=stride, padding=1), nn.InstanceNorm2d(now)]
            layers += [nn.LeakyReLU(0.2, True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * k, 1, 4, padding=1))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Weights from N(0, 0.02), biases 0; laid out for speed."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.normal_(0, 0.02)
            module.bias.zero_()
    network.to(memory_format=torch.channels_last)


class Pool:
    """The last pictures made, half of which take the place of new ones before D (Shrivastava et al. 2017).

    Args:
        size: pictures kept; 0 passes everything through.
        shape: of a picture, ``[C, H, W]``.

    Attributes:
        pictures, count: the whole state, changed in place; ``count`` stays on the CPU.
    """

    def __init__(self, size: int, shape: tuple[int, int, int], device: torch.device | str = "cpu") -> None:
        self.size = size
        self.pictures = torch.zeros(size, *shape, device=device)
        self.count = torch.zeros([], dtype=torch.int64)

    def exchange(self, images: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> as many, each new or, with probability 1/2 once the pool is full, an older one."""
        if not self.size:
            return images
        shown = images.detach().clone()
        for row, swap, place in zip(range(len(images)), *torch.rand(2, len(images)).tolist()):
            if self.count < self.size:
                self.pictures[self.count] = shown[row]
                self.count += 1
            elif swap < 0.5:
                place = int(place * self.size)
                older = self.pictures[place].clone()
                self.pictures[place] = shown[row]
                shown[row] = older
        return shown


KINDS["cyclegan-generator"] = (GeneratorConfig, Generator)
KINDS["cyclegan-discriminator"] = (DiscriminatorConfig, Discriminator)

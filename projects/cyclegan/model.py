"""CycleGAN (Zhu et al. 2017, arXiv 1703.10593): ResNet generators, PatchGAN discriminators, a pool of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from stylegan_toon.config import Config, option
from stylegan_toon.models.padded import ReflectConv3x3

NORMS = {"instance": nn.InstanceNorm2d, "layer": partial(nn.GroupNorm, 1)}
BLOCKS, UPSAMPLERS = (4, 6, 9), ("transposed", "nearest")


@dataclass(frozen=True)
class GeneratorConfig(Config):
    """``channels`` after the first layer (the paper has 64); ``blocks`` residual ones: 4, 6 or 9.

    ``norm`` is "instance", as in the paper, or "layer" (Ba et al. 2016), which keeps the mean brightness and colour of
    a picture; ``upsample`` is "transposed", as in the paper, or "nearest" before a convolution, which gives no
    checkerboard pattern (Odena et al. 2016).
    """

    channels: int = option(64, low=1, high=1024)
    blocks: int = option(9, choices=BLOCKS)
    norm: str = option("instance", choices=NORMS)
    upsample: str = option("transposed", choices=UPSAMPLERS)


@dataclass(frozen=True)
class DiscriminatorConfig(Config):
    """``channels`` after the first layer (the paper has 64); ``layers`` with norms: 3 see patches of 70 x 70 pixels.

    With 1, 2, 3 and 4 layers a score is of a patch of 16, 34, 70 and 142 pixels. ``norm`` as for the generator.
    """

    channels: int = option(64, low=1, high=1024)
    layers: int = option(3, low=1, high=4)
    norm: str = option("instance", choices=NORMS)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity; no activation after the sum (Johnson et al. 2016)."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ReflectConv3x3(channels, channels), NORMS[norm](channels), nn.ReLU(True),
            ReflectConv3x3(channels, channels), NORMS[norm](channels),
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
        k, norm = config.channels, config.norm
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, k, 7), *_norm_relu(k, norm)]
        for size in (k, 2 * k):
            layers += [nn.Conv2d(size, 2 * size, 3, stride=2, padding=1), *_norm_relu(2 * size, norm)]
        layers += [Residual(4 * k, norm) for _ in range(config.blocks)]
        for size in (4 * k, 2 * k):
            layers += [*_up(size, size // 2, config.upsample), *_norm_relu(size // 2, norm)]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(k, 3, 7), nn.Tanh())
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def _norm_relu(channels: int, norm: str) -> tuple[nn.Module, nn.Module]:
    return NORMS[norm](channels), nn.ReLU(True)


def _up(inputs: int, outputs: int, kind: str) -> tuple[nn.Module, ...]:
    if kind == "transposed":
        return (nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1),)
    return nn.Upsample(scale_factor=2), ReflectConv3x3(inputs, outputs)


class Discriminator(nn.Module):
    """Pictures ``[N, 3, H, W]`` -> scores of patches, ``[N, 1, H / s - 2, W / s - 2]`` with s = 2 ** layers."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        k = config.channels
        layers: list[nn.Module] = [nn.Conv2d(3, k, 4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
        now = k
        for number in range(1, config.layers + 1):
            before, now = now, min(2 * now, 8 * k)
            stride = 1 if number == config.layers else 2
            layers += [nn.Conv2d(before, now, 4, stride=stride, padding=1), NORMS[config.norm](now)]
            layers += [nn.LeakyReLU(0.2, True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(now, 1, 4, padding=1))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Weights from N(0, 0.02), biases 0; laid out for speed."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.normal_(0, 0.02)
            if module.bias is not None:
                module.bias.zero_()
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class Pool:
    """A pool of generated pictures: D is shown an older one half of the time (Shrivastava et al. 2017).

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

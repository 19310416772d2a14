"""AnimeGANv2's networks: a light generator of 2,143,552 parameters and a small patch discriminator.

Chen, Liu and Chen, "AnimeGAN: A Novel Lightweight GAN for Photo Animation" (ISICA 2019), and the second version its
authors published in 2020, from whose description the layers are: LayerNorm in place of instance normalisation, four
inverted residual blocks in place of eight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stylegan_toon.config import Config, ConfigError, option
from stylegan_toon.models.padded import ReflectConv3x3

SLOPE = 0.2
CONTRAST = 0.5  # of a new generator's pictures: about the standard deviation of photos


@dataclass(frozen=True)
class AnimeGeneratorConfig(Config):
    """Sizes of the generator.

    Attributes:
        channels: of the first layer; the others are 2, 4 and 8 times as wide. 32 is published.
        blocks: inverted residual blocks; 4 is published.
    """

    channels: int = option(32, low=8, high=256)
    blocks: int = option(4, low=1, high=32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % 2:
            raise ConfigError(f"--channels is {self.channels}: give an even number.")


@dataclass(frozen=True)
class AnimeDiscriminatorConfig(Config):
    """Sizes of the discriminator; ``channels`` of the first layer, 32 as published."""

    channels: int = option(32, low=4, high=256)


class LayerNorm(nn.Module):
    """Zero mean and unit variance over ``[C, H, W]`` of each picture, then a scale and an offset per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, self.weight, self.bias)


class Layer(nn.Module):
    """Reflection padding, convolution, LayerNorm and, unless ``linear``, leaky ReLU.

    A layer of stride 2 is padded on the right and below only, as TensorFlow's VALID convolution was by its authors.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.padding = (0, 1, 0, 1) if stride == 2 else (size // 2,) * 4
        if (size, stride, groups) == (3, 1, 1):
            self.conv: nn.Conv2d = ReflectConv3x3(inputs, outputs, bias=False)
            self.padding = (0, 0, 0, 0)
        else:  # a depthwise convolution has a bias in the published weights, though the norm after it needs none
            self.conv = nn.Conv2d(inputs, outputs, size, stride, groups=groups, bias=groups > 1)
        self.norm = LayerNorm(outputs)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(F.pad(x, self.padding, mode="reflect") if any(self.padding) else x))
        return x if self.linear else F.leaky_relu(x, SLOPE, inplace=True)


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise and pointwise convolution (Sandler et al. 2018); shortcut if widths are equal."""

    def __init__(self, inputs: int, outputs: int, expansion: int = 2) -> None:
        super().__init__()
        wide = inputs * expansion
        self.widen = Layer(inputs, wide, 1)
        self.depthwise = Layer(wide, wide, groups=wide)
        self.narrow = Layer(wide, outputs, 1, linear=True)
        self.shortcut = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.depthwise(self.widen(x)))
        return x + y if self.shortcut else y


class AnimeGenerator(nn.Module):
    """Photo -> generated picture of the same size."""

    def __init__(self, config: AnimeGeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AnimeGeneratorConfig()
        c = config.channels
        self.down1 = nn.Sequential(Layer(3, c, 7), Layer(c, 2 * c, stride=2), Layer(2 * c, 2 * c))
        self.down2 = nn.Sequential(Layer(2 * c, 4 * c, stride=2), Layer(4 * c, 4 * c))
        self.body = nn.Sequential(
            Layer(4 * c, 4 * c),
            *(InvertedResidual(4 * c if i == 0 else 8 * c, 8 * c) for i in range(config.blocks)),
            Layer(8 * c, 4 * c),
        )
        self.up2 = nn.Sequential(Layer(4 * c, 4 * c), Layer(4 * c, 4 * c))
        self.up1 = nn.Sequential(Layer(4 * c, 2 * c), Layer(2 * c, 2 * c), Layer(2 * c, c, 7))
        self.to_rgb = nn.Conv2d(c, 3, 1, bias=False)
        initialise_as_identity(self)

    def forward(self, img: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [-1, 1], H and W multiples of 4 -> the same in (-1, 1)."""
        x = self.body(self.down2(self.down1(img)))
        x = self.up1(double(self.up2(double(x))))
        return torch.tanh(self.to_rgb(x))


@torch.no_grad()
def initialise_as_identity(G: AnimeGenerator) -> None:
    """Initialise the weights so that ``G`` gives a blurred copy of the photo.

    Half of the channels are the other half's negative, so that lrelu(u) - lrelu(-u) = 1.2 u makes every layer linear
    (Balduzzi et al. 2017, "The Shattered Gradients Problem", looks-linear initialisation). The first channels pass
    their inputs on, beginning with the colours; channels that a layer adds are random filters. With random weights the
    published first phase takes thousands of steps to reach this state.
    """
    for layer in G.modules():
        if not isinstance(layer, Layer):
            continue
        weight, groups = layer.conv.weight, layer.conv.groups
        outputs, inputs, size, _ = weight.shape
        # A stride of 2 averages four neighbours, so that the picture is not shifted.
        taps = slice(0, 2) if layer.conv.stride[0] == 2 else slice(size // 2, size // 2 + 1)
        if groups > 1:
            weight.normal_(0, 0.1 / size)[:, 0, taps, taps] += 1
            weight[outputs // 2 :] = weight[: outputs // 2]
            if layer.conv.bias is not None:
                layer.conv.bias.zero_()
            continue
        mirrored = inputs % 2 == 0
        rows, columns = outputs // 2, inputs // 2 if mirrored else inputs
        half = torch.randn(rows, columns, size, size) / (columns**0.5 * size)
        shared = min(rows, columns)
        half[:shared] *= 0.1
        place = half[range(shared), range(shared)]
        place[:, taps, taps] += 1 / len(range(size)[taps]) ** 2
        half[range(shared), range(shared)] = place
        half = torch.cat([half, -half], 1) / (1 + SLOPE) if mirrored else half
        weight.copy_(torch.cat([half, -half]))
    colours = torch.eye(3, G.config.channels // 2) * CONTRAST
    G.to_rgb.weight.copy_(torch.cat([colours, -colours], 1)[..., None, None] / (1 + SLOPE))


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


class AnimeDiscriminator(nn.Module):
    """Scores of overlapping patches: ``[N, 3, H, W]`` in [-1, 1] -> ``[N, 1, H / 4, W / 4]``, 1 = drawn by hand."""

    def __init__(self, config: AnimeDiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AnimeDiscriminatorConfig()
        c = config.channels
        # inputs, outputs, stride, normalised
        plan = [(3, c, 1, False), (c, 2 * c, 2, False), (2 * c, 4 * c, 1, True), (4 * c, 4 * c, 2, False)]
        plan += [(4 * c, 8 * c, 1, True), (8 * c, 8 * c, 1, True)]
        layers: list[nn.Module] = []
        for inputs, outputs, stride, normalised in plan:
            layers.append(spectral_norm(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)))
            layers += [LayerNorm(outputs)] if normalised else []
            layers.append(nn.LeakyReLU(SLOPE))
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(8 * c, 1, 3, 1, 1)))

    def forward(self, img: Tensor) -> Tensor:
        return self.layers(img)

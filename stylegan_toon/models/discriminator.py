"""The StyleGAN2 discriminator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ToonError
from ..ops import setup_filter, upfirdn2d
from .family import check_resolution, half_precision
from .layers import Conv2d, FullyConnected, compute_dtype, memory_format
from .stylegan2 import ARCHITECTURES, MappingNetwork


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Everything needed to build a :class:`Discriminator`; fields as in ``GeneratorConfig`` where they share a name.

    Attributes:
        mbstd_group_size: samples per group of the minibatch standard deviation. None = the whole batch.
        mbstd_channels: feature channels it adds. 0 = none.
        cmap_dim: size of the mapped label in the projection head. None = channels of the last block.
        mapping_layers: depth of the label's mapping network.

    Raises:
        ValueError: the resolution is not a power of two from 4 up, or the architecture is unknown.
    """

    resolution: int = 256
    img_channels: int = 3
    c_dim: int = 0
    channel_base: int = 32768
    channel_max: int = 512
    architecture: str = "resnet"
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    num_fp16_res: int = 0
    conv_clamp: float | None = None
    mbstd_group_size: int | None = 4
    mbstd_channels: int = 1
    cmap_dim: int | None = None
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    activation: str = "lrelu"

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {ARCHITECTURES}, not {self.architecture!r}")

    @property
    def block_resolutions(self) -> list[int]:
        """From the picture's resolution down to 8; the epilogue works at 4."""
        return [2**i for i in range(int(math.log2(self.resolution)), 2, -1)]

    def channels(self, resolution: int) -> int:
        """Feature channels at this resolution."""
        return min(self.channel_base // resolution, self.channel_max)


class DiscriminatorBlock(nn.Module):
    """``fromrgb`` (first block; each in "skip"), ``conv0``, ``conv1`` (halves the size), ``skip`` ("resnet" only)."""

    resample_filter: Tensor

    def __init__(self, config: DiscriminatorConfig, resolution: int) -> None:
        super().__init__()
        self.architecture = config.architecture
        self.use_half, self.half_on_request = half_precision(resolution, config.resolution, config.num_fp16_res)
        width, out = config.channels(resolution), config.channels(resolution // 2)
        conv = partial(Conv2d, activation=config.activation, conv_clamp=config.conv_clamp)
        self.has_fromrgb = resolution == config.resolution or config.architecture == "skip"
        if self.has_fromrgb:
            self.fromrgb = conv(config.img_channels, width, 1)
        self.conv0 = conv(width, width, 3)
        self.conv1 = conv(width, out, 3, down=2, resample_filter=config.resample_filter)
        if config.architecture == "resnet":
            self.skip = Conv2d(width, out, 1, bias=False, down=2, resample_filter=config.resample_filter)
        self.register_buffer("resample_filter", setup_filter(config.resample_filter), persistent=False)

    def layers(self) -> list[Conv2d]:
        """In the order in which Freeze-D counts them: fromrgb, conv0, conv1, skip."""
        names = ("fromrgb", "conv0", "conv1", "skip")
        return [getattr(self, name) for name in names if hasattr(self, name)]

    def forward(self, x: Tensor | None, img: Tensor | None, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
        given = img if x is None else x
        if given is None:
            raise ValueError("a block needs features or a picture")
        device = given.device
        compute = compute_dtype(self.use_half if dtype is None else self.half_on_request, device, dtype)
        layout = memory_format(device, compute)
        if x is not None:
            x = x.to(dtype=compute, memory_format=layout)
        if self.has_fromrgb:
            assert img is not None  # given to the first block; "skip" passes it on
            y = self.fromrgb(img.to(dtype=compute, memory_format=layout))
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            gain = math.sqrt(0.5)
            skip = self.skip(x, gain=gain)
            return skip + self.conv1(self.conv0(x), gain=gain), img
        return self.conv1(self.conv0(x)), img


def downsample2d(img: Tensor, f: Tensor) -> Tensor:
    """Halve the size of ``[N, C, H, W]`` with the low-pass filter ``f``."""
    fw, fh = f.shape[-1], f.shape[0]
    return upfirdn2d(img, f, down=2, padding=[(fw - 1) // 2, (fw - 2) // 2, (fh - 1) // 2, (fh - 2) // 2])


def minibatch_std(x: Tensor, group_size: int | None, channels: int) -> Tensor:
    """Append ``channels`` maps with the standard deviation across groups of samples (ProGAN, section 3).

    ``[N, C, H, W] -> [N, C + channels, H, W]``. The batch is cut into ``N // group`` interleaved groups.

    Raises:
        ValueError: when the group size does not divide the batch.
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if n % group:
        raise ValueError(f"the batch ({n}) must be a multiple of the minibatch-std group ({group})")
    y = x.float().reshape(group, n // group, channels, c // channels, h, w)
    y = (y - y.mean(dim=0)).square().mean(dim=0)
    y = (y + 1e-8).sqrt().mean(dim=(2, 3, 4))  # [groups, channels]
    y = y.to(x.dtype)[:, :, None, None].repeat(group, 1, h, w)
    return torch.cat([x, y], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """The 4x4 end: minibatch standard deviation, convolution, two fully connected layers, label projection."""

    def __init__(self, config: DiscriminatorConfig, cmap_dim: int) -> None:
        super().__init__()
        width = config.channels(4)
        self.group_size, self.std_channels = config.mbstd_group_size, config.mbstd_channels
        self.cmap_dim = cmap_dim
        if config.architecture == "skip":
            self.fromrgb = Conv2d(config.img_channels, width, 1, activation=config.activation)
        self.conv = Conv2d(
            width + config.mbstd_channels, width, 3, activation=config.activation, conv_clamp=config.conv_clamp
        )
        self.fc = FullyConnected(width * 16, width, activation=config.activation)
        self.out = FullyConnected(width, cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor | None, cmap: Tensor | None) -> Tensor:
        x = x.float().contiguous()
        if hasattr(self, "fromrgb"):
            assert img is not None  # "skip" passes the picture on from block to block
            x = x + self.fromrgb(img.float())
        if self.std_channels > 0:
            x = minibatch_std(x, self.group_size, self.std_channels)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is not None:
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


class Discriminator(nn.Module):
    """Picture (and label) -> score, positive for real. ``[N, C, R, R], [N, c_dim] -> [N, 1]``.

    Attributes:
        provenance: where the network comes from, if it was loaded; see `weights.provenance`.
    """

    provenance: dict[str, Any]

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        for res in config.block_resolutions:
            setattr(self, f"b{res}", DiscriminatorBlock(config, res))
        cmap_dim = 0
        if config.c_dim > 0:
            cmap_dim = config.channels(4) if config.cmap_dim is None else config.cmap_dim
            self.mapping = MappingNetwork(
                0,
                config.c_dim,
                cmap_dim,
                None,
                num_layers=config.mapping_layers,
                activation=config.activation,
                lr_multiplier=config.mapping_lr_multiplier,
            )
        self.b4 = DiscriminatorEpilogue(config, cmap_dim)

    def blocks(self) -> list[DiscriminatorBlock]:
        """The blocks from the picture's resolution down to 8; ``b4`` is the epilogue."""
        return [getattr(self, f"b{res}") for res in self.config.block_resolutions]

    def forward(self, img: Tensor, c: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Score pictures.

        Args:
            img: ``[N, img_channels, R, R]`` in [-1, 1].
            c: ``[N, c_dim]`` labels for conditional networks.
            dtype: None = as configured; torch.float32 = everywhere; torch.float16 or bfloat16 = in the four
                highest resolutions.

        Raises:
            ValueError: when the pictures do not have this network's size.
        """
        size = (self.config.img_channels, self.config.resolution, self.config.resolution)
        if tuple(img.shape[1:]) != size:
            raise ValueError(f"pictures must be [N, {size[0]}, {size[1]}, {size[2]}], not {list(img.shape)}")
        x, rest = None, img
        for block in self.blocks():
            x, rest = block(x, rest, dtype)
        cmap = None
        if self.config.c_dim > 0:
            if c is None:
                c = torch.zeros(img.shape[0], self.config.c_dim, device=img.device)
            cmap = self.mapping(None, c)
        return self.b4(x, rest, cmap)

    def features(self, img: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Activations after each block, ``[N, C_i, R / 2^i, R / 2^i]``, finest first, to compare pictures by."""
        activations, x, rest = [], None, img
        for block in self.blocks():
            x, rest = block(x, rest, dtype)
            activations.append(x)
        return activations

    def freeze_layers(self, count: int) -> None:
        """Freeze-D (Mo et al. 2020): stop training the first ``count`` layers, counted from the highest resolution.

        Raises:
            ToonError: there are not so many.
        """
        layers = [layer for block in self.blocks() for layer in block.layers()]
        if not 0 <= count <= len(layers):
            raise ToonError(f"{count} layers of the discriminator cannot be frozen: it has {len(layers)}.")
        for layer in layers[:count]:
            layer.requires_grad_(False)

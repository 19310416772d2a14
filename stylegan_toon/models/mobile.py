"""The mobile family of generators: MobileStyleGAN (Belousov 2021, arXiv 2104.04767).

A StyleGAN2 with separable convolutions and an inverse Haar transform for upsampling. The picture comes from the last
features alone and is not a sum over resolutions. Mapping network and w are those of StyleGAN2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.conv2d import modulated_1x1
from ..ops.haar import haar_rgb
from ..ops.separable import separable_layer, separable_up_layer
from .family import FamilyConfig, Synthesis, half_precision
from .layers import compute_dtype, memory_format
from .scaled import Scaled, ScaledLinear
from .stylegan2 import Generator

SMALLEST_HEAD = 64  # pixels; a face cannot be judged in smaller pictures


@dataclass(frozen=True)
class MobileConfig(FamilyConfig):
    """Everything needed to build a :class:`MobileGenerator`; further fields as in `FamilyConfig`.

    The defaults are the published network.

    Attributes:
        channels: width of the blocks b4, b8, ... up to the last features, a multiple of 4 each.
        wavelet: the picture is twice as large as the last features: a head of 4 times as many channels holds its
            Haar bands, of which the low one is the picture of half the side.

    Raises:
        ValueError: the resolution is not a power of two from 4 up, or ``channels`` does not fit it.
    """

    resolution: int = 1024
    channels: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128, 64)
    wavelet: bool = True

    # Fields of `GeneratorConfig` that are fixed in this family.
    architecture = "mobile"
    activation = "lrelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = len(self.block_resolutions)
        if len(self.channels) != wanted:
            raise ValueError(f"channels must list {wanted} widths for {self.resolution} px, not {len(self.channels)}")
        if any(width < 4 or width % 4 for width in self.channels):
            raise ValueError(f"channels must be multiples of 4, not {self.channels}")

    @property
    def feature_resolution(self) -> int:
        """Side of the last features in pixels."""
        return self.resolution // 2 if self.wavelet else self.resolution

    @property
    def block_resolutions(self) -> list[int]:
        """Sides of the blocks that compute features, smallest first."""
        return [2**i for i in range(2, self.feature_resolution.bit_length())]

    @property
    def head_resolutions(self) -> list[int]:
        """Sides of the pictures that can be asked for, smallest first."""
        least = min(SMALLEST_HEAD, self.feature_resolution)
        return [r for r in self.block_resolutions if r >= least] + [self.resolution] * self.wavelet

    @property
    def num_ws(self) -> int:
        """One w per convolution and one for the head: rows 0 to num_ws - 1 of StyleGAN2's own w+."""
        return 2 * len(self.block_resolutions)

    def ws_for(self, resolution: int) -> int:
        """How many rows of ws a picture of ``resolution`` depends on."""
        return 2 * (min(resolution, self.feature_resolution).bit_length() - 2)


class NoisyLayer(nn.Module):
    """A layer that may add noise: ``noise_const`` (one fixed map) or random numbers, times ``noise_strength``."""

    noise_const: Tensor
    noise_strength: Scaled
    use_noise: bool

    def add_noise(self, resolution: int) -> None:
        """Register the noise, if the layer uses any."""
        if self.use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = Scaled(torch.zeros([]))

    def noise(self, batch: int, mode: str) -> Tensor | None:
        """``[H, W]`` or ``[N, 1, H, W]``, times its strength; None for no noise."""
        if not self.use_noise or mode == "none":
            return None
        noise = self.noise_const
        if mode == "random":
            noise = torch.randn(batch, 1, *noise.shape, device=noise.device)
        return noise * self.noise_strength()


class MobileLayer(NoisyLayer):
    """A separable modulated convolution, noise, bias and leaky ReLU: ``conv0`` (upsampling) or ``conv1``.

    Args:
        in_channels: after upsampling.
        up: the input has 4 times as many channels, modulated by ``affine_up``: the Haar bands of twice the size.
    """

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, *, up: bool, use_noise: bool
    ) -> None:
        super().__init__()
        self.up, self.use_noise = up, use_noise
        if up:
            self.affine_up = ScaledLinear(w_dim, 4 * in_channels)
        self.affine = ScaledLinear(w_dim, in_channels)
        self.depthwise = Scaled(torch.randn(in_channels, 1, 3, 3), 1 / 3)
        self.pointwise = Scaled(torch.randn(out_channels, in_channels, 1, 1), (2 / in_channels) ** 0.5)
        self.bias = Scaled(torch.zeros(out_channels))
        self.add_noise(resolution)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random") -> Tensor:
        noise = self.noise(x.shape[0], noise_mode)
        noise = noise if noise is None else noise.to(x.dtype)
        tensors = self.affine(w), self.depthwise(), self.pointwise(), self.bias()
        style, depthwise, pointwise, bias = (tensor.to(x.dtype) for tensor in tensors)
        keep = not self.training
        if not self.up:
            return separable_layer(x, style, depthwise, pointwise, bias, noise, keep=keep)
        style_up = self.affine_up(w).to(x.dtype)
        return separable_up_layer(x, style_up, style, depthwise, pointwise, bias, noise, keep=keep)


class DenseLayer(NoisyLayer):
    """``conv1`` of b4: as `MobileLayer`, with an ordinary 3x3 convolution."""

    def __init__(self, channels: int, w_dim: int, *, use_noise: bool) -> None:
        super().__init__()
        self.use_noise = use_noise
        self.affine = ScaledLinear(w_dim, channels)
        self.weight = Scaled(torch.randn(channels, channels, 3, 3), (2 / 9 / channels) ** 0.5)
        self.bias = Scaled(torch.zeros(channels))
        self.add_noise(4)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random") -> Tensor:
        x = x * self.affine(w).to(x.dtype)[:, :, None, None]
        x = F.conv2d(x, self.weight().to(x.dtype), self.bias().to(x.dtype), padding=1)
        noise = self.noise(x.shape[0], noise_mode)
        return F.leaky_relu(x if noise is None else x + noise.to(x.dtype), 0.2)


class Head(nn.Module):
    """``torgb``: a modulated 1x1 convolution without demodulation, from features to a picture or its Haar bands."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int) -> None:
        super().__init__()
        self.affine = ScaledLinear(w_dim, in_channels)
        self.weight = Scaled(torch.randn(out_channels, in_channels, 1, 1), in_channels**-0.5)
        self.bias = Scaled(torch.zeros(out_channels))

    def from_bands(self, x: Tensor, w: Tensor) -> Tensor:
        """The picture ``[N, out_channels / 4, 2 H, 2 W]`` float32 whose Haar bands the channels are."""
        x = x.float()
        return haar_rgb(x, self.affine(w), self.weight(), self.bias())

    def forward(self, x: Tensor, w: Tensor, bands: slice = slice(None)) -> Tensor:
        """``[N, out_channels, H, W]`` float32, or only the channels that ``bands`` selects."""
        y = modulated_1x1(x, self.weight()[bands].to(x.dtype), self.affine(w))
        return y.float() + self.bias()[bands, None, None]


class MobileBlock(nn.Module):
    """One resolution: ``conv0`` (upsampling; ``const`` in b4), ``conv1`` and, from 64 px on, ``torgb``.

    The block beyond the last features has a ``torgb`` only: the head with the Haar bands.
    """

    def __init__(self, config: MobileConfig, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.wavelet = resolution > config.feature_resolution
        if self.wavelet:
            self.torgb = Head(config.channels[-1], 4 * config.img_channels, config.w_dim)
            return
        index = config.block_resolutions.index(resolution)
        width = config.channels[index]
        if index == 0:
            self.const = Scaled(torch.randn(width, 4, 4))
            self.conv1: DenseLayer | MobileLayer = DenseLayer(width, config.w_dim, use_noise=config.use_noise)
        else:
            layer = partial(MobileLayer, w_dim=config.w_dim, resolution=resolution, use_noise=config.use_noise)
            self.conv0 = layer(config.channels[index - 1] // 4, width, up=True)
            self.conv1 = layer(width, width, up=False)
        # The last features need no head of their own below a wavelet head, whose low band is the picture of this size.
        self.has_torgb = resolution in config.head_resolutions and (
            resolution < config.feature_resolution or not config.wavelet
        )
        if self.has_torgb:
            self.torgb = Head(width, config.img_channels, config.w_dim)
        self.use_half, self.half_on_request = half_precision(resolution, config.resolution, config.num_fp16_res)

    def forward(self, x: Tensor | None, ws: Iterator[Tensor], noise_mode: str, dtype: torch.dtype | None) -> Tensor:
        w = next(ws)
        compute = compute_dtype(self.use_half if dtype is None else self.half_on_request, w.device, dtype)
        layout = memory_format(w.device, compute)
        if x is None:
            x = self.const().to(compute).expand(w.shape[0], -1, -1, -1).contiguous(memory_format=layout)
            return self.conv1(x, w, noise_mode)
        x = self.conv0(x.to(dtype=compute, memory_format=layout), w, noise_mode)
        return self.conv1(x, next(ws), noise_mode)


class MobileSynthesis(Synthesis[MobileBlock]):
    """ws -> picture, at any of several sizes."""

    def __init__(self, config: MobileConfig) -> None:
        super().__init__()
        self.config = config
        self.num_ws, self.w_dim = config.num_ws, config.w_dim
        self.block_resolutions = config.block_resolutions + [config.resolution] * config.wavelet
        for resolution in self.block_resolutions:
            setattr(self, f"b{resolution}", MobileBlock(config, resolution))

    def forward(
        self, ws: Tensor, noise_mode: str = "const", dtype: torch.dtype | None = None, resolution: int | None = None
    ) -> Tensor:
        """Synthesise pictures.

        Args:
            ws: ``[N, num_ws, w_dim]``, or only the rows that a smaller picture needs (``config.ws_for``).
            noise_mode, dtype: as for `stylegan2.SynthesisNetwork`.
            resolution: side of the picture in pixels, one of ``config.head_resolutions``; None = the largest. Only
                the blocks that it needs are computed.

        Returns:
            ``[N, img_channels, resolution, resolution]`` float32, about [-1, 1].

        Raises:
            ValueError: another resolution or noise mode, or ws of another shape.
        """
        resolution = resolution or self.config.resolution
        return self._pictures(ws, noise_mode, dtype, [resolution])[0].contiguous()

    def pyramid(
        self, ws: Tensor, noise_mode: str = "const", dtype: torch.dtype | None = None, resolution: int | None = None
    ) -> list[Tensor]:
        """Pictures of all ``config.head_resolutions`` up to ``resolution``, smallest first; the rest as ``forward``."""
        resolution = resolution or self.config.resolution
        return self._pictures(ws, noise_mode, dtype, [r for r in self.config.head_resolutions if r <= resolution])

    def _pictures(self, ws: Tensor, noise_mode: str, dtype: torch.dtype | None, sizes: list[int]) -> list[Tensor]:
        config = self.config
        if not sizes or sizes[-1] not in config.head_resolutions:
            raise ValueError(f"resolution must be one of {config.head_resolutions}")
        self.check(ws, noise_mode, config.ws_for(sizes[-1]))
        remaining = iter(ws.float().unbind(dim=1))
        x, used, pictures = None, 0, []
        for block in self.blocks():
            if block.wavelet or block.resolution > sizes[-1]:
                break
            x = block(x, remaining, noise_mode, dtype)
            used += 1 if block.resolution == 4 else 2
            if block.resolution in sizes:
                pictures.append(self._picture(block, x, ws[:, used].float()))
        if sizes[-1] > config.feature_resolution:
            pictures.append(getattr(self, f"b{config.resolution}").torgb.from_bands(x, ws[:, used].float()))
        return pictures

    def _picture(self, block: MobileBlock, x: Tensor, w: Tensor) -> Tensor:
        """The picture of the size of features ``x``."""
        if block.has_torgb:
            return block.torgb(x, w)
        # The low band of the orthonormal transform is twice the mean of its 2x2 pixels.
        top = getattr(self, f"b{self.config.resolution}")
        return top.torgb(x, w, slice(self.config.img_channels)) / 2


class MobileGenerator(Generator):
    """Mapping and mobile synthesis, with the interface of `Generator`."""

    def __init__(self, config: MobileConfig) -> None:
        super().__init__(config)

    @property
    def config(self) -> MobileConfig:
        """What the network was built from."""
        assert isinstance(self._config, MobileConfig)
        return self._config

    def _new_synthesis(self) -> MobileSynthesis:
        return MobileSynthesis(self.config)

"""The StyleGAN2 generator: mapping network z -> w and synthesis network ws -> picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..ops import setup_filter, upfirdn2d
from .family import FamilyConfig, Synthesis, half_precision
from .layers import Conv2d, FullyConnected, SynthesisLayer, ToRGB, compute_dtype, memory_format, normalize_2nd_moment

if TYPE_CHECKING:
    from .mobile import MobileConfig, MobileSynthesis

ARCHITECTURES = ("skip", "resnet", "orig")


@dataclass(frozen=True)
class GeneratorConfig(FamilyConfig):
    """Everything needed to build a :class:`Generator`; further fields as in `FamilyConfig`.

    Attributes:
        channel_base, channel_max: block ``bR`` has ``min(channel_base // R, channel_max)`` channels.
        architecture: "skip" (each block adds its part of the picture), "resnet" or "orig" (plain).
        resample_filter: taps of the low-pass filter around up- and downsampling.
        conv_clamp: activations are clamped to +-this (256 in mixed precision). None = not clamped.
        activation: name of an activation of :func:`bias_act`.

    Raises:
        ValueError: the resolution is not a power of two from 4 up, or the architecture is unknown.
    """

    channel_base: int = 32768
    channel_max: int = 512
    architecture: str = "skip"
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    conv_clamp: float | None = None
    activation: str = "lrelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {ARCHITECTURES}, not {self.architecture!r}")

    @property
    def block_resolutions(self) -> list[int]:
        """Sides of the blocks in pixels, from 4 to ``resolution``."""
        return [2**i for i in range(2, int(math.log2(self.resolution)) + 1)]

    @property
    def head_resolutions(self) -> list[int]:
        """Sides of the pictures that can be asked for: one, since "skip" passes on unfinished sums."""
        return [self.resolution]

    @property
    def num_ws(self) -> int:
        """2 log2(resolution) - 2: one w per convolution and one for the last torgb."""
        return 2 * int(math.log2(self.resolution)) - 2

    def channels(self, resolution: int) -> int:
        """Feature channels of the block of this resolution."""
        return min(self.channel_base // resolution, self.channel_max)


class MappingNetwork(nn.Module):
    """z (and label c) -> w: normalisation and fully connected layers (StyleGAN, section 2; ADA, figure 1).

    With ``num_ws=None`` it returns ``[N, w_dim]`` and keeps no mean: the form the discriminator uses on labels.

    Attributes:
        w_avg: running mean of w, ``[w_dim]``; only with ``num_ws``.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.995,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        if c_dim > 0:
            self.embed = FullyConnected(c_dim, w_dim)
        sizes = [z_dim + (w_dim if c_dim > 0 else 0), *[features or w_dim] * (num_layers - 1), w_dim]
        for i in range(num_layers):
            layer = FullyConnected(sizes[i], sizes[i + 1], activation=activation, lr_multiplier=lr_multiplier)
            setattr(self, f"fc{i}", layer)
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        *,
        update_w_avg: bool = False,
    ) -> Tensor:
        """Map latents to ``ws``.

        Args:
            z: ``[N, z_dim]``, standard normal.
            c: ``[N, c_dim]`` labels, for conditional networks; None stands for all-zero labels.
            psi: truncation: 1 = none, 0 = the mean picture.
            cutoff: truncate only the first this many of the ``num_ws`` rows. None = all.
            update_w_avg: move the running mean of w towards this batch (training only).

        Returns:
            ``[N, num_ws, w_dim]`` float32 (``[N, w_dim]`` when built with ``num_ws=None``).
        """
        parts = []
        if z is not None and self.z_dim > 0:
            parts.append(normalize_2nd_moment(z.float()))
        if self.c_dim > 0:
            if c is None:
                if z is None:
                    raise ValueError("the mapping network needs z or c")
                c = torch.zeros(z.shape[0], self.c_dim, device=z.device)
            parts.append(normalize_2nd_moment(self.embed(c.float())))
        x = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        if self.num_ws is None:
            return x
        if update_w_avg:
            self.w_avg.copy_(x.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        ws = x.unsqueeze(1).repeat(1, self.num_ws, 1)
        if psi != 1:
            n = self.num_ws if cutoff is None else cutoff
            ws = torch.cat([self.w_avg.lerp(ws[:, :n], psi), ws[:, n:]], dim=1)
        return ws


class SynthesisBlock(nn.Module):
    """One resolution: ``conv0`` (upsampling), ``conv1`` and, where a picture is made, ``torgb``.

    ``b4`` has a learned constant instead of ``conv0``. ``skip`` exists in the residual architecture only.
    """

    resample_filter: Tensor

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        self.resolution, self.architecture = resolution, config.architecture
        is_last = resolution == config.resolution
        self.use_half, self.half_on_request = half_precision(resolution, config.resolution, config.num_fp16_res)
        out = config.channels(resolution)
        layer = partial(
            SynthesisLayer,
            w_dim=config.w_dim,
            resolution=resolution,
            use_noise=config.use_noise,
            activation=config.activation,
            resample_filter=config.resample_filter,
            conv_clamp=config.conv_clamp,
        )
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(out, 4, 4))
        else:
            into = config.channels(resolution // 2)
            self.conv0 = layer(into, out, up=2)
            if config.architecture == "resnet":
                self.skip = Conv2d(into, out, 1, bias=False, up=2, resample_filter=config.resample_filter)
        self.conv1 = layer(out, out)
        self.has_torgb = is_last or config.architecture == "skip"
        if self.has_torgb:
            self.torgb = ToRGB(out, config.img_channels, config.w_dim, conv_clamp=config.conv_clamp)
        self.num_conv = 1 if resolution == 4 else 2
        self.register_buffer("resample_filter", setup_filter(config.resample_filter), persistent=False)

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Iterator[Tensor], rgb_w: Tensor, noise_mode: str,
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        half = self.use_half if dtype is None else self.half_on_request
        compute = compute_dtype(half, rgb_w.device, dtype)
        layout = memory_format(rgb_w.device, compute)
        if x is None:  # b4
            const = self.const.to(compute).expand(rgb_w.shape[0], -1, -1, -1).contiguous(memory_format=layout)
            features: Tensor = self.conv1(const, next(ws), noise_mode)
        else:
            x = x.to(dtype=compute, memory_format=layout)
            residual = self.architecture == "resnet"
            gain = math.sqrt(0.5) if residual else 1.0
            skip = self.skip(x, gain=gain) if residual else None
            features = self.conv0(x, next(ws), noise_mode)
            features = self.conv1(features, next(ws), noise_mode, gain=gain)
            if skip is not None:
                features = skip + features
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.has_torgb:
            y = self.torgb(features, rgb_w).float()
            img = y if img is None else img + y
        return features, img


def upsample2d(img: Tensor, f: Tensor) -> Tensor:
    """Double the size of ``[N, C, H, W]`` with the low-pass filter ``f``, brightness kept."""
    fw, fh = f.shape[-1], f.shape[0]
    return upfirdn2d(img, f, up=2, padding=[(fw + 1) // 2, (fw - 2) // 2, (fh + 1) // 2, (fh - 2) // 2], gain=4)


class SynthesisNetwork(Synthesis[SynthesisBlock]):
    """ws -> picture."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.block_resolutions = config.block_resolutions
        self.num_ws, self.w_dim = config.num_ws, config.w_dim
        for res in self.block_resolutions:
            setattr(self, f"b{res}", SynthesisBlock(config, res))

    def forward(
        self, ws: Tensor, noise_mode: str = "const", dtype: torch.dtype | None = None, resolution: int | None = None
    ) -> Tensor:
        """Synthesise pictures.

        Args:
            ws: ``[N, num_ws, w_dim]``. A block's torgb shares its w with the next block's first convolution.
            noise_mode: "const" (the stored noise), "random" or "none".
            dtype: None = as configured; torch.float32 = everywhere; torch.float16 or bfloat16 = in the four
                highest resolutions.
            resolution: side of the picture; here the only one is ``config.resolution``, which None stands for.

        Returns:
            ``[N, img_channels, resolution, resolution]`` float32, about [-1, 1].

        Raises:
            ValueError: another resolution or noise mode, or ws of another shape.
        """
        return self.pyramid(ws, noise_mode, dtype, resolution)[-1].contiguous()

    def pyramid(
        self, ws: Tensor, noise_mode: str = "const", dtype: torch.dtype | None = None, resolution: int | None = None
    ) -> list[Tensor]:
        """The picture after each block that makes one, smallest first; the last is ``forward``'s.

        Arguments and errors as for ``forward``. Architecture "skip" gives ``len(block_resolutions)`` pictures, the
        others one.
        """
        resolution = resolution or self.config.resolution
        if resolution not in self.config.head_resolutions:
            raise ValueError(f"resolution must be one of {self.config.head_resolutions}, not {resolution}")
        self.check(ws, noise_mode)
        rows = ws.float().unbind(dim=1)
        remaining = iter(rows)
        x = img = None
        used, images = 0, []
        for block in self.blocks():
            used += block.num_conv
            x, img = block(x, img, remaining, rows[used], noise_mode, dtype)
            if img is not None:
                images.append(img)
        return images


def is_noise_strength(parameter: str) -> bool:
    """Whether a parameter of this name is the strength of a layer's noise."""
    return "noise_strength" in parameter.split(".")


class Generator(nn.Module):
    """Mapping and synthesis: ``G(z, c, psi=...)`` gives pictures ``[N, C, R, R]`` in about [-1, 1].

    The mobile family derives from it and brings a synthesis network of its own (`mobile.MobileGenerator`).

    Attributes:
        provenance: where the network comes from, if it was loaded or made from others; see `weights.provenance`.
    """

    provenance: dict[str, Any]
    synthesis: SynthesisNetwork | MobileSynthesis

    def __init__(self, config: GeneratorConfig | MobileConfig) -> None:
        super().__init__()
        self._config = config
        self.synthesis = self._new_synthesis()
        self.mapping = MappingNetwork(
            config.z_dim,
            config.c_dim,
            config.w_dim,
            config.num_ws,
            num_layers=config.mapping_layers,
            features=config.mapping_features,
            activation=config.activation,
            lr_multiplier=config.mapping_lr_multiplier,
            w_avg_beta=config.w_avg_beta,
        )

    def _new_synthesis(self) -> SynthesisNetwork | MobileSynthesis:
        assert isinstance(self.config, GeneratorConfig)
        return SynthesisNetwork(self.config)

    @property
    def config(self) -> GeneratorConfig | MobileConfig:
        """What the network was built from."""
        return self._config

    @property
    def num_ws(self) -> int:
        """Rows of ws, one for each layer that takes a w."""
        return self.config.num_ws

    @torch.no_grad()
    def silence(self) -> None:
        """Set the strengths of the noise to 0 and stop training them."""
        for name, parameter in self.named_parameters():
            if is_noise_strength(name):
                parameter.requires_grad_(False).zero_()

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise_mode: str = "const",
        dtype: torch.dtype | None = None,
        resolution: int | None = None,
    ) -> Tensor:
        """``synthesis(mapping(z, c, psi, cutoff), noise_mode, dtype, resolution)``; see those for shapes."""
        ws = self.mapping(z, c, psi, cutoff)
        return self.synthesis(ws, noise_mode=noise_mode, dtype=dtype, resolution=resolution)

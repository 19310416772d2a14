"""The layers both networks are made of. Tensor names equal those of the published implementation."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import bias_act, setup_filter
from ..ops.bias_act import ACTIVATIONS
from ..ops.conv2d import conv_layer, modulated_1x1


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of ``[N, C]`` to unit mean square (StyleGAN's pixel norm on latents)."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


@functools.cache
def cpu_multiplies(dtype: torch.dtype) -> bool:
    """Whether this processor has matrix instructions (AMX) for a half type; without them float32 is faster."""
    name = {torch.bfloat16: "_is_amx_tile_supported", torch.float16: "_is_amx_fp16_supported"}.get(dtype)
    return name is not None and bool(getattr(torch.cpu, name, lambda: False)())


def compute_dtype(half: bool, device: torch.device, dtype: torch.dtype | None) -> torch.dtype:
    """What a block computes in: ``dtype`` if the caller chose one, else float16 for ``half`` blocks on CUDA.

    On CPUs that would only imitate the chosen half type it is float32, which is faster there and no less accurate.
    """
    if not half:
        return torch.float32
    if device.type == "cpu":
        return dtype if dtype is not None and cpu_multiplies(dtype) else torch.float32
    if dtype is not None:
        return dtype
    return torch.float16 if device.type == "cuda" else torch.float32


def memory_format(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """channels_last where convolutions are faster with it: CPUs, half precision on CUDA."""
    fast = device.type == "cpu" or (device.type == "cuda" and dtype != torch.float32)
    return torch.channels_last if fast else torch.contiguous_format


class FullyConnected(nn.Module):
    """``act(x @ w.T + b)`` with the run-time weight scaling of ProGAN ("equalized learning rate").

    ``[N, in_features] -> [N, out_features]``. ``lr_multiplier`` scales both tensors at run time, so the
    optimiser sees them as that much larger: the mapping network learns at 1 % of the rate (StyleGAN).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight_gain  # of the two factors the smaller one
        w = self.weight.to(x.dtype)
        b = self.bias.to(x.dtype)
        if self.bias_gain != 1:
            b = b * self.bias_gain
        if self.activation == "linear":
            return torch.addmm(b, x, w.t())
        return bias_act(x @ w.t(), b, act=self.activation)


class Conv2d(nn.Module):
    """Convolution with optional resampling, bias, activation, gain and clamp: the discriminator's layer."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = ACTIVATIONS[activation].default_gain
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        # Built from the configuration, so it is not part of the state on disk.
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return conv_layer(
            x, self.weight, self.bias, weight_gain=self.weight_gain, f=self.resample_filter, up=self.up, down=self.down,
            act=self.activation, gain=self.act_gain * gain,
            clamp=self.conv_clamp * gain if self.conv_clamp is not None else None, keep=not self.training,
        )  # fmt: skip


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU: ``conv0`` and ``conv1`` of a synthesis block."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.use_noise = resolution, up, use_noise
        self.activation, self.conv_clamp = activation, conv_clamp
        self.act_gain = ACTIVATIONS[activation].default_gain
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random", gain: float = 1.0) -> Tensor:
        noise = None
        if self.use_noise and noise_mode == "random":
            size = (x.shape[0], 1, self.resolution, self.resolution)
            noise = torch.randn(size, device=x.device) * self.noise_strength
        elif self.use_noise and noise_mode == "const":
            noise = self.noise_const * self.noise_strength
        return conv_layer(
            x, self.weight, self.bias, styles=self.affine(w), noise=noise, f=self.resample_filter, up=self.up,
            act=self.activation, gain=self.act_gain * gain,
            clamp=self.conv_clamp * gain if self.conv_clamp is not None else None, keep=not self.training,
        )  # fmt: skip


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation: features to picture channels."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        x = modulated_1x1(x, self.weight, styles)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)

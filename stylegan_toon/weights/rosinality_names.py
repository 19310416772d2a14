"""Tensor names and shapes of github.com/rosinality/stylegan2-pytorch beside those of this package.

The networks are the same: architecture "skip" for the generator and "resnet" for the discriminator, filter
[1, 3, 3, 1] (stored beside each layer that uses it). Names differ, and some tensors have further axes of length 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, MobileConfig
from ..ops import setup_filter

KEYS = {"G_ema": "g_ema", "G": "g", "D": "d"}  # our name of a network -> theirs
FILTER = (1, 3, 3, 1)
W_AVG = "mapping.w_avg"


def tensor_table(network: Generator | Discriminator) -> dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Our tensor name -> (their name, their shape, our shape), for all but ``mapping.w_avg``."""
    names = dict(_names(network.config))
    shapes = {mine: tuple(tensor.shape) for mine, tensor in network.state_dict().items() if mine != W_AVG}
    return {mine: (names[mine], _their_shape(names[mine], shape), shape) for mine, shape in shapes.items()}


def _their_shape(theirs: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Modulated weights, the constant, noise and biases of torgb have further axes of length 1."""
    if theirs.startswith("noises."):
        return (1, 1, *shape)
    if theirs.startswith("to_rgb") and theirs.endswith(".bias") and ".conv." not in theirs:
        return (1, *shape, 1, 1)
    if theirs == "input.input" or theirs.endswith((".conv.weight", ".noise.weight")):
        return (1, *shape)
    return shape


def _names(config: GeneratorConfig | MobileConfig | DiscriminatorConfig) -> Iterator[tuple[str, str]]:
    """(our tensor name, their tensor name)."""
    if isinstance(config, DiscriminatorConfig):
        yield from _discriminator_names(config)
        return
    for i in range(config.mapping_layers):
        yield from _pairs(f"mapping.fc{i}", f"style.{i + 1}")
    yield "synthesis.b4.const", "input.input"
    for i, res in enumerate(config.block_resolutions):
        block = f"synthesis.b{res}"
        layers = ["conv1"] if res == 4 else ["conv0", "conv1"]
        for layer in layers:
            index = 2 * (i - 1) + int(layer[-1])
            mine, theirs = f"{block}.{layer}", "conv1" if res == 4 else f"convs.{index}"
            yield from _modulated(mine, theirs)
            yield f"{mine}.bias", f"{theirs}.activate.bias"
            yield f"{mine}.noise_strength", f"{theirs}.noise.weight"
            yield f"{mine}.noise_const", f"noises.noise_{index + 1}"
        theirs = "to_rgb1" if res == 4 else f"to_rgbs.{i - 1}"
        yield from _modulated(f"{block}.torgb", theirs)
        yield f"{block}.torgb.bias", f"{theirs}.bias"


def _modulated(mine: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{mine}.weight", f"{theirs}.conv.weight"
    yield from _pairs(f"{mine}.affine", f"{theirs}.conv.modulation")


def _pairs(mine: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{mine}.weight", f"{theirs}.weight"
    yield f"{mine}.bias", f"{theirs}.bias"


def _discriminator_names(config: DiscriminatorConfig) -> Iterator[tuple[str, str]]:
    layers = [(f"b{config.resolution}.fromrgb", "convs.0", 0)]
    for i, res in enumerate(config.block_resolutions, start=1):
        layers += [(f"b{res}.conv0", f"convs.{i}.conv1", 0), (f"b{res}.conv1", f"convs.{i}.conv2", 1)]
        yield f"b{res}.skip.weight", f"convs.{i}.skip.1.weight"
    for mine, theirs, first in [*layers, ("b4.conv", "final_conv", 0)]:  # in their lists the filter comes first
        yield f"{mine}.weight", f"{theirs}.{first}.weight"
        yield f"{mine}.bias", f"{theirs}.{first + 1}.bias"
    yield from _pairs("b4.fc", "final_linear.0")
    yield from _pairs("b4.out", "final_linear.1")


def filters(config: GeneratorConfig | MobileConfig | DiscriminatorConfig) -> Iterator[tuple[str, Tensor]]:
    """(their name, tensor) of the filters that are stored beside the layers; 4 times as large where they upsample."""
    kernel = setup_filter(FILTER)
    if isinstance(config, DiscriminatorConfig):
        for i in range(1, len(config.block_resolutions) + 1):
            yield f"convs.{i}.conv2.0.kernel", kernel
            yield f"convs.{i}.skip.0.kernel", kernel
    else:
        for i in range(len(config.block_resolutions) - 1):
            yield f"convs.{2 * i}.conv.blur.kernel", 4 * kernel
            yield f"to_rgbs.{i}.upsample.kernel", 4 * kernel

"""Builds a mobile generator from plain tensors, for the readers of MobileStyleGAN's own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ToonError
from ..models.heads import fit_heads
from ..models.mobile import DenseLayer, Head, MobileConfig, MobileGenerator, MobileLayer
from ..models.scaled import Scaled, ScaledLinear
from .assemble import mean_w, misfit, outline

_SAMPLES = 10_000  # latents whose mean of w replaces a missing w_avg


@torch.no_grad()
def mobile_generator(path: str | Path, tensors: Mapping[str, Tensor]) -> tuple[MobileGenerator, list[str]]:
    """Build the network from exactly these tensors, in eval mode; heads that the file lacks are fitted (`fit_heads`).

    Args:
        path: for messages.
        tensors: ``map.I.w [512, 512]`` and ``map.I.b`` (as they are applied: no learning rate multiplier);
            ``const [C, 4, 4]``; ``LAYER.mod.w [in, w_dim]`` and ``.mod.b``, ``.pw [out, in, 1, 1]``,
            ``.dw [in, 1, 3, 3]`` (or ``.w [C, C, 3, 3]`` in b4.conv1), ``.bias [out]``, ``.noise [R, R]`` (times its
            strength; may be missing); ``bR.up.mod.w``; ``HEAD.w``, ``HEAD.mod.w``, ``HEAD.mod.b``, ``HEAD.bias``.
            LAYER is such as ``b8.conv0``, HEAD ``b1024.torgb``. Constant factors are part of the tensors. ``w_avg
            [w_dim]`` may be missing.

    Returns:
        The network, and sentences on what was computed because the file does not hold it.

    Raises:
        ToonError: tensors are missing, unknown, not finite or of the wrong shape.
    """
    rest = dict(tensors)

    def take(name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in rest:
            raise misfit(path, "missing", [name])
        tensor = rest.pop(name)
        if tuple(tensor.shape) != shape:
            raise misfit(path, f"of shape {list(tensor.shape)} instead of {list(shape)}", [name])
        return tensor.float()

    def linear(layer: ScaledLinear, name: str) -> None:
        layer.weight.adopt(take(f"{name}.mod.w", tuple(layer.weight.value.shape)))
        layer.bias.adopt(take(f"{name}.mod.b", tuple(layer.bias.value.shape)), smallest=0.01)

    config = _config(path, rest)
    network, notes, missing = _new_network(path, config, rest), [], []
    for i in range(config.mapping_layers):
        layer = getattr(network.mapping, f"fc{i}")
        layer.weight.copy_(take(f"map.{i}.w", tuple(layer.weight.shape)) / layer.weight_gain)
        layer.bias.copy_(take(f"map.{i}.b", tuple(layer.bias.shape)) / layer.bias_gain)
    for block in network.synthesis.blocks():
        for name, layer in block.named_children():
            name = f"b{block.resolution}.{name}"
            if isinstance(layer, Head):
                if block.resolution < config.feature_resolution and not any(k.startswith(f"{name}.") for k in rest):
                    missing.append(block.resolution)
                    continue
                linear(layer.affine, name)
                layer.weight.adopt(take(f"{name}.w", tuple(layer.weight.value.shape)))
                layer.bias.adopt(take(f"{name}.bias", tuple(layer.bias.value.shape)), smallest=0.01)
            elif isinstance(layer, (MobileLayer, DenseLayer)):
                if isinstance(layer, DenseLayer):
                    layer.weight.adopt(take(f"{name}.w", tuple(layer.weight.value.shape)))
                else:
                    if layer.up:
                        linear(layer.affine_up, f"b{block.resolution}.up")
                    layer.depthwise.adopt(take(f"{name}.dw", tuple(layer.depthwise.value.shape)))
                    layer.pointwise.adopt(take(f"{name}.pw", tuple(layer.pointwise.value.shape)))
                linear(layer.affine, name)
                layer.bias.adopt(take(f"{name}.bias", tuple(layer.bias.value.shape)), smallest=0.01)
                if f"{name}.noise" in rest:
                    _adopt_noise(layer, take(f"{name}.noise", tuple(layer.noise_const.shape)))
            elif isinstance(layer, Scaled):
                layer.adopt(take(name.replace("b4.const", "const"), tuple(layer.value.shape)))
    if "w_avg" in rest:
        network.mapping.w_avg.copy_(take("w_avg", (config.w_dim,)))
    else:
        network.mapping.w_avg.copy_(mean_w(network, _SAMPLES, seed=123))
        notes.append(f"No mean of w in the file: w_avg is the mean over {_SAMPLES:,} latents of a fixed seed.")
    if rest:
        raise misfit(path, "unknown", list(rest))
    if odd := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise misfit(path, "not finite", odd)
    if missing:
        fit_heads(network, missing)
        sizes = ", ".join(f"{side} px" for side in missing)
        notes.append(f"No heads for {sizes} in the file: fitted by least squares to the network's own pictures.")
    if odd := [name for name, tensor in network.state_dict().items() if not bool(tensor.isfinite().all())]:
        raise misfit(path, "too large", odd)
    return network, notes


def refuse_mobile(path: str | Path, networks: Mapping[str, nn.Module]) -> None:
    """Raise ToonError if one of the networks is mobile, for the writers of formats that hold StyleGAN2 only."""
    for name, network in networks.items():
        if isinstance(network, MobileGenerator):
            raise ToonError(f"{path} cannot hold {name}, which is of the mobile family: save it as .safetensors.")


def _new_network(path: str | Path, config: MobileConfig, tensors: Mapping[str, Tensor]) -> MobileGenerator:
    """The network before it has its tensors; refused if they are far too few for its size."""
    wanted = sum(tensor.numel() for tensor in outline(config, MobileGenerator, path).state_dict().values())
    if wanted > 4 * sum(tensor.numel() for tensor in tensors.values()) + (16 << 20):
        raise misfit(path, "far fewer numbers than their widths ask for", list(tensors)[:1])
    with torch.random.fork_rng(devices=[]):  # the random numbers of the caller stay as they are
        torch.manual_seed(0)
        return MobileGenerator(config).eval()


def _config(path: str | Path, tensors: Mapping[str, Tensor]) -> MobileConfig:
    """The config that follows from the shapes of the tensors."""
    if "const" not in tensors or tensors["const"].ndim != 3:
        raise misfit(path, "missing", ["const"])
    widths, resolution = [int(tensors["const"].shape[0])], 8
    while (pointwise := tensors.get(f"b{resolution}.conv0.pw")) is not None:
        widths.append(int(pointwise.shape[0]))
        resolution *= 2
    depth = 0
    while f"map.{depth}.w" in tensors:
        depth += 1
    if depth == 0 or tensors["map.0.w"].ndim != 2:
        raise misfit(path, "missing", ["map.0.w"])
    wavelet = f"b{resolution}.torgb.w" in tensors
    try:
        return MobileConfig(
            resolution=resolution if wavelet else resolution // 2,
            channels=tuple(widths),
            wavelet=wavelet,
            z_dim=int(tensors["map.0.w"].shape[1]),
            w_dim=int(tensors[f"map.{depth - 1}.w"].shape[0]),
            mapping_layers=depth,
        )
    except ValueError as error:
        raise misfit(path, f"widths that cannot be: {error}", ["const"]) from error


def _adopt_noise(layer: MobileLayer | DenseLayer, noise: Tensor) -> None:
    """Split a noise map times its strength into a map of unit variance and the strength, as projection expects."""
    strength = float(noise.square().mean().sqrt())
    if strength > 0:  # else the map has no effect
        layer.noise_const.copy_(noise / strength)
    layer.noise_strength.adopt(torch.tensor(strength))

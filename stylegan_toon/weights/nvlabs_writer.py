"""Writes the ``.pkl`` files of stylegan2-ada-pytorch and stylegan3.

A file holds the state of each module and the name of its class but no source code: when it is loaded in one of those
repositories, the classes come from the package ``training`` there.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from ..errors import ToonError
from ..files import atomic_path, refuse_overwrite
from ..models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..models.layers import Conv2d, FullyConnected, SynthesisLayer, ToRGB
from ..models.stylegan2 import MappingNetwork, SynthesisNetwork
from .mobile import refuse_mobile

LAYOUTS = {"ada": "training.networks", "stylegan3": "training.networks_stylegan2"}


def write_networks(
    path: str | Path, networks: Mapping[str, nn.Module], *, layout: str = "ada", overwrite: bool = False
) -> list[str]:
    """Write a family for one of the original repositories.

    Their loaders ask for ``G``, ``D`` and ``G_ema``. A missing G or G_ema becomes a copy of the other; a missing D
    becomes a new one, untrained, of the generator's size.

    Args:
        path: usually ends in ``.pkl``.
        networks: ``"G"``, ``"D"``, ``"G_ema"``, at least one of the generators.
        layout: "ada" for stylegan2-ada-pytorch, "stylegan3" for that repository.
        overwrite: replace ``path`` if it exists.

    Returns:
        Sentences about networks that were added to complete the family.

    Raises:
        ToonError: the file exists or cannot be written, or there is no generator.
    """
    path = Path(path)
    refuse_overwrite([path], overwrite)
    refuse_mobile(path, networks)
    family, notes = _complete_family(path, networks)
    module = LAYOUTS[layout]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(b"\x80\x03")
        _write(file, {"training_set_kwargs": None, "augment_pipe": None})
        for name in ("G", "D", "G_ema"):
            network = family[name]
            state = _discriminator(network) if isinstance(network, Discriminator) else _generator(network, layout)
            _write(file, name)
            _write(file, state, module=module)
            file.write(b"s")
        file.write(b".")
    return notes


def _complete_family(
    path: Path, networks: Mapping[str, nn.Module]
) -> tuple[dict[str, Generator | Discriminator], list[str]]:
    family: dict[str, Generator | Discriminator] = {}
    for name in ("G", "D", "G_ema"):
        if isinstance(network := networks.get(name), (Generator, Discriminator)):
            family[name] = network
    notes = []
    generator = family.get("G_ema", family.get("G"))
    if generator is None:
        raise ToonError(f"{path} needs a generator: give a file that holds G_ema.")
    for name in ("G", "G_ema"):
        if name not in family:
            family[name] = generator
            notes.append(f"there was no {name}: it is a copy of the other generator")
    if "D" not in family:
        same = ("resolution", "img_channels", "c_dim", "channel_base", "channel_max")
        config = DiscriminatorConfig(**{key: getattr(generator.config, key) for key in same})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            family["D"] = Discriminator(config).eval()
        notes.append("there was no D: it is a new, untrained one")
    return family, notes


@dataclass
class _Object:
    """An instance of one of their classes, by name and state."""

    name: str
    attributes: dict[str, Any]
    parameters: Mapping[str, Tensor | None] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    modules: Mapping[str, _Object | None] = field(default_factory=dict)


def _fully_connected(layer: FullyConnected) -> _Object:
    return _Object(
        "FullyConnectedLayer",
        {
            "in_features": layer.weight.shape[1],
            "out_features": layer.weight.shape[0],
            "activation": layer.activation,
            "weight_gain": layer.weight_gain,
            "bias_gain": layer.bias_gain,
        },
        {"weight": layer.weight, "bias": layer.bias},
    )


def _conv2d(layer: Conv2d) -> _Object:
    names = ("activation", "up", "down", "conv_clamp", "padding", "weight_gain", "act_gain")
    sizes = {"in_channels": layer.weight.shape[1], "out_channels": layer.weight.shape[0]}
    return _Object(
        "Conv2dLayer",
        {**sizes, **{name: getattr(layer, name) for name in names}},
        {"weight": layer.weight, "bias": layer.bias},
        {"resample_filter": layer.resample_filter},
    )


def _styled_sizes(layer: SynthesisLayer | ToRGB) -> dict[str, int]:
    out, into = layer.weight.shape[:2]
    return {"in_channels": into, "out_channels": out, "w_dim": layer.affine.weight.shape[1]}


def _synthesis_layer(layer: SynthesisLayer) -> _Object:
    names = ("resolution", "up", "use_noise", "activation", "conv_clamp", "act_gain")
    parameters: dict[str, Tensor] = {"weight": layer.weight}
    buffers = {"resample_filter": layer.resample_filter}
    if layer.use_noise:
        parameters["noise_strength"], buffers["noise_const"] = layer.noise_strength, layer.noise_const
    return _Object(
        "SynthesisLayer",
        {**_styled_sizes(layer), "padding": 1, **{name: getattr(layer, name) for name in names}},
        {**parameters, "bias": layer.bias},
        buffers,
        {"affine": _fully_connected(layer.affine)},
    )


def _to_rgb(layer: ToRGB) -> _Object:
    return _Object(
        "ToRGBLayer",
        {**_styled_sizes(layer), "conv_clamp": layer.conv_clamp, "weight_gain": layer.weight_gain},
        {"weight": layer.weight, "bias": layer.bias},
        {},
        {"affine": _fully_connected(layer.affine)},
    )


def _mapping(mapping: MappingNetwork) -> _Object:
    names = ("z_dim", "c_dim", "w_dim", "num_ws", "num_layers")
    layers = {name: _fully_connected(cast(FullyConnected, layer)) for name, layer in mapping.named_children()}
    beta = mapping.w_avg_beta if mapping.num_ws is not None else None
    return _Object(
        "MappingNetwork",
        {**{name: getattr(mapping, name) for name in names}, "w_avg_beta": beta},
        {},
        {"w_avg": mapping.w_avg} if mapping.num_ws is not None else {},
        layers,
    )


def _generator(network: Generator, layout: str) -> _Object:
    c = network.config
    assert isinstance(c, GeneratorConfig)  # mobile networks have been refused
    modules = {}
    for block in cast(SynthesisNetwork, network.synthesis).blocks():
        resolution = block.resolution
        into = 0 if resolution == 4 else c.channels(resolution // 2)
        parts: dict[str, _Object] = {}
        for name in ("conv0", "conv1"):
            if hasattr(block, name):
                parts[name] = _synthesis_layer(getattr(block, name))
        if block.has_torgb:
            parts["torgb"] = _to_rgb(block.torgb)
        if hasattr(block, "skip"):
            parts["skip"] = _conv2d(block.skip)
        modules[f"b{resolution}"] = _Object(
            "SynthesisBlock",
            {
                **{"in_channels": into, "w_dim": c.w_dim, "resolution": resolution, "img_channels": c.img_channels},
                **{"is_last": resolution == c.resolution, "architecture": c.architecture, "use_fp16": block.use_half},
                **{"channels_last": False, "fused_modconv_default": True, "num_conv": block.num_conv},
                "num_torgb": int(block.has_torgb),
            },
            {"const": block.const} if resolution == 4 else {},
            {"resample_filter": block.resample_filter},
            parts,
        )
    sizes = {"w_dim": c.w_dim, "img_resolution": c.resolution, "img_channels": c.img_channels}
    synthesis = _Object(
        "SynthesisNetwork",
        {
            **sizes,
            "img_resolution_log2": c.resolution.bit_length() - 1,
            "block_resolutions": c.block_resolutions,
            "num_ws": c.num_ws,
            "num_fp16_res": c.num_fp16_res,
        },
        modules=modules,
    )
    return _Object(
        "Generator",
        {"z_dim": c.z_dim, "c_dim": c.c_dim, **sizes, "num_ws": c.num_ws, **_arguments(c, layout)},
        modules={"synthesis": synthesis, "mapping": _mapping(network.mapping)},
    )


def _discriminator(network: Discriminator) -> _Object:
    c = network.config
    modules: dict[str, _Object] = {}
    first = 0
    for block, resolution in zip(network.blocks(), c.block_resolutions):
        layers = {name: _conv2d(cast(Conv2d, layer)) for name, layer in block.named_children()}
        modules[f"b{resolution}"] = _Object(
            "DiscriminatorBlock",
            {
                "in_channels": 0 if resolution == c.resolution else c.channels(resolution),
                **{"resolution": resolution, "img_channels": c.img_channels, "first_layer_idx": first},
                **{"architecture": c.architecture, "use_fp16": block.use_half, "channels_last": False},
                "num_layers": len(layers),
            },
            buffers={"resample_filter": block.resample_filter},
            modules=layers,
        )
        first += len(layers)
    if c.c_dim > 0:
        modules["mapping"] = _mapping(network.mapping)
    b4 = network.b4
    parts: dict[str, _Object | None] = {
        name: _conv2d(getattr(b4, name)) for name in ("fromrgb", "conv") if hasattr(b4, name)
    }
    parts |= {"fc": _fully_connected(b4.fc), "out": _fully_connected(b4.out), "mbstd": None}
    if c.mbstd_channels > 0:
        parts["mbstd"] = _Object(
            "MinibatchStdLayer", {"group_size": c.mbstd_group_size, "num_channels": c.mbstd_channels}
        )
    modules["b4"] = _Object(
        "DiscriminatorEpilogue",
        {
            **{"in_channels": c.channels(4), "cmap_dim": b4.cmap_dim, "resolution": 4},
            **{"img_channels": c.img_channels, "architecture": c.architecture},
        },
        modules=parts,
    )
    return _Object(
        "Discriminator",
        {
            **{"c_dim": c.c_dim, "img_resolution": c.resolution, "img_channels": c.img_channels},
            "img_resolution_log2": c.resolution.bit_length() - 1,
            "block_resolutions": c.block_resolutions,
            **_arguments(c),
        },
        modules=modules,
    )


def _arguments(c: GeneratorConfig | DiscriminatorConfig, layout: str = "ada") -> dict[str, Any]:
    """The arguments of their constructors, which their networks keep to be built again."""
    common = {
        **{"channel_base": c.channel_base, "channel_max": c.channel_max, "architecture": c.architecture},
        **{"num_fp16_res": c.num_fp16_res, "conv_clamp": c.conv_clamp},
    }
    layer = {"resample_filter": list(c.resample_filter)}
    size = {"c_dim": c.c_dim, "img_resolution": c.resolution, "img_channels": c.img_channels}
    mapping = {"num_layers": c.mapping_layers, "lr_multiplier": c.mapping_lr_multiplier}
    if isinstance(c, DiscriminatorConfig):
        epilogue = {"mbstd_group_size": c.mbstd_group_size, "mbstd_num_channels": c.mbstd_channels}
        kwargs = {**size, **common, "cmap_dim": c.cmap_dim, "block_kwargs": layer, "mapping_kwargs": mapping}
        return {"_init_args": (), "_init_kwargs": {**kwargs, "epilogue_kwargs": epilogue}}
    synthesis = {**common, **layer, "use_noise": c.use_noise, "activation": c.activation}
    mapping |= {"layer_features": c.mapping_features, "w_avg_beta": c.w_avg_beta}
    kwargs = {"z_dim": c.z_dim, "w_dim": c.w_dim, **size, "mapping_kwargs": mapping}
    kwargs |= {"synthesis_kwargs": synthesis} if layout == "ada" else synthesis
    return {"_init_args": (), "_init_kwargs": kwargs}


# Opcodes of pickle protocol 3

_HOOKS = ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")


def _write(file: BinaryIO, value: Any, *, module: str = "") -> None:
    """Write the opcodes that put ``value`` on the stack; classes of objects are looked for in ``module``."""
    if isinstance(value, _Object):
        _write_object(file, value, module)
    elif isinstance(value, Tensor):
        (_write_parameter if isinstance(value, nn.Parameter) else _write_tensor)(file, value)
    elif value is None or isinstance(value, bool):
        file.write({None: b"N", True: b"\x88", False: b"\x89"}[value])
    elif isinstance(value, int):
        data = value.to_bytes(9, "little", signed=True)
        file.write(b"\x8a" + bytes([len(data)]) + data)
    elif isinstance(value, float):
        file.write(b"G" + struct.pack(">d", value))
    elif isinstance(value, str):
        data = value.encode()
        file.write(b"X" + struct.pack("<I", len(data)) + data)
    elif isinstance(value, (tuple, list)):
        file.write(b"(" if isinstance(value, tuple) else b"](")
        for item in value:
            _write(file, item, module=module)
        file.write(b"t" if isinstance(value, tuple) else b"e")
    elif isinstance(value, dict):
        file.write(b"}(")
        _write_items(file, value, module)
        file.write(b"u")
    else:
        raise TypeError(f"a {type(value).__name__} cannot be written into a network's pickle")


def _write_items(file: BinaryIO, items: Mapping[str, Any], module: str) -> None:
    for key, item in items.items():
        _write(file, key)
        _write(file, item, module=module)


def _write_ordered(file: BinaryIO, items: Mapping[str, Any], module: str) -> None:
    file.write(b"ccollections\nOrderedDict\n)R(")
    _write_items(file, items, module)
    file.write(b"u")


def _write_object(file: BinaryIO, value: _Object, module: str) -> None:
    file.write(f"c{module}\n{value.name}\n)".encode() + b"\x81}(")
    _write_items(file, {"training": False, **value.attributes, "_is_full_backward_hook": None}, module)
    for key, items in (("_parameters", value.parameters), ("_buffers", value.buffers), ("_modules", value.modules)):
        _write(file, key)
        _write_ordered(file, items, module)
    for key in _HOOKS:
        _write(file, key)
        _write_ordered(file, {}, module)
    _write(file, "_non_persistent_buffers_set")
    file.write(b"cbuiltins\nset\n]\x85R")
    file.write(b"ub")


def _write_parameter(file: BinaryIO, value: Tensor) -> None:
    file.write(b"ctorch._utils\n_rebuild_parameter\n(")
    _write_tensor(file, value.detach())
    file.write(b"\x89")  # requires_grad: False, as in published networks
    _write_ordered(file, {}, "")
    file.write(b"tR")


def _write_tensor(file: BinaryIO, value: Tensor) -> None:
    """A float32 tensor with its own storage, which is embedded as a ``torch.save`` file of the format before 1.6."""
    value = value.detach().to("cpu", torch.float32).contiguous()
    data = value.numpy().tobytes()
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # magic number
    head += b"\x80\x02M\xe9\x03."  # version 1001
    head += b"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian\x88u."
    count = b"J" + struct.pack("<i", value.numel())
    head += b"\x80\x02(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu" + count + b"NtQ."
    head += b"\x80\x02](X\1\0\0\x000e."
    size = len(head) + 8 + len(data)
    file.write(b"ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\n")
    file.write(b"B" + struct.pack("<I", size) + head + struct.pack("<q", value.numel()) + data + b"\x85R")
    _write(file, 0)
    _write(file, tuple(value.shape))
    _write(file, value.stride())
    file.write(b"\x89")
    _write_ordered(file, {}, "")
    file.write(b"tR")

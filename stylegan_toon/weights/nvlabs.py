"""The ``.pkl`` of stylegan2-ada-pytorch and stylegan3: StyleGAN2 networks read without running any of the file.

These files are pickles that contain the source code of their classes; loading them as intended executes it. Here the
pickle is read as data (`pickles`): it holds the state of every module, and the configuration of the network follows
from the shapes of its tensors and the attributes of its modules. Every attribute that our module of the same name also
has must have the same value, or the file is refused.

Also read: one network by itself, ``torch.save`` files of these modules (as PTI writes them), and of state dicts
with these names.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from ..errors import ToonError, short
from ..models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..ops import setup_filter
from .assemble import assemble, infer_channels, members, misfit
from .pickled_tensors import PickleFile, StoredTensor, calls, number, table
from .pickles import PickleError, Record

_MODULES = ("training.networks", "training.networks_stylegan2", "training.networks_stylegan3", "training.augment")
_CLASSES = (
    "Generator", "Discriminator", "MappingNetwork", "SynthesisNetwork", "SynthesisBlock", "SynthesisLayer",
    "ToRGBLayer", "Conv2dLayer", "FullyConnectedLayer", "DiscriminatorBlock", "DiscriminatorEpilogue",
    "MinibatchStdLayer", "SynthesisInput", "AugmentPipe",
)  # fmt: skip
_TENSORFLOW = ("dnnlib.tflib.network", "Network")
ALLOWED = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"),
    ("dnnlib.util", "EasyDict"),
    ("copyreg", "_reconstructor"),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("object", "set")),
    _TENSORFLOW,
    *((module, name) for module in _MODULES for name in _CLASSES),
}
_FAMILY = ("G", "D", "G_ema")
_MAX_DEPTH = 8  # of modules inside modules; the published networks have five levels


@dataclass
class _Module:
    """A module of the file: its tensors and the attributes that are plain values, by dotted names."""

    class_name: str
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)


def networks_of(file: PickleFile, path: Path, which: Collection[str] | None = None) -> dict[str, nn.Module]:
    """Build the networks of a file, in float32 and eval mode, on the CPU.

    Each network carries ``.provenance``: ``format``, ``dropped`` (entries of the file that are not networks),
    ``augment_pipe`` (its settings, if the file has one), and ``notes`` (settings that the file does not hold, for which
    the published values were taken).

    A generator that is alone in its file becomes G_ema.

    Args:
        file: of one of the kinds above, opened with `ALLOWED` or more.
        path: of the file, for messages.
        which: build only these of ``"G"``, ``"D"``, ``"G_ema"``; None = all there are.

    Raises:
        ToonError: what is wrong with the file, in one sentence.
        PickleError: the same, as a clause.
    """
    modules, extra = _modules(file, path)
    if not modules:
        raise ToonError(f"{path} holds no StyleGAN2 generator or discriminator: give another file.")
    networks = {name: _build(file, path, name, modules[name]) for name in members(path, modules, which)}
    for network in networks.values():
        network.provenance |= {"format": "stylegan2-ada-pytorch", **extra}
    return dict(networks)


def _modules(file: PickleFile, path: Path) -> tuple[dict[str, _Module], dict[str, Any]]:
    """The networks of a file by their name in the family, and further entries for their provenance."""
    root = file.root
    parts = root if isinstance(root, (tuple, list)) else (root,)
    if any(calls(part, *_TENSORFLOW) for part in parts):
        raise ToonError(
            f"{path} is a TensorFlow pickle of the first StyleGAN2 repository, which this does not read: "
            "convert it with legacy.py of stylegan2-ada-pytorch, and give the result."
        )
    alone = _module(file, root)
    if alone is not None:
        return {"D" if alone.class_name == "Discriminator" else "G_ema": alone}, {}
    entries = _table(root)
    if entries is None:
        return {}, {}
    if "synthesis.b4.const" in entries or "b4.fc.weight" in entries:
        return {"G_ema" if "synthesis.b4.const" in entries else "D": _from_state_dict(file, entries)}, {}
    modules, extra, dropped = {}, {}, []
    for name, value in entries.items():
        if name in _FAMILY and (module := _module(file, value)) is not None:
            modules[name] = module
        elif name in _FAMILY and (state := _table(value)) is not None:
            modules[name] = _from_state_dict(file, state)
        elif (pipe := _module(file, value)) is not None and pipe.class_name == "AugmentPipe":
            extra["augment_pipe"] = {key: v for key, v in pipe.attributes.items() if type(v) in (int, float) and v}
        elif value is not None:
            dropped.append(short(name))
    if "G" in modules and "G_ema" not in modules:
        modules["G_ema"] = modules.pop("G")
    if dropped:
        extra["dropped"] = dropped
    return modules, extra


def _module(file: PickleFile, value: Any) -> _Module | None:
    """A module of the file, or None if ``value`` is something else."""
    pair = _class_and_state(value)
    if pair is None:
        return None
    top = _Module(pair[0])
    waiting, visited = [("", *pair)], set()
    while waiting:
        prefix, name, state = waiting.pop()
        if id(state) in visited or prefix.count(".") > _MAX_DEPTH:
            raise PickleError("it is damaged: its modules contain each other")
        visited.add(id(state))
        top.classes.add(name)
        for key in ("_parameters", "_buffers"):
            for tensor_name, entry in (_table(state.get(key)) or {}).items():
                if (tensor := file.tensor(entry)) is not None:
                    top.tensors[f"{prefix}{tensor_name}"] = tensor
        for key, entry in state.items():
            plain = number(entry)
            if plain is None or type(plain) in (bool, int, float, str):
                top.attributes[f"{prefix}{key}"] = plain
        for key, entry in (_table(state.get("_modules")) or {}).items():
            if (child := _class_and_state(entry)) is not None:
                waiting.append((f"{prefix}{key}.", *child))
            elif entry is not None:
                raise PickleError("it is damaged: a module is something else")
    return top


def _from_state_dict(file: PickleFile, entries: Mapping[str, Any]) -> _Module:
    tensors = {str(name): tensor for name, entry in entries.items() if (tensor := file.tensor(entry)) is not None}
    return _Module("", tensors)


def _class_and_state(value: Any) -> tuple[str, dict] | None:
    if not isinstance(value, Record):
        return None
    if calls(value, "torch_utils.persistence", "_reconstruct_persistent_obj"):
        meta = value.args[0] if len(value.args) == 1 else None
        if not isinstance(meta, dict) or type(meta.get("class_name")) is not str:
            raise PickleError("it is damaged: a module is malformed")
        name, state = meta["class_name"], meta.get("state")
    elif value.what.module in _MODULES:
        name, state = value.what.name, value.state
    elif calls(value, "copyreg", "_reconstructor") and value.args and getattr(value.args[0], "module", "") in _MODULES:
        name, state = value.args[0].name, value.state
    else:
        return None
    state = _table(state)
    if state is None:
        raise PickleError("it is damaged: a module has no state")
    return name, state


def _table(value: Any) -> dict | None:
    """The entries of a dict, OrderedDict or EasyDict; None for anything else."""
    if isinstance(value, Record) and value.what == ("dnnlib.util", "EasyDict"):
        return value.items
    return table(value)


def _build(file: PickleFile, path: Path, name: str, module: _Module) -> Generator | Discriminator:
    if "SynthesisInput" in module.classes:
        raise ToonError(
            f"{path} holds an alias-free StyleGAN3 generator, which this does not read: give a StyleGAN2 network."
        )
    filters = {key: t for key, t in module.tensors.items() if key.rpartition(".")[2] == "resample_filter"}
    tensors = {key: t for key, t in module.tensors.items() if key not in filters}
    try:
        config = (_discriminator if name == "D" else _generator)(path, tensors, module.attributes)
    except KeyError as error:
        raise misfit(path, "missing", [str(error.args[0])]) from error
    except (IndexError, ValueError) as error:
        raise ToonError(f"{path} describes a network that cannot be built ({error}): give another file.") from error
    taps = _taps(path, file.file, {key: t for key, t in filters.items() if _resamples(key, module)})
    if taps is not None:
        config = dataclasses.replace(config, resample_filter=taps)
    file.check_claims(tensors.values())
    network_class = Discriminator if name == "D" else Generator
    network = assemble(config, network_class, tensors, path, read=lambda tensor: tensor.read(file.file))
    _check_attributes(path, network, module.attributes)
    network.provenance = {} if module.attributes else {"notes": [_ASSUMED]}
    return network


_ASSUMED = "a state dict: activation, clamp and learning rate multiplier were taken to be the published ones"


def _generator(path: Path, tensors: Mapping[str, StoredTensor], attributes: Mapping[str, Any]) -> GeneratorConfig:
    channels = _channels(tensors, r"synthesis\.b(\d+)\.conv1\.weight", dim=0)
    resolution = max(channels)
    channel_base, channel_max = infer_channels(path, channels)
    depth = _depth(tensors)
    w_dim = tensors["synthesis.b4.conv1.affine.weight"].shape[1]
    embed = tensors["mapping.embed.weight"].shape if "mapping.embed.weight" in tensors else (0, 0)
    into = tensors["mapping.fc0.weight"].shape[1] if depth else attributes["z_dim"] + embed[0]
    hidden = tensors["mapping.fc0.weight"].shape[0]
    architecture = "orig"
    if "synthesis.b4.torgb.weight" in tensors:
        architecture = "skip"
    elif "synthesis.b8.skip.weight" in tensors:
        architecture = "resnet"
    return GeneratorConfig(
        resolution=resolution,
        img_channels=tensors[f"synthesis.b{resolution}.torgb.weight"].shape[0],
        z_dim=into - embed[0],
        w_dim=w_dim,
        c_dim=embed[1],
        mapping_layers=depth,
        mapping_features=None if hidden == w_dim else hidden,
        mapping_lr_multiplier=_real(attributes, "mapping.fc0.bias_gain", 0.01),
        w_avg_beta=_real(attributes, "mapping.w_avg_beta", 0.995),
        channel_base=channel_base,
        channel_max=channel_max,
        architecture=architecture,
        num_fp16_res=sum(attributes.get(f"synthesis.b{res}.use_fp16") is True for res in channels),
        conv_clamp=_clamp(attributes, "synthesis.b4.conv1.conv_clamp"),
        use_noise=any(key.endswith(".noise_strength") for key in tensors),
        activation=_activation(attributes, "synthesis.b4.conv1.activation"),
    )


def _discriminator(
    path: Path, tensors: Mapping[str, StoredTensor], attributes: Mapping[str, Any]
) -> DiscriminatorConfig:
    channels = _channels(tensors, r"b(\d+)\.conv0\.weight", dim=1)
    resolution = max(channels)
    channels[4] = tensors["b4.fc.weight"].shape[0]
    channel_base, channel_max = infer_channels(path, channels)
    depth = _depth(tensors)
    architecture = "orig"
    if "b4.fromrgb.weight" in tensors:
        architecture = "skip"
    elif f"b{resolution}.skip.weight" in tensors:
        architecture = "resnet"
    cmap_dim = tensors["b4.out.weight"].shape[0] if "mapping.embed.weight" in tensors else None
    group = attributes.get("b4.mbstd.group_size", 4)
    return DiscriminatorConfig(
        resolution=resolution,
        img_channels=tensors[f"b{resolution}.fromrgb.weight"].shape[1],
        c_dim=tensors["mapping.embed.weight"].shape[1] if cmap_dim is not None else 0,
        channel_base=channel_base,
        channel_max=channel_max,
        architecture=architecture,
        num_fp16_res=sum(attributes.get(f"b{res}.use_fp16") is True for res in channels),
        conv_clamp=_clamp(attributes, "b4.conv.conv_clamp"),
        mbstd_group_size=group if type(group) is int else None,
        mbstd_channels=tensors["b4.conv.weight"].shape[1] - channels[4],
        cmap_dim=None if cmap_dim == channels[4] else cmap_dim,
        mapping_layers=depth if cmap_dim is not None else DiscriminatorConfig.mapping_layers,
        mapping_lr_multiplier=_real(attributes, "mapping.fc0.bias_gain", 0.01),
        activation=_activation(attributes, "b4.conv.activation"),
    )


def _channels(tensors: Mapping[str, StoredTensor], pattern: str, dim: int) -> dict[int, int]:
    """Resolution -> channels, from the shapes of the convolutions."""
    channels = {int(match[1]): tensor.shape[dim] for key, tensor in tensors.items() if (match := _match(pattern, key))}
    if not channels:
        raise ValueError("it has no convolutions")
    if max(channels) > 1 << 14:
        raise ValueError(f"its resolution is {max(channels)}")
    return channels


def _match(pattern: str, key: str) -> re.Match | None:
    return re.fullmatch(pattern, key) if len(key) < 80 else None


def _depth(tensors: Mapping[str, StoredTensor]) -> int:
    return sum(_match(r"mapping\.fc\d+\.weight", key) is not None for key in tensors)


def _real(attributes: Mapping[str, Any], name: str, published: float) -> float:
    value = attributes.get(name, published)
    return float(value) if type(value) in (int, float) and math.isfinite(value) else published


def _clamp(attributes: Mapping[str, Any], name: str) -> float | None:
    value = attributes.get(name)
    return value if type(value) in (int, float) else None


def _activation(attributes: Mapping[str, Any], name: str) -> str:
    value = attributes.get(name, "lrelu")
    return value if type(value) is str else "lrelu"


def _resamples(name: str, module: _Module) -> bool:
    """Whether a filter is in use; layers that keep the resolution also store one."""
    prefix = name.removesuffix("resample_filter")
    factors = [module.attributes.get(f"{prefix}{key}", 1) for key in ("up", "down")]
    return factors != [1, 1] or f"{prefix}weight" not in module.tensors


def _taps(path: Path, file: BinaryIO, filters: Mapping[str, StoredTensor]) -> tuple[float, ...] | None:
    """The taps of the low-pass filters, which must all be the same; None if there are none."""
    first, taps = None, None
    for name, stored in filters.items():
        if math.prod(stored.shape) > 64 * 64 or not stored.shape or not stored.is_floating_point():
            raise misfit(path, "not a filter", [name])
        values = stored.read(file).float()
        if first is None:
            first, taps = values, (1.0, 3.0, 3.0, 1.0)
            if not (values.shape == (4, 4) and setup_filter(taps).equal(values)):
                taps = tuple((values.sum(dim=0) if values.ndim == 2 else values).tolist())
            built = setup_filter(taps)
            if built.shape != values.shape or not torch.allclose(built, values, atol=1e-7):
                raise misfit(path, "a filter that is not separable", [name])
        elif not first.equal(values):
            raise misfit(path, "filters that are not the same everywhere", [name])
    return taps


def _check_attributes(path: Path, network: nn.Module, attributes: Mapping[str, Any]) -> None:
    """Refuse a network that would compute something else than the one in the file."""
    modules = dict(network.named_modules())
    wrong = []
    for name, theirs in attributes.items():
        prefix, _, key = name.rpartition(".")
        same = {"use_fp16": "use_half"}.get(key, key)  # our name of the attribute
        ours = vars(modules[prefix]).get(same, theirs) if prefix in modules else theirs
        if isinstance(ours, (nn.Module, list, tuple)) or key in ("training", "w_avg_beta"):
            continue
        if not (math.isclose(ours, theirs, rel_tol=1e-6) if type(ours) is float is type(theirs) else ours == theirs):
            wrong.append(name)
    if wrong:
        listed = ", ".join(map(short, sorted(wrong)[:5])) + (" and more" if len(wrong) > 5 else "")
        raise ToonError(f"{path} has settings that this package's networks do not know ({listed}): it cannot be used.")

"""The ``.pt`` family of github.com/rosinality/stylegan2-pytorch, read and written.

A file is a dict: ``g_ema``, ``g`` and ``d`` are state dicts, ``latent_avg`` the mean of w; training files add the
optimisers and the command line. Many published networks hold ``g_ema`` alone or are one bare state dict. The networks
are those of this package under other names: architecture "skip" for the generator and "resnet" for the discriminator,
filter [1, 3, 3, 1] (stored beside each layer that uses it), and no tensor differs but by axes of length 1.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ToonError, short
from ..files import atomic_path, refuse_overwrite
from ..models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..ops import setup_filter
from .assemble import assemble, check_tensors, infer_channels, members, misfit, outline
from .mobile import refuse_mobile
from .tensors import PickleFile, StoredTensor, table

ALLOWED = {("argparse", "Namespace")}  # beside tensors: the command line that training files keep
_KEYS = {"G_ema": "g_ema", "G": "g", "D": "d"}  # our name of a network -> theirs
_FILTER = (1, 3, 3, 1)
_W_AVG = "mapping.w_avg"
_SAMPLES = 10_000  # latents whose mean stands in for a missing latent_avg

# What their classes fix: field of our config -> the only value they can hold.
_FIXED: dict[type, dict[str, Any]] = {
    Generator: {
        "c_dim": 0, "img_channels": 3, "architecture": "skip", "resample_filter": _FILTER,
        "use_noise": True, "activation": "lrelu", "mapping_lr_multiplier": 0.01,
    },
    Discriminator: {
        "c_dim": 0, "img_channels": 3, "architecture": "resnet", "resample_filter": _FILTER,
        "activation": "lrelu", "mbstd_group_size": 4, "mbstd_channels": 1,
    },
}  # fmt: skip


def recognises(root: Any) -> bool:
    """Whether a pickle, read as data, is one of this family, judged by the names in it."""
    content = table(root) or {}
    return "input.input" in content or any(key in content for key in _KEYS.values())


def networks_of(file: PickleFile, path: Path, which: Collection[str] | None = None) -> dict[str, nn.Module]:
    """Build the networks of a file that `recognises` says yes to, in float32 and eval mode, on the CPU.

    Size, widths, depth of the mapping network and ``style_dim`` follow from the tensors' shapes. Every tensor of a
    network comes from the file and every tensor of its state dict is used; ``latent_avg`` becomes ``mapping.w_avg`` of
    G and G_ema. Where a file has none, each gets the mean w of its own mapping network over 10,000 latents of a fixed
    seed.

    Each network carries ``.provenance``: ``format`` ("rosinality"), ``dropped`` (entries of the file that are no
    networks) and ``notes`` (sentences on what was worked out or rounded).

    A generator that is alone in its file is G_ema, also where it is called ``g``.

    Args:
        file: opened with `ALLOWED` or more.
        path: where it lies, for messages.
        which: build only these of "G_ema", "G", "D"; None = all.

    Raises:
        ToonError: what is wrong with the file, in one sentence.
        PickleError: the same, as a clause.
    """
    networks = {}
    content, states, dropped = _family(file.root)
    average = file.tensor(content.get("latent_avg"))
    if average is None and content.get("latent_avg") is not None:
        raise misfit(path, "not tensors", ["latent_avg"])
    for name in members(path, states, which):
        tensors = _tensors(file, path, f"{_KEYS[name]} of " if len(states) > 1 else "", states[name])
        networks[name], notes = _built(file, path, name, tensors, average)
        networks[name].provenance = {"format": "rosinality", "dropped": dropped, "notes": notes}
    return networks


def write_networks(path: str | Path, networks: Mapping[str, nn.Module], *, overwrite: bool = False) -> list[str]:
    """Write networks as a ``.pt`` that rosinality's ``generate.py`` and ``train.py --ckpt`` load.

    ``latent_avg`` is the ``w_avg`` of G_ema, or of G where there is no G_ema. With all three networks, training can go
    on there: the file then also holds both optimisers as that repository's defaults make them, without history.

    Args:
        path: usually ends in ``.pt``.
        networks: "G_ema", "G" and "D", or some of them.
        overwrite: replace ``path`` if it exists.

    Returns:
        Sentences on what did not go into the file and on what the scripts there must be told; usually none.

    Raises:
        ToonError: a network has what rosinality's cannot hold, or the file exists or cannot be written.
        ValueError: no network, or one of another name or class.
    """
    path = Path(path)
    refuse_overwrite([path], overwrite)
    refuse_mobile(path, networks)
    notes: list[str] = []
    content: dict[str, Any] = {}
    for name, network in networks.items():
        _check_class(name, network)
        _refuse_config(path, name, network.config)
        content[_KEYS[name]] = _state(network)
        notes += _constants(network.config)
    if not networks:
        raise ValueError("give at least one network to write")
    if len({network.config.resolution for network in networks.values()}) > 1:
        sizes = ", ".join(f"{name} {network.config.resolution} px" for name, network in networks.items())
        raise ToonError(f"{path} can hold only networks of one size, not {sizes}: write them to files of their own.")
    averages = {name: networks[name].mapping.w_avg for name in ("G_ema", "G") if name in networks}
    if averages:
        content["latent_avg"] = _own(next(iter(averages.values())))
    if len(averages) == 2 and not torch.equal(*averages.values()):
        notes.append("The file has one latent_avg, which is G_ema's: w_avg of G is left out.")
    if len(networks) == len(_KEYS):
        content["g_optim"] = _fresh_adam(content["g"], 4)
        content["d_optim"] = _fresh_adam(content["d"], 16)
    else:
        notes.append("train.py --ckpt needs G_ema, G and D: this file serves to generate and to project.")
    # Bytes first, so that a full disk is an OSError of ours to explain and not one of torch's own kind.
    data = io.BytesIO()
    torch.save(content, data)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.getbuffer())
    return list(dict.fromkeys(notes))


# ---------------------------------------------------------------- what a file holds


def _family(root: Any) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The file as a table; our name -> state dict as it stands in it; and the names of what is no network."""
    content = table(root)
    if "input.input" in content:  # a bare state dict
        return content, {"G_ema": content}, []
    states = {name: content[key] for name, key in _KEYS.items() if key in content}
    if "G" in states and "G_ema" not in states:  # as many fine-tuned networks are published
        states["G_ema"] = states.pop("G")
    used = {*_KEYS.values(), "latent_avg"}
    return content, states, [short(key) for key in content if key not in used]


def _tensors(file: PickleFile, path: Path, where: str, state: Any) -> dict[str, StoredTensor]:
    """A state dict, checked to be one."""
    entries = table(state)
    if not entries:
        raise ToonError(f"{path} should hold a state dict of tensors as {where or 'its content'}: get the file again.")
    tensors = {str(name): file.tensor(entry) for name, entry in entries.items()}
    if odd := [name for name, tensor in tensors.items() if tensor is None]:
        raise misfit(path, "not tensors", odd)
    file.check_claims(tensors.values())
    return tensors


def _built(
    file: PickleFile, path: Path, name: str, tensors: dict[str, StoredTensor], average: StoredTensor | None
) -> tuple[nn.Module, list[str]]:
    """One network, and notes on how it came about."""
    cls = Discriminator if name == "D" else Generator
    config = _discriminator_config(path, tensors) if name == "D" else _generator_config(path, tensors)
    names = _table(outline(config, cls, path))
    notes = []
    drawn: dict[str, Tensor] = {}
    if name != "D" and not any(theirs.startswith("noises.") for theirs in tensors):
        random = torch.Generator().manual_seed(0)  # the repository's first version drew its noise for every picture
        for mine in [mine for mine, (theirs, *_) in names.items() if theirs.startswith("noises.")]:
            drawn[mine] = torch.randn(names.pop(mine)[2], generator=random)
        notes.append("No noises in the file: noise_const is drawn with seed 0.")
    kernels = dict(_kernels(config))
    outlines = {theirs: torch.empty(shape, device="meta") for theirs, shape, _ in names.values()}
    check_tensors(path, outlines | kernels, tensors)
    if wrong := [key for key, kernel in kernels.items() if not tensors[key].read(file.file).float().equal(kernel)]:
        raise misfit(path, "not the filter [1, 3, 3, 1]", wrong)
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        notes.append("Stored in float64: rounded to float32.")
    ours: dict[str, Any] = {
        mine: tensors[theirs].with_shape(shape) for mine, (theirs, _, shape) in names.items()
    } | drawn
    if name != "D":
        ours[_W_AVG] = torch.zeros(config.w_dim) if average is None else _latent_avg(path, average, config.w_dim)
    network = assemble(config, cls, ours, path, read=lambda t: t.read(file.file) if isinstance(t, StoredTensor) else t)
    if name != "D" and average is None:
        network.mapping.w_avg.copy_(_mean_w(network))
        notes.append(f"No latent_avg in the file: w_avg is the mean over {_SAMPLES:,} latents of seed 0.")
    return network, notes


def _latent_avg(path: Path, average: StoredTensor, w_dim: int) -> StoredTensor:
    """The stored mean of w, ``[w_dim]`` or ``[1, w_dim]``."""
    if average.shape != (1, w_dim):
        check_tensors(path, {"latent_avg": torch.empty(w_dim, device="meta")}, {"latent_avg": average})
    return average.with_shape((w_dim,))


@torch.no_grad()
def _mean_w(network: Generator) -> Tensor:
    random = torch.Generator().manual_seed(0)
    total = torch.zeros(network.config.w_dim, dtype=torch.float64)
    for z in torch.randn(_SAMPLES, network.config.z_dim, generator=random).split(500):
        total += network.mapping(z)[:, 0].double().sum(0)
    return (total / _SAMPLES).float()


# ---------------------------------------------------------------- configurations from shapes


def _generator_config(path: Path, tensors: Mapping[str, StoredTensor]) -> GeneratorConfig:
    blocks = _count(tensors, "to_rgbs.{}.conv.weight", 0)
    convs = ["input.input", *(f"convs.{2 * i}.conv.weight" for i in range(blocks))]
    widths = {4 << i: _length(path, tensors, name, 1) for i, name in enumerate(convs)}
    base, most = infer_channels(path, widths)
    style_dim = _length(path, tensors, "conv1.conv.modulation.weight", 1)
    return GeneratorConfig(
        resolution=4 << blocks,
        img_channels=_length(path, tensors, "to_rgb1.conv.weight", 1),
        z_dim=style_dim,
        w_dim=style_dim,
        mapping_layers=max(_count(tensors, "style.{}.weight", 1), 1),  # none at all is missing, not a depth
        channel_base=base,
        channel_max=most,
    )


def _discriminator_config(path: Path, tensors: Mapping[str, StoredTensor]) -> DiscriminatorConfig:
    blocks = _count(tensors, "convs.{}.conv1.0.weight", 1)
    convs = ["convs.0.0.weight", *(f"convs.{i}.conv2.1.weight" for i in range(1, blocks + 1))]
    widths = {4 << blocks - i: _length(path, tensors, name, 0) for i, name in enumerate(convs)}
    base, most = infer_channels(path, widths)
    return DiscriminatorConfig(
        resolution=4 << blocks,
        img_channels=_length(path, tensors, "convs.0.0.weight", 1),
        channel_base=base,
        channel_max=most,
    )


def _count(tensors: Mapping[str, StoredTensor], pattern: str, first: int) -> int:
    """How many tensors of a numbered series are there before the first gap."""
    count = 0
    while pattern.format(first + count) in tensors:
        count += 1
    return count


def _length(path: Path, tensors: Mapping[str, StoredTensor], name: str, axis: int) -> int:
    if name not in tensors:
        raise misfit(path, "missing", [name])
    if len(tensors[name].shape) <= axis or tensors[name].shape[axis] == 0:
        raise misfit(path, f"of shape {list(tensors[name].shape)}", [name])
    return tensors[name].shape[axis]


# ---------------------------------------------------------------- names and shapes


def _table(network: nn.Module) -> dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Our tensor name -> (their name, their shape, our shape), for all but ``mapping.w_avg``."""
    names = dict(
        _discriminator_names(network.config) if isinstance(network, Discriminator) else _generator_names(network.config)
    )
    shapes = {mine: tuple(tensor.shape) for mine, tensor in network.state_dict().items() if mine != _W_AVG}
    return {mine: (names[mine], _their_shape(names[mine], shape), shape) for mine, shape in shapes.items()}


def _their_shape(theirs: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Modulated weights, the constant, noise and picture biases carry further axes of length 1."""
    if theirs.startswith("noises."):
        return (1, 1, *shape)
    if theirs.startswith("to_rgb") and theirs.endswith(".bias") and ".conv." not in theirs:
        return (1, *shape, 1, 1)
    if theirs == "input.input" or theirs.endswith((".conv.weight", ".noise.weight")):
        return (1, *shape)
    return shape


def _generator_names(config: GeneratorConfig) -> Iterator[tuple[str, str]]:
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


def _kernels(config: GeneratorConfig | DiscriminatorConfig) -> Iterator[tuple[str, Tensor]]:
    """The filters that lie beside the layers, as tensors; where they upsample, times 4."""
    kernel = setup_filter(_FILTER)
    if isinstance(config, DiscriminatorConfig):
        for i in range(1, len(config.block_resolutions) + 1):
            yield f"convs.{i}.conv2.0.kernel", kernel
            yield f"convs.{i}.skip.0.kernel", kernel
    else:
        for i in range(len(config.block_resolutions) - 1):
            yield f"convs.{2 * i}.conv.blur.kernel", 4 * kernel
            yield f"to_rgbs.{i}.upsample.kernel", 4 * kernel


# ---------------------------------------------------------------- writing


def _check_class(name: str, network: nn.Module) -> None:
    if name not in _KEYS or type(network) is not (Discriminator if name == "D" else Generator):
        raise ValueError(
            f"networks are G_ema and G, generators, and D, a discriminator; not {name}, a {type(network).__name__}"
        )


def _refuse_config(path: Path, name: str, config: GeneratorConfig | DiscriminatorConfig) -> None:
    """Refuse what their classes cannot hold; ``num_fp16_res`` changes speed, not weights."""
    fixed = dict(_FIXED[Generator if isinstance(config, GeneratorConfig) else Discriminator])
    values = dataclasses.asdict(config)
    values["resample_filter"] = tuple(values["resample_filter"])
    if isinstance(config, GeneratorConfig):
        fixed |= {"z_dim": config.w_dim, "mapping_features": config.w_dim}
        values["mapping_features"] = config.mapping_features or config.w_dim
    odd = [f"{field} = {values[field]}" for field, value in fixed.items() if values[field] != value]
    if isinstance(config, GeneratorConfig) and config.mapping_layers < 1:
        odd.append("mapping_layers = 0")
    if odd:
        raise ToonError(
            f"{path} cannot hold {name}, as rosinality's networks have no {', '.join(odd)}: save it as .safetensors."
        )


def _constants(config: GeneratorConfig | DiscriminatorConfig) -> list[str]:
    """What the scripts there must be told or taught before they can load this network."""
    notes = []
    if config.conv_clamp is not None:
        notes.append(
            f"There is no clamp there: activations beyond +-{config.conv_clamp:g}, which hardly occur, will differ."
        )
    widths = {4 << i: config.channels(4 << i) for i in range(config.resolution.bit_length() - 2)}
    one, two = ({res: 512 if res <= 32 else 16384 * m // res for res in widths} for m in (1, 2))
    if widths == one != two:
        notes.append("Say --channel_multiplier 1 there.")
    elif widths != two or config.resolution > 1024:
        listed = ", ".join(f"{res}: {width}" for res, width in widths.items())
        notes.append(f"No --channel_multiplier gives these channels: edit the tables in model.py there to {listed}.")
    if isinstance(config, GeneratorConfig) and (config.mapping_layers, config.w_dim) != (8, 512):
        sizes = f"args.n_mlp = {config.mapping_layers} and args.latent = {config.w_dim}"
        notes.append(f"generate.py and train.py there fix 8 and 512: edit them to {sizes}.")
    return notes


def _state(network: nn.Module) -> dict[str, Tensor]:
    """A network's state dict under their names, in their shapes, with their filters."""
    state = network.state_dict()
    found = {theirs: _own(state[mine].reshape(shape)) for mine, (theirs, shape, _) in _table(network).items()}
    return found | {name: kernel.clone() for name, kernel in _kernels(network.config)}


def _own(tensor: Tensor) -> Tensor:
    """On the CPU, in float32, and alone in its memory: ``torch.save`` stores all of the memory a tensor is part of."""
    tensor = tensor.detach().to("cpu", torch.float32).contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _fresh_adam(state: Mapping[str, Tensor], reg_every: int) -> dict[str, Any]:
    """The state of an optimiser before its first step, with the learning rate and decay train.py there starts with."""
    count = sum(not name.startswith("noises.") and not name.endswith(".kernel") for name in state)
    ratio = reg_every / (reg_every + 1)  # lazy regularisation: StyleGAN2, appendix B
    parameters = [nn.Parameter(torch.empty(0)) for _ in range(count)]
    return torch.optim.Adam(parameters, lr=0.002 * ratio, betas=(0.0, 0.99**ratio)).state_dict()

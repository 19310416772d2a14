"""Writes the ``.pt`` files of github.com/rosinality/stylegan2-pytorch."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ToonError
from ..files import atomic_path, refuse_overwrite
from ..models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from .mobile import refuse_mobile
from .rosinality_names import FILTER, KEYS, filters, tensor_table

# Fields of our config that their classes fix, and the only value of each.
_FIXED: dict[type, dict[str, Any]] = {
    GeneratorConfig: {
        "c_dim": 0, "img_channels": 3, "architecture": "skip", "resample_filter": FILTER,
        "use_noise": True, "activation": "lrelu", "mapping_lr_multiplier": 0.01,
    },
    DiscriminatorConfig: {
        "c_dim": 0, "img_channels": 3, "architecture": "resnet", "resample_filter": FILTER,
        "activation": "lrelu", "mbstd_group_size": 4, "mbstd_channels": 1,
    },
}  # fmt: skip


def write_networks(path: str | Path, networks: Mapping[str, nn.Module], *, overwrite: bool = False) -> list[str]:
    """Write networks as a ``.pt`` that rosinality's ``generate.py`` and ``train.py --ckpt`` load.

    ``latent_avg`` is the ``w_avg`` of G_ema, or of G where there is no G_ema. With all three networks, training can go
    on there: the file then also holds both optimisers as that repository's defaults make them, without history.

    Args:
        path: usually ends in ``.pt``.
        networks: "G_ema", "G" and "D", or some of them.
        overwrite: replace ``path`` if it exists.

    Returns:
        Sentences on what the file cannot hold and on options that the scripts there need; usually none.

    Raises:
        ToonError: a network has what rosinality's cannot hold, or the file exists or cannot be written.
        ValueError: no network, or one of another name or class.
    """
    path = Path(path)
    refuse_overwrite([path], overwrite)
    refuse_mobile(path, networks)
    notes: list[str] = []
    content: dict[str, Any] = {}
    checked = {name: _checked(name, network) for name, network in networks.items()}
    for name, network in checked.items():
        config = _config(path, name, network)
        content[KEYS[name]] = _state(network)
        notes += _differences(config)
    if not networks:
        raise ValueError("give at least one network to write")
    if len({network.config.resolution for network in checked.values()}) > 1:
        sizes = ", ".join(f"{name} {network.config.resolution} px" for name, network in checked.items())
        raise ToonError(f"{path} can hold only networks of one size, not {sizes}: write them to files of their own.")
    averages = [checked[name].mapping.w_avg for name in ("G_ema", "G") if name in networks]
    if averages:
        content["latent_avg"] = _own(averages[0])
    if len(averages) == 2 and not torch.equal(*averages):
        notes.append("The file has one latent_avg, which is G_ema's: w_avg of G is left out.")
    if len(networks) == len(KEYS):
        content["g_optim"] = _fresh_adam(content["g"], 4)
        content["d_optim"] = _fresh_adam(content["d"], 16)
    else:
        notes.append("train.py --ckpt needs G_ema, G and D: this file serves to generate and to project.")
    # Serialised in memory, so that a full disk is an OSError that can be explained and not an error of torch.
    data = io.BytesIO()
    torch.save(content, data)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.getbuffer())
    return list(dict.fromkeys(notes))


def _checked(name: str, network: nn.Module) -> Generator | Discriminator:
    if name in KEYS and isinstance(network, Discriminator if name == "D" else Generator):
        return network
    raise ValueError(
        f"networks are G_ema and G, generators, and D, a discriminator; not {name}, a {type(network).__name__}"
    )


def _config(path: Path, name: str, network: Generator | Discriminator) -> GeneratorConfig | DiscriminatorConfig:
    """The config of a network, if their classes can hold it; ``num_fp16_res`` changes speed, not weights."""
    config = network.config
    assert isinstance(config, (GeneratorConfig, DiscriminatorConfig))  # mobile networks have been refused
    fixed = dict(_FIXED[type(config)])
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
    return config


def _differences(config: GeneratorConfig | DiscriminatorConfig) -> list[str]:
    """Sentences on options and changes that the scripts there need before they can load this network."""
    notes = []
    if config.conv_clamp is not None:
        notes.append(
            f"There is no clamp there: activations beyond +-{config.conv_clamp:g}, which hardly occur, will differ."
        )
    widths = {4 << i: config.channels(4 << i) for i in range(config.resolution.bit_length() - 2)}
    one, two = ({res: 512 if res <= 32 else 16384 * m // res for res in widths} for m in (1, 2))
    if widths == one != two:
        notes.append("Give the scripts there --channel_multiplier 1.")
    elif widths != two or config.resolution > 1024:
        listed = ", ".join(f"{res}: {width}" for res, width in widths.items())
        notes.append(f"No --channel_multiplier gives these channels: edit the tables in model.py there to {listed}.")
    if isinstance(config, GeneratorConfig) and (config.mapping_layers, config.w_dim) != (8, 512):
        sizes = f"args.n_mlp = {config.mapping_layers} and args.latent = {config.w_dim}"
        notes.append(f"generate.py and train.py there fix 8 and 512: edit them to {sizes}.")
    return notes


def _state(network: Generator | Discriminator) -> dict[str, Tensor]:
    """A network's state dict under their names, in their shapes, with their filters."""
    state = network.state_dict()
    tensors = {theirs: _own(state[mine].reshape(shape)) for mine, (theirs, shape, _) in tensor_table(network).items()}
    return tensors | {name: kernel.clone() for name, kernel in filters(network.config)}


def _own(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU with storage of its own, since ``torch.save`` writes the whole storage of a tensor."""
    tensor = tensor.detach().to("cpu", torch.float32).contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _fresh_adam(state: Mapping[str, Tensor], reg_every: int) -> dict[str, Any]:
    """The state of an optimiser before its first step, with the learning rate and decay of train.py there."""
    count = sum(not name.startswith("noises.") and not name.endswith(".kernel") for name in state)
    ratio = reg_every / (reg_every + 1)  # lazy regularisation: StyleGAN2, appendix B
    parameters = [nn.Parameter(torch.empty(0)) for _ in range(count)]
    return torch.optim.Adam(parameters, lr=0.002 * ratio, betas=(0.0, 0.99**ratio)).state_dict()

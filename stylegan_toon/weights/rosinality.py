"""Reads the ``.pt`` files of github.com/rosinality/stylegan2-pytorch.

A file is a dict: ``g_ema``, ``g`` and ``d`` are state dicts, ``latent_avg`` the mean of w; training files add the
optimisers and the command line. Many published networks hold ``g_ema`` alone or are one bare state dict.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ToonError, short
from ..models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from .assemble import assemble, check_tensors, infer_channels, mean_w, members, misfit, outline
from .pickled_tensors import PickleFile, StoredTensor, table
from .rosinality_names import KEYS, W_AVG, filters, tensor_table

ALLOWED = {("argparse", "Namespace")}  # beside tensors: the command line that training files keep
_SAMPLES = 10_000  # latents whose mean replaces a missing latent_avg


def recognises(root: Any) -> bool:
    """Whether a pickle, read as data, is one of this family, judged by the names in it."""
    content = table(root) or {}
    return "input.input" in content or any(key in content for key in KEYS.values())


def networks_of(file: PickleFile, path: Path, which: Collection[str] | None = None) -> dict[str, nn.Module]:
    """Build the networks of a file that `recognises` accepts, in float32 and eval mode, on the CPU.

    Size, widths, depth of the mapping network and ``style_dim`` follow from the tensors' shapes. Every tensor of a
    network comes from the file and every tensor of its state dict is used; ``latent_avg`` becomes ``mapping.w_avg`` of
    G and G_ema. Where a file has none, each gets the mean w of its own mapping network over 10,000 latents of a fixed
    seed.

    Each network carries ``.provenance``: ``format`` ("rosinality"), ``dropped`` (entries of the file that are no
    networks) and ``notes`` (sentences on what was computed or rounded).

    A generator that is alone in its file is G_ema, also where it is called ``g``.

    Args:
        file: opened with `ALLOWED` or more.
        path: of the file, for messages.
        which: build only these of "G_ema", "G", "D"; None = all.

    Raises:
        ToonError: what is wrong with the file, in one sentence.
        PickleError: the same, as a clause.
    """
    networks: dict[str, nn.Module] = {}
    content, states, dropped = _family(file.root)
    average = file.tensor(content.get("latent_avg"))
    if average is None and content.get("latent_avg") is not None:
        raise misfit(path, "not tensors", ["latent_avg"])
    for name in members(path, states, which):
        tensors = _tensors(file, path, f"{KEYS[name]} of " if len(states) > 1 else "", states[name])
        network, notes = _built(file, path, name, tensors, average)
        network.provenance = {"format": "rosinality", "dropped": dropped, "notes": notes}
        networks[name] = network
    return networks


def _family(root: Any) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The entries of a file; our name of a network -> its state dict; and the names of the other entries."""
    content = table(root) or {}
    if "input.input" in content:  # a bare state dict
        return content, {"G_ema": content}, []
    states = {name: content[key] for name, key in KEYS.items() if key in content}
    if "G" in states and "G_ema" not in states:  # many fine-tuned networks are published in this form
        states["G_ema"] = states.pop("G")
    used = {*KEYS.values(), "latent_avg"}
    return content, states, [short(key) for key in content if key not in used]


def _tensors(file: PickleFile, path: Path, where: str, state: Any) -> dict[str, StoredTensor]:
    """The tensors of a state dict by name; raises ToonError if it is none."""
    entries = table(state)
    if not entries:
        raise ToonError(f"{path} should hold a state dict of tensors as {where or 'its content'}: get the file again.")
    return file.tensors({str(name): entry for name, entry in entries.items()}, path)


def _built(
    file: PickleFile, path: Path, name: str, tensors: dict[str, StoredTensor], average: StoredTensor | None
) -> tuple[Generator | Discriminator, list[str]]:
    """One network, and notes on what was computed or rounded."""
    cls = Discriminator if name == "D" else Generator
    config = _discriminator_config(path, tensors) if name == "D" else _generator_config(path, tensors)
    names = tensor_table(outline(config, cls, path))
    notes = []
    drawn: dict[str, Tensor] = {}
    if name != "D" and not any(theirs.startswith("noises.") for theirs in tensors):
        random = torch.Generator().manual_seed(0)  # the repository's first version drew its noise for every picture
        for mine in [mine for mine, (theirs, *_) in names.items() if theirs.startswith("noises.")]:
            drawn[mine] = torch.randn(names.pop(mine)[2], generator=random)
        notes.append("No noises in the file: noise_const is drawn with seed 0.")
    kernels = dict(filters(config))
    outlines = {theirs: torch.empty(shape, device="meta") for theirs, shape, _ in names.values()}
    check_tensors(path, outlines | kernels, tensors)
    if wrong := [key for key, kernel in kernels.items() if not tensors[key].read(file.file).float().equal(kernel)]:
        raise misfit(path, "not the filter [1, 3, 3, 1]", wrong)
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        notes.append("Stored in float64: rounded to float32.")
    ours: dict[str, StoredTensor | Tensor] = {
        mine: tensors[theirs].with_shape(shape) for mine, (theirs, _, shape) in names.items()
    }
    ours |= drawn
    if isinstance(config, GeneratorConfig):
        ours[W_AVG] = torch.zeros(config.w_dim) if average is None else _latent_avg(path, average, config.w_dim)
    network = assemble(config, cls, ours, path, read=lambda t: t if isinstance(t, Tensor) else t.read(file.file))
    if isinstance(network, Generator) and average is None:
        network.mapping.w_avg.copy_(mean_w(network, _SAMPLES, seed=0))
        notes.append(f"No latent_avg in the file: w_avg is the mean over {_SAMPLES:,} latents of seed 0.")
    return network, notes


def _latent_avg(path: Path, average: StoredTensor, w_dim: int) -> StoredTensor:
    """The stored mean of w, ``[w_dim]`` or ``[1, w_dim]``."""
    if average.shape != (1, w_dim):
        check_tensors(path, {"latent_avg": torch.empty(w_dim, device="meta")}, {"latent_avg": average})
    return average.with_shape((w_dim,))


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
        mapping_layers=max(
            _count(tensors, "style.{}.weight", 1), 1
        ),  # without any, the first one is reported as missing
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
    """The number of tensors in a numbered series before the first gap."""
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

"""Layer swapping: one generator out of two (Pinkney and Adler 2020, "Resolution dependent GAN interpolation").

A *share* is how much of a layer comes from the toon: 0 = the base's tensors, 1 = the toon's, between = linear
interpolation. A layer is taken whole: weight, bias, affine (the map from w to style), and of ``conv0`` and
``conv1`` also ``noise_const`` and ``noise_strength``, so that a layer keeps the noise it learned to use. ``mapping``
(with ``w_avg``, the centre of truncation) counts as a layer; it comes from the base unless the swap names it.
"""

from __future__ import annotations

import copy
import itertools
import math
import re

import torch
from torch import Tensor

from ..errors import ToonError
from .stylegan2 import Generator

PRESETS = {"toonify": "-b32", "fine-toon": "b64-"}

# Fields in which two networks must always agree. Sizes of the mapping network count only if it is swapped.
_SHARED = ("resolution", "img_channels", "z_dim", "w_dim", "c_dim")
_ALIKE = ("architecture", "wavelet", "resample_filter", "use_noise", "activation")  # where the family has them


def layer_names(generator: Generator) -> list[str]:
    """Everything that can be swapped: ``mapping``, ``b4.const``, ``b4.conv1``, ``b4.torgb``, ``b8.conv0`` ..."""
    names = ["mapping"]
    for block in generator.synthesis.blocks():
        children = [child for child, _ in block.named_children()]
        if block.resolution == 4 and "const" not in children:  # a bare parameter
            children.insert(0, "const")
        names += [f"b{block.resolution}.{child}" for child in children]
    return names


def parse_swap(text: str, names: list[str], width: float | None = None) -> dict[str, float]:
    """Turn ``b64,b128`` into the toon's share of every layer.

    Args:
        text: items between commas, later ones win; empty = nothing is swapped. An item is a block ``b64``, a range of
            blocks ``b64-`` or ``-b32`` or ``b16-b64`` (ends included), a layer ``b64.conv0``, ``mapping``, ``all``
            (``mapping`` and every block) or a preset: ``toonify`` (``-b32``: the toon's structure in the person's
            colours) and ``fine-toon`` (``b64-``: the reverse). ``ITEM=0.5`` interpolates halfway.
        names: of the layers, from `layer_names`.
        width: smooth the swap over resolutions; see `smooth`. None = hard.

    Returns:
        share in [0, 1] for each of ``names``.

    Raises:
        ToonError: an item that names nothing, a share outside [0, 1], or an impossible width.
    """
    shares = dict.fromkeys(names, 0.0)
    for item in filter(None, (part.strip() for part in text.split(","))):
        target, equals, number = item.partition("=")
        share = _share(number, item) if equals else 1.0
        shares.update(dict.fromkeys(_expand(target.strip(), names), share))
    return shares if width is None else smooth(shares, width)


def _share(number: str, item: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ToonError(f"{item!r} in the swap needs a number from 0 (base) to 1 (toon) after its =.")
    return value


def _expand(target: str, names: list[str]) -> list[str]:
    """The layers an item of the grammar stands for."""
    target = PRESETS.get(target, target)
    if target == "all":
        return names
    if target in names:
        return [target]
    blocks = _blocks(names)
    if target in blocks:
        first, last = target, target
    else:
        match = re.fullmatch(r"(b\d+)?-(b\d+)?", target)
        if match is None or not any(match.groups()):
            raise _unknown(target, names)
        first, last = match[1] or blocks[0], match[2] or blocks[-1]
        for end in (first, last):
            if end not in blocks:
                raise _unknown(end, names)
        if blocks.index(first) > blocks.index(last):
            raise ToonError(f"{target!r} in the swap runs backwards: write {last}-{first}.")
    chosen = set(blocks[blocks.index(first) : blocks.index(last) + 1])
    return [name for name in names if _block_of(name) in chosen]


def _block_of(name: str) -> str:
    return name.partition(".")[0]


def _blocks(names: list[str]) -> list[str]:
    return list(dict.fromkeys(_block_of(name) for name in names if name != "mapping"))


def _unknown(target: str, names: list[str]) -> ToonError:
    blocks = _blocks(names)
    layers = [name for name in names if _block_of(name) == blocks[-1]]
    return ToonError(
        f"{target!r} in the swap is no part of these networks: use {', '.join(blocks)}, a range such as {blocks[-2]}-, "
        f"a layer such as {' or '.join(layers)}, mapping, all, or {' or '.join(PRESETS)}."
    )


def smooth(shares: dict[str, float], width: float) -> dict[str, float]:
    """Soften a swap of whole blocks with the logistic function of resolution.

    The hard shares are a step function of log2 of the resolution, with steps halfway between neighbouring blocks
    and constant beyond both ends. Each step of height h at x = 0 becomes h / (1 + e^(-x / width)), where x is the
    distance from it in octaves: with ``b64-`` and width 1, b64 (x = 0.5) gets 0.62, b32 (x = -0.5) 0.38, b128 0.82.
    Width towards 0 is the hard swap. ``mapping`` has no resolution and is left alone.

    Raises:
        ToonError: a width that is not positive, or a swap of parts of a block.
    """
    if not (math.isfinite(width) and width > 0):
        raise ToonError(f"The width of a smooth swap is a number of octaves above 0, not {width}.")
    hard: dict[str, float] = {}
    for name, share in shares.items():
        if name != "mapping" and hard.setdefault(_block_of(name), share) != share:
            raise ToonError(f"A smooth swap takes whole blocks, not parts of {_block_of(name)}: leave out the width.")
    levels = [(math.log2(int(block[1:])), share) for block, share in hard.items()]
    soft = {}
    for block, (level, _) in zip(hard, levels):
        share = levels[0][1]
        for (below, before), (above, after) in itertools.pairwise(levels):
            x = level - (below + above) / 2
            share += (after - before) * (1 + math.tanh(x / width / 2)) / 2  # the logistic function, without overflow
        soft[block] = min(max(share, 0.0), 1.0)
    return {name: share if name == "mapping" else soft[_block_of(name)] for name, share in shares.items()}


@torch.no_grad()
def swap_layers(
    base: Generator,
    toon: Generator,
    swap: str,
    width: float | None = None,
    *,
    strength: float = 1.0,
    names: tuple[str, str] = ("base", "toon"),
) -> Generator:
    """A new generator: the base with the layers that ``swap`` lists taken from the toon.

    Shares of 0 and 1 copy tensors bit for bit. The result is in eval mode on the base's device; mixed precision
    and clamping are configured as in the base.

    Args:
        base, toon: not changed.
        swap, width: see `parse_swap`.
        strength: factor of all shares, from 0 (the base) to 1 (the swap as it is).
        names: what messages call the two.

    Raises:
        ToonError: the networks do not fit together, or an impossible swap or strength.
    """
    if not 0 <= strength <= 1:
        raise ToonError(f"The strength of a swap is a number from 0 (base) to 1 (toon), not {strength}.")
    shares = {name: strength * share for name, share in parse_swap(swap, layer_names(base), width).items()}
    _refuse_misfits(base, toon, shares, names)
    result = copy.deepcopy(base).eval()
    ours, theirs = result.state_dict(), toon.state_dict()
    for name, tensor in ours.items():
        share = shares[_layer_of(name)]
        if share == 1:
            tensor.copy_(theirs[name])
        elif 0 < share < 1 and not name.endswith(".gain"):
            tensor.lerp_(_at_scale(name, theirs, ours), share)
    return result


def _at_scale(name: str, theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> Tensor:
    """``theirs[name]``, a `Scaled` tensor brought to our scale, so that value * gain is what is interpolated."""
    gain = f"{name.removesuffix('value')}gain"
    tensor = theirs[name].to(ours[name])
    return tensor * (theirs[gain] / ours[gain]) if name.endswith(".value") and gain in theirs else tensor


def _layer_of(tensor_name: str) -> str:
    """``synthesis.b8.conv0.affine.bias`` -> ``b8.conv0``; ``mapping.fc0.weight`` -> ``mapping``."""
    network, *rest = tensor_name.split(".")
    return network if network == "mapping" else ".".join(rest[:2])


def freeze_layers(generator: Generator, layers: str) -> set[str]:
    """Stop training the layers that ``layers`` names in the grammar of a swap (``mapping,b4-b16``).

    Returns:
        their names.

    Raises:
        ToonError: an item that names nothing, or a part of a layer.
    """
    try:
        shares = parse_swap(layers, layer_names(generator))
    except ToonError as error:
        raise ToonError(str(error).replace("in the swap", "among the layers to freeze")) from None
    if halves := [name for name, share in shares.items() if 0 < share < 1]:
        raise ToonError(f"{halves[0]} cannot be frozen in part: leave out its number.")
    frozen = {name for name, share in shares.items() if share}
    for name, parameter in generator.named_parameters():
        if _layer_of(name) in frozen:
            parameter.requires_grad_(False)
    return frozen


def _refuse_misfits(base: Generator, toon: Generator, shares: dict[str, float], names: tuple[str, str]) -> None:
    if type(base.config) is not type(toon.config):
        raise ToonError(
            f"{names[0]} and {names[1]} cannot be blended, they are of different families "
            f"({base.config.architecture} and {toon.config.architecture}): choose two networks of one family."
        )
    fields = [field for field in _SHARED + _ALIKE if hasattr(base.config, field)]
    differing = [field for field in fields if getattr(base.config, field) != getattr(toon.config, field)]
    if shares["mapping"] > 0 and base.config.mapping_lr_multiplier != toon.config.mapping_lr_multiplier:
        differing.append("mapping_lr_multiplier")
    if differing:
        listed = ", ".join(f"{f} ({getattr(base.config, f)} and {getattr(toon.config, f)})" for f in differing)
        raise ToonError(
            f"{names[0]} and {names[1]} cannot be blended, they differ in {listed}: choose two networks of one size, "
            "preferably one fine-tuned from the other."
        )
    ours, theirs = (
        {name: list(tensor.shape) for name, tensor in network.state_dict().items() if shares[_layer_of(name)] > 0}
        for network in (base, toon)
    )
    if ours != theirs:
        odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        sizes = " and ".join(str(side.get(odd[0], "nothing")) for side in (ours, theirs))
        raise ToonError(
            f"{names[0]} and {names[1]} cannot be blended with this swap, their layers differ in width or number "
            f"({odd[0]} is {sizes}): choose two networks of one family."
        )

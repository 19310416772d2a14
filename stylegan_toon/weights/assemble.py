"""A network from a configuration and tensors: every tensor in its place, or a sentence that lists what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ToonError, short
from ..ops import setup_filter


def assemble(
    config: Any,
    network_class: type[nn.Module],
    tensors: Mapping[str, Any],
    path: str | Path,
    read: Callable[[Any], Tensor] = lambda tensor: tensor,
    prefix: str = "",
) -> nn.Module:
    """Build ``network_class(config)`` from exactly these tensors, in its own types and eval mode, on the CPU.

    No initial value is ever computed or kept, and tensors of the right type (float32, but for counters) become the
    network's own without a copy: the network shares their memory.

    Args:
        config: an instance of the network's config dataclass.
        network_class: such as ``Generator``; its only buffers that are not part of its state are
            ``resample_filter``.
        tensors: the names of ``network_class(config).state_dict()`` -> tensors of those shapes, of any
            floating-point type (or integer, where the network has integers), on the CPU, or stand-ins with the same
            ``shape``, ``dtype`` and ``is_floating_point()`` that ``read`` turns into them one by one.
        path: where they come from, for messages.
        read: stand-in -> tensor.
        prefix: stands ahead of the names in messages.

    Raises:
        ToonError: the config cannot be built, or tensors are missing, unknown, or of another shape or type.
    """
    network = outline(config, network_class, path)
    expected = network.state_dict()
    check_tensors(path, expected, tensors, prefix)
    network.load_state_dict(
        {name: _laid_out(read(tensors[name]), wanted) for name, wanted in expected.items()}, assign=True
    )
    for module in network.modules():
        if "resample_filter" in module._buffers:
            module.resample_filter = setup_filter(config.resample_filter)
    return network.eval()


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor`` in the type and with the strides that the network was built with: they choose the algorithms."""
    tensor = tensor.to(like.dtype)
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(tensor)


def members(path: str | Path, there: Collection[str], which: Collection[str] | None) -> list[str]:
    """Names of the networks to build of those in a file: the ones in ``which``, or all.

    Raises:
        ToonError: one that is asked for is not there.
    """
    for name in which or ():
        if name not in there:
            raise ToonError(f"{path} holds no {name}, only {', '.join(there)}: ask for one of those.")
    return [name for name in there if which is None or name in which]


def outline(config: Any, network_class: type[nn.Module], path: str | Path) -> nn.Module:
    """``network_class(config)`` on the meta device, where it takes no memory whatever sizes the config claims.

    Raises:
        ToonError: the config cannot be built.
    """
    try:
        with torch.device("meta"):
            return network_class(config)
    except Exception as error:  # sizes out of range fail in many ways
        raise ToonError(
            f"{path} describes a network that cannot be built ({short(error, 100)}): give another file."
        ) from error


def check_tensors(
    path: str | Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Any], prefix: str = ""
) -> None:
    """Hold tensors, or stand-ins as of `assemble`, against ``expected`` ones, which may be on the meta device.

    Raises:
        ToonError: listing those that are missing, unknown, of another shape, or integers instead of floating-point
            or the other way round; ``prefix`` stands ahead of their names.
    """
    if missing := [prefix + name for name in expected if name not in tensors]:
        raise misfit(path, "missing", missing)
    if unknown := [prefix + name for name in tensors if name not in expected]:
        raise misfit(path, "unknown", unknown)
    for name, wanted in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != tuple(wanted.shape):
            raise misfit(path, f"of shape {list(tensor.shape)} instead of {list(wanted.shape)}", [prefix + name])
        if tensor.is_floating_point() != wanted.is_floating_point():
            raise misfit(path, f"of type {str(tensor.dtype).removeprefix('torch.')}", [prefix + name])


def misfit(path: str | Path, how: str, names: Sequence[str]) -> ToonError:
    """The sentence for tensors that do not fit; ``how`` is such as "missing"."""
    listed = ", ".join(map(short, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return ToonError(f"{path} holds tensors that make no whole network ({how}: {listed}): get the file again.")


def infer_channels(path: str | Path, channels: Mapping[int, int]) -> tuple[int, int]:
    """``channel_base`` and ``channel_max`` of the widths ``{resolution: channels}`` of a network's blocks.

    They are not unique: the smallest base that gives these widths is returned, which is the published one
    whenever that is divisible by the resolutions.

    Raises:
        ToonError: no pair gives these widths.
    """
    channel_max = max(channels.values())
    base = max((res * width for res, width in channels.items()), default=0)
    if any(min(base // res, channel_max) != width for res, width in channels.items()):
        widths = ", ".join(f"b{res} {width}" for res, width in sorted(channels.items()))
        raise ToonError(
            f"{path} has blocks of widths that no channel_base and channel_max give ({widths[:200]}): it is not read."
        )
    return base, channel_max

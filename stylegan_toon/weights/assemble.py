"""Builds a network from a configuration and tensors, or raises a sentence that lists the tensors that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import ToonError, short
from ..models import Generator
from ..ops import setup_filter

Network = TypeVar("Network", bound=nn.Module)


class Stored(Protocol):
    """A tensor that has not been read from its file yet, or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def is_floating_point(self) -> bool: ...


S = TypeVar("S", bound=Stored)


def assemble(
    config: Any,
    network_class: type[Network],
    tensors: Mapping[str, S],
    path: str | Path,
    read: Callable[[S], Tensor],
    prefix: str = "",
) -> Network:
    """Build ``network_class(config)`` from exactly these tensors, in its own types and eval mode, on the CPU.

    No initial values are computed, and tensors of the right type (float32, except counters) become those of the
    network without a copy: the network shares their memory.

    Args:
        config: an instance of the network's config dataclass.
        network_class: such as ``Generator``; its only buffers that are not part of its state are
            ``resample_filter``.
        tensors: the names of ``network_class(config).state_dict()`` -> tensors, read or not, of those shapes and of
            any floating-point type (or integer, where the network has integers).
        path: where they come from, for messages.
        read: gives the tensor, on the CPU; called for one after the other.
        prefix: put before the names in messages.

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
            module._buffers["resample_filter"] = setup_filter(config.resample_filter)
    return network.eval()


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor`` with the type and strides of the network's own, on which the choice of kernels depends."""
    tensor = tensor.to(like.dtype)
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(tensor)


@torch.no_grad()
def mean_w(network: Generator, samples: int, seed: int) -> Tensor:
    """The mean of w over latents of a fixed seed, ``[w_dim]`` on the CPU, for files that do not hold ``w_avg``."""
    total = torch.zeros(network.config.w_dim, dtype=torch.float64)
    for z in torch.randn(samples, network.config.z_dim, generator=torch.Generator().manual_seed(seed)).split(500):
        total += network.mapping(z)[:, 0].double().sum(0)
    return (total / samples).float()


def members(path: str | Path, names: Collection[str], which: Collection[str] | None) -> list[str]:
    """Those of the networks ``names`` of a file to build: the ones in ``which``; None = all.

    Raises:
        ToonError: the file does not hold one that is asked for.
    """
    for name in which or ():
        if name not in names:
            raise ToonError(f"{path} holds no {name}, only {', '.join(names)}: ask for one of those.")
    return [name for name in names if which is None or name in which]


def outline(config: Any, network_class: type[Network], path: str | Path) -> Network:
    """``network_class(config)`` on the meta device, where it takes no memory whatever sizes the config claims.

    Raises:
        ToonError: the config cannot be built.
    """
    try:
        with torch.device("meta"), _NoValues():
            return network_class(config)
    except Exception as error:  # sizes out of range fail in many ways
        raise ToonError(
            f"{path} describes a network that cannot be built ({short(error, 100)}): give another file."
        ) from error


class _NoValues(TorchFunctionMode):
    """Leaves out the initial values of a network that is built on the meta device.

    PyTorch does random numbers and arithmetic there in Python, and imports torch._dynamo and sympy for it: seconds of
    every command.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return torch.empty(*args, **(kwargs or {}))
        if func in _RANDOM and args[0].is_meta:
            return args[0]
        if func in _SCALED and args[0].is_meta and isinstance(args[1], (int, float)):
            return args[0].detach()
        return func(*args, **(kwargs or {}))


_RANDOM = (Tensor.uniform_, Tensor.normal_)
_SCALED = (Tensor.mul, Tensor.__mul__, Tensor.div, Tensor.__truediv__)


def check_tensors(
    path: str | Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Stored], prefix: str = ""
) -> None:
    """Compare the names, shapes and types of tensors with ``expected`` ones, which may be on the meta device.

    Raises:
        ToonError: listing those that are missing, unknown, of another shape, or integers instead of floating-point
            numbers or the other way round; ``prefix`` is put before their names.
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

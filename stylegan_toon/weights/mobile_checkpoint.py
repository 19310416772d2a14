"""Checkpoints of github.com/bes-dev/MobileStyleGAN.pytorch, read as data.

A file is a pytorch-lightning checkpoint of a distillation (the state dict lies under ``state_dict``) or a plain state
dict. ``student.`` is the synthesis network, ``mapping_net.`` the mapping network and ``style_mean`` the mean of w; the
rest (teacher, losses, optimisers) is left out. The network is that of `models.mobile` but for constant factors:

* styles are multiplied by ``1 / sqrt(fan in)``;
* a convolution's output is divided by the norm of its weight under a style that was fixed when training began
  (``style_inv``); the weight can be divided instead;
* the mapping network's tensors are kept as StyleGAN2 keeps them, 100 times too large.

They are multiplied in here in float64. At every size there is a head of Haar bands, whose low band is twice the
picture of the size of its features: the last one stays, of the others from 64 px on the low band becomes ``torgb``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ToonError, short
from ..models.mobile import SMALLEST_HEAD
from .assemble import members, misfit
from .mobile import mobile_generator
from .pickled_tensors import PickleFile, table

_LIGHTNING = "pytorch_lightning"
ALLOWED = {  # beside tensors: classes in which lightning keeps callbacks and settings
    (f"{_LIGHTNING}.callbacks.model_checkpoint", "ModelCheckpoint"),
    (f"{_LIGHTNING}.callbacks.early_stopping", "EarlyStopping"),
    (f"{_LIGHTNING}.callbacks.lr_monitor", "LearningRateMonitor"),
    (f"{_LIGHTNING}.utilities.parsing", "AttributeDict"),
    ("addict.addict", "Dict"),
}
_NETWORKS = ("student", "mapping_net")
_LR_MULTIPLIER = 0.01  # of the mapping network
_EPSILON = 1e-8  # under the root of the demodulation


def recognises(root: Any) -> bool:
    """Whether a pickle, read as data, is one of these, judged by the names in it."""
    return "student.input.input" in _state(root)


def networks_of(file: PickleFile, path: Path, which: Collection[str] | None = None) -> dict[str, nn.Module]:
    """Build the network of a file that `recognises` accepts, as ``G_ema``, in float32 and eval mode, on the CPU.

    It carries ``.provenance``: ``format`` ("mobilestylegan"), ``dropped`` (entries that are no part of it) and
    ``notes`` (sentences on what was computed because the file does not hold it).

    Args:
        file: opened with `ALLOWED` or more.
        path: of the file, for messages.
        which: "G_ema" or nothing else; None = all.

    Raises:
        ToonError: what is wrong with the file, in one sentence.
        PickleError: the same, as a clause.
    """
    if not members(path, ["G_ema"], which):
        return {}
    state = _state(file.root)
    entries = {name: value for name, value in state.items() if name.partition(".")[0] in _NETWORKS}
    mean = file.tensor(state.get("style_mean"))
    stored = file.tensors(entries, path, [] if mean is None else [mean])
    reader = _Reader(path, {name: tensor.read(file.file) for name, tensor in stored.items()})
    tensors = reader.tensors()
    if mean is not None:
        if not mean.shape or mean.shape[-1] == 0:
            raise misfit(path, f"of shape {list(mean.shape)}", ["style_mean"])
        tensors["w_avg"] = mean.read(file.file).reshape(-1, mean.shape[-1])[0]
    network, notes = mobile_generator(path, tensors)
    outside = [str(name) for name in table(file.root) or {} if name not in state]
    others = dict.fromkeys([*(name.partition(".")[0] for name in state), *outside])
    dropped = [short(name) for name in others if name not in (*_NETWORKS, "style_mean", "state_dict")]
    network.provenance = {"format": "mobilestylegan", "dropped": dropped, "notes": reader.notes + notes}
    return {"G_ema": network}


def _state(root: Any) -> dict[str, Any]:
    """The state dict of a file; networks in dicts of their own get their names ahead of the tensors'."""
    content = table(root) or {}
    state = table(content.get("state_dict")) or content
    flat: dict[str, Any] = {}
    for key, value in state.items():
        inner = table(value) if key in _NETWORKS else None
        flat |= {str(key): value} if inner is None else {f"{key}.{name}": entry for name, entry in inner.items()}
    return flat


class _Reader:
    """Turns the tensors of a file into those of `mobile_generator`; each may be used once."""

    def __init__(self, path: Path, tensors: dict[str, Tensor]) -> None:
        self.path, self.rest = path, tensors
        self.notes: list[str] = []
        self._random = torch.Generator().manual_seed(0)
        self._drawn = False

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor in float64. -1 in ``shape`` stands for any length from 1 up."""
        if name not in self.rest:
            raise misfit(self.path, "missing", [name])
        tensor = self.rest.pop(name)
        fits = (have == want or (want < 0 < have) for have, want in zip(tensor.shape, shape))
        if tensor.ndim != len(shape) or not all(fits):
            wanted = ["any" if length < 0 else length for length in shape]
            raise misfit(self.path, f"of shape {list(tensor.shape)} instead of {wanted}".replace("'", ""), [name])
        if not tensor.is_floating_point():
            raise misfit(self.path, f"of type {str(tensor.dtype).removeprefix('torch.')}", [name])
        return tensor.double()

    def tensors(self) -> dict[str, Tensor]:
        tensors = self.mapping()
        const = self.take("student.input.input", 1, -1, 4, 4)[0]
        tensors["const"] = const
        tensors |= self.layer("student.conv1", "b4.conv1", len(const), 4, dense=True)
        self.head("student.to_img1", "", len(const), None)
        width, index, side = len(const), 0, 4
        while f"student.layers.{index}.up.modulation.weight" in self.rest:
            side *= 2
            theirs, ours = f"student.layers.{index}", f"b{side}"
            tensors |= self.linear(f"{theirs}.up.modulation", f"{ours}.up.mod", width, 1.0)
            self.filters(f"{theirs}.up.idwt")
            tensors |= self.layer(f"{theirs}.conv1", f"{ours}.conv0", width // 4, side)
            width = len(tensors[f"{ours}.conv0.pw"])
            tensors |= self.layer(f"{theirs}.conv2", f"{ours}.conv1", width, side)
            index += 1
            last = f"student.layers.{index}.up.modulation.weight" not in self.rest
            name = f"b{2 * side}.torgb" if last else f"{ours}.torgb"
            tensors |= self.head(f"{theirs}.to_img", name, width, None if side < SMALLEST_HEAD and not last else last)
        self.filters("student.idwt")
        self.rest.pop("student.device_info", None)
        if index == 0:
            raise misfit(self.path, "missing", ["student.layers.0.up.modulation.weight"])
        if self.rest:
            raise misfit(self.path, "unknown", list(self.rest))
        if self._drawn:
            self.notes.append("No noise maps in the file: noise_const is drawn with seed 0.")
        return tensors

    def mapping(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        index = 0
        while (name := f"mapping_net.layers.{index + 1}") + ".weight" in self.rest:
            weight = self.take(f"{name}.weight", -1, -1)
            tensors[f"map.{index}.w"] = weight * (_LR_MULTIPLIER / math.sqrt(weight.shape[1]))
            tensors[f"map.{index}.b"] = self.take(f"{name}.bias", len(weight)) * _LR_MULTIPLIER
            index += 1
        if not tensors:
            raise ToonError(
                f"{self.path} holds no mapping network (mapping_net): give the checkpoint of the whole distillation."
            )
        return tensors

    def linear(self, theirs: str, ours: str, width: int, scale: float) -> dict[str, Tensor]:
        weight, bias = self.take(f"{theirs}.weight", width, -1), self.take(f"{theirs}.bias", width)
        return {f"{ours}.w": weight * scale, f"{ours}.b": bias * scale}

    def layer(self, theirs: str, ours: str, width: int, side: int, dense: bool = False) -> dict[str, Tensor]:
        """A convolution with noise and bias, for ``width`` input channels."""
        conv, scale = f"{theirs}.conv", 1 / math.sqrt(9 * width)
        tensors = self.linear(f"{conv}.modulation", f"{ours}.mod", width, scale)
        style = scale * self.take(f"{conv}.style_inv", 1, 1, width, 1, 1)[0]
        if dense:
            weight = self.take(f"{conv}.weight", -1, width, 3, 3)
            tensors[f"{ours}.w"] = weight * _demodulation(weight, style)
        else:
            depthwise = self.take(f"{conv}.weight_dw", width, 1, 3, 3)
            pointwise = self.take(f"{conv}.weight_permute", -1, width, 1, 1)
            # The norm of the 3x3 convolution that both together are.
            energy = depthwise.square().sum(dim=(1, 2, 3)).sqrt()[None, :, None, None]
            tensors |= {f"{ours}.dw": depthwise, f"{ours}.pw": pointwise * _demodulation(pointwise * energy, style)}
        out = len(tensors[f"{ours}.w" if dense else f"{ours}.pw"])
        tensors[f"{ours}.bias"] = self.take(f"{theirs}.bias", 1, out, 1, 1).flatten()
        tensors[f"{ours}.noise"] = self.noise(theirs, side) * self.take(f"{theirs}.noise.weight", 1)
        return tensors

    def noise(self, theirs: str, side: int) -> Tensor:
        if f"{theirs}.noise.noise" in self.rest:
            return self.take(f"{theirs}.noise.noise", 1, 1, side, side)[0, 0]
        if side**2 > 4 * sum(tensor.numel() for tensor in self.rest.values()) + (1 << 20):
            raise misfit(self.path, "too few", [theirs])  # a small file could claim huge noise maps
        self._drawn = True
        noise = torch.randn(side, side, generator=self._random, dtype=torch.float64)
        return noise / noise.square().mean().sqrt()

    def head(self, theirs: str, ours: str, width: int, whole: bool | None) -> dict[str, Tensor]:
        """A head of Haar bands: all of them if ``whole``, else half the low band; None = nothing."""
        tensors = self.linear(f"{theirs}.conv.modulation", f"{ours}.mod", width, 1 / math.sqrt(width))
        weight, bias = self.take(f"{theirs}.conv.weight", 12, width, 1, 1), self.take(f"{theirs}.bias", 1, 12, 1, 1)
        bands, share = (12, 1.0) if whole else (3, 0.5)
        tensors |= {f"{ours}.w": weight[:bands] * share, f"{ours}.bias": bias.flatten()[:bands] * share}
        return {} if whole is None else tensors

    def filters(self, theirs: str) -> None:
        """The wavelet's filters, which must be Haar's."""
        for name, sign in (("g0_col", 1.0), ("g1_col", -1.0), ("g0_row", 1.0), ("g1_row", -1.0)):
            if f"{theirs}.{name}" in self.rest:
                taps = self.take(f"{theirs}.{name}", *((1, 1, 2, 1) if name.endswith("col") else (1, 1, 1, 2)))
                if not torch.allclose(taps.flatten() * math.sqrt(2), torch.tensor([1.0, sign]).double(), atol=1e-5):
                    raise misfit(self.path, "not the filter of Haar", [f"{theirs}.{name}"])


def _demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """``[out, 1, 1, 1]``: one over the norm of ``weight [out, in, h, w]`` scaled by ``style [1, in, 1, 1]``."""
    return ((style * weight).square().sum(dim=(1, 2, 3), keepdim=True) + _EPSILON).rsqrt()

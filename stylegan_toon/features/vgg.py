"""The first three stages of VGG16, which ship: features for comparing pictures without a download."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ToonError
from ..models.padded import zero_conv3x3
from ..weights.shipped import shipped_network

STAGES = (("conv1_1", "conv1_2"), ("conv2_1", "conv2_2"), ("conv3_1", "conv3_2", "conv3_3"))
_WIDTHS = (64, 128, 256)
_MEAN_BGR = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class VggConfig:
    """This network has no options."""


class Vgg16(nn.Module):
    """The first three stages of VGG16 (Simonyan and Zisserman 2014), Caffe convention: BGR, 0..255 minus the mean."""

    def __init__(self, config: VggConfig) -> None:
        super().__init__()
        self.config = config
        width = 3
        for names, wider in zip(STAGES, _WIDTHS):
            for name in names:
                setattr(self, name, nn.Conv2d(width, wider, 3, padding=1))
                width = wider

    def forward(self, img: Tensor, stages: int = 3) -> list[Tensor]:
        """``[N, 3, H, W]`` in [-1, 1] -> activations of the first stages before pooling: relu1_2, 2_2, 3_3."""
        x = (img.flip(1) + 1) * 127.5 - img.new_tensor(_MEAN_BGR)[:, None, None]
        x = x.contiguous(memory_format=torch.channels_last)
        activations = []
        for names in STAGES[:stages]:
            if activations:
                x = F.max_pool2d(x, 2)
            for name in names:
                layer = getattr(self, name)
                x = F.relu(zero_conv3x3(x, layer.weight, layer.bias, keep=True))
            activations.append(x)
        return activations


@lru_cache(maxsize=2)
def vgg16(path: str | Path | None = None) -> Vgg16:
    """The network that ships, or one out of an ``.npz`` with ``convI_J.weight`` and ``convI_J.bias``; frozen.

    Raises:
        ToonError: the file is missing or holds something else.
    """
    network = shipped_network("vgg16", Vgg16) if path is None else _from_table(Path(path))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _from_table(path: Path) -> Vgg16:
    network = Vgg16(VggConfig())
    try:
        with np.load(path, allow_pickle=False) as table:
            state = {name: torch.from_numpy(table[name].astype(np.float32)) for name in network.state_dict()}
        network.load_state_dict(state)
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise ToonError(
            f"{path} does not hold VGG16 weights (an npz of convI_J.weight, convI_J.bias): check the path."
        ) from error
    return network


class VggLoss(nn.Module):
    """Mean absolute difference of the features of VGG16's first three stages, each in units of its target's mean.

    Sizes are compared, not directions as in LPIPS: drawings are mostly flat, and in flat areas the direction of a
    feature is that of the faintest texture, which would dominate the loss.

    Args:
        path: see `vgg16`.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__()
        self.network = vgg16(path)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of two batches ``[N, 3, H, W]`` in [-1, 1], a scalar; no gradient reaches ``b``."""
        with torch.no_grad():
            wanted = self.network(b)
        parts = [(x - y).abs().mean() / (y.mean() + 1e-6) for x, y in zip(self.network(a), wanted)]
        return torch.stack(parts).mean()

"""A small perceptual loss from VGG16 weights in an ``.npz``, for trainings without a connection."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ToonError
from ..nn.padded import zero_conv3x3

_BLOCKS = (("conv1_1", "conv1_2"), ("conv2_1", "conv2_2"), ("conv3_1", "conv3_2", "conv3_3"))
_MEAN_BGR = (103.939, 116.779, 123.68)


class VggLoss(nn.Module):
    """Mean squared distance of channel-normalised features after each of VGG16's first three stages.

    The comparison of LPIPS (Zhang et al. 2018, equation 1) without its learned weights; a training loss, not LPIPS.

    Args:
        path: ``.npz`` with ``convI_J.weight`` and ``convI_J.bias`` for conv1_1 … conv3_3, Caffe convention
            (BGR, 0..255 minus the mean).

    Raises:
        ToonError: the file is missing or holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        try:
            with np.load(path, allow_pickle=False) as table:
                for name in (name for block in _BLOCKS for name in block):
                    for part in ("weight", "bias"):
                        tensor = torch.from_numpy(table[f"{name}.{part}"].astype(np.float32))
                        if part == "weight":
                            tensor = tensor.contiguous(memory_format=torch.channels_last)
                        self.register_buffer(f"{name}_{part}", tensor, persistent=False)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ToonError(
                f"{path} does not hold VGG16 weights (an npz of convI_J.weight, convI_J.bias): check the path."
            ) from error
        self.register_buffer("mean", torch.tensor(_MEAN_BGR)[:, None, None], persistent=False)

    def features(self, img: Tensor) -> list[Tensor]:
        """``[N, 3, H, W]`` in [-1, 1] -> normalised features of three stages."""
        x = (img.flip(1) + 1) * 127.5 - self.mean
        x = x.contiguous(memory_format=torch.channels_last)
        found = []
        for block in _BLOCKS:
            if found:
                x = F.max_pool2d(x, 2)
            for name in block:
                weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
                x = F.relu(zero_conv3x3(x, weight, bias, keep=True))
            found.append(x / (x.square().sum(dim=1, keepdim=True) + 1e-4).sqrt())
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of two batches ``[N, 3, H, W]`` in [-1, 1], a scalar; no gradient reaches ``b``."""
        with torch.no_grad():
            wanted = self.features(b)
        return sum((x - y).square().sum(dim=1).mean() for x, y in zip(self.features(a), wanted))

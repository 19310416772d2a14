"""The feature networks in which content and style are compared.

Published is VGG19's conv4_4 before its activation. Where torchvision's weights are not available, VGG16 replaces it:
conv4_3 from a file, or conv3_3 of the shipped weights.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_toon.errors import ToonError
from stylegan_toon.features.hub import Unavailable, hub_file, load_state
from stylegan_toon.features.vgg import STAGES
from stylegan_toon.features.vgg import vgg16 as shipped_vgg16
from stylegan_toon.models.padded import zero_conv3x3

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# Features of different networks differ by orders of magnitude, and the Gram matrix squares that. All are scaled to this
# mean absolute value on photos, for which the published loss weights are balanced.
LEVEL = 100.0
CAFFE = ([103.939, 116.779, 123.68], [1.0, 1.0, 1.0])  # mean and deviation of VGG16's input


class Features(nn.Module, ABC):
    """Deep features, scaled to the same mean absolute value for every network.

    Attributes:
        name: which network and which layer.
    """

    name: str
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    @abstractmethod
    def raw(self, img: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [-1, 1] -> ``[N, C, h, w]``, not scaled."""

    def forward(self, img: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [-1, 1] -> ``[N, C, h, w]``, scaled."""
        return self.raw(img) * self.scale

    @torch.no_grad()
    def calibrate(self, photos: Tensor) -> None:
        """Set the scale from photos ``[N, 3, H, W]`` in [-1, 1]; the same photos give the same scale."""
        self.scale.copy_(LEVEL / self.raw(photos).abs().mean())


class Vgg(Features):
    """The output of the last given convolution of a VGG, before its activation.

    Args:
        name: of network and layer.
        stages: weight and bias of every convolution, stage by stage.
        mean, std: ``[3]`` each, of the input in 0..255, in the order of its channels.
        bgr: the first convolution takes blue first.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, stages: list[list[tuple[Tensor, Tensor]]], mean: list[float], std: list[float], bgr: bool
    ) -> None:
        super().__init__()
        self.name, self.bgr = name, bgr
        self.depths = [len(stage) for stage in stages]
        for i, stage in enumerate(stages):
            for j, (weight, bias) in enumerate(stage):
                self.register_buffer(f"weight{i}{j}", weight.float().contiguous(memory_format=torch.channels_last))
                self.register_buffer(f"bias{i}{j}", bias.float())
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def raw(self, img: Tensor) -> Tensor:
        x = (((img.flip(1) if self.bgr else img) + 1) * 127.5 - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                if j:
                    x = F.relu(x)
                elif i:
                    x = F.max_pool2d(F.relu(x), 2)
                weight, bias = getattr(self, f"weight{i}{j}"), getattr(self, f"bias{i}{j}")
                x = zero_conv3x3(x, weight, bias, keep=True)
        return x


def vgg19(path: Path) -> Vgg:
    """VGG19's conv4_4 of torchvision's file. Raises Unavailable if it is damaged or another file."""
    from torchvision.models.vgg import cfgs

    state, stages, index = load_state(path), [[]], 0
    try:
        for width in cfgs["E"]:
            if width == "M":
                stages.append([])
                index += 1
                continue
            stages[-1].append((state[f"features.{index}.weight"], state[f"features.{index}.bias"]))
            index += 2
    except KeyError as error:
        raise Unavailable(f"{path} does not hold torchvision's VGG19") from error
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    return Vgg("vgg19 conv4_4", stages[:4], mean, std, bgr=False)


def vgg16_shipped() -> Vgg:
    """VGG16's conv3_3 of the weights that ship. Raises ToonError if they are missing."""
    network = shipped_vgg16()
    tensors = network.state_dict()
    stages = [[(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names] for names in STAGES]
    return Vgg("vgg16 conv3_3", stages, *CAFFE, bgr=True)


def vgg16(path: Path) -> Vgg:
    """VGG16's conv4_3 of an ``.npz`` in Caffe's convention, ``convI_J.weight`` and ``convI_J.bias``.

    Raises:
        ToonError: it is missing or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as table:
            names = sorted(name[:-7] for name in table.files if re.fullmatch(r"conv[1-4]_[1-4]\.weight", name))
            stages: list[list[tuple[Tensor, Tensor]]] = [[], [], [], []]
            for name in names:
                weight, bias = (torch.from_numpy(table[f"{name}.{part}"]) for part in ("weight", "bias"))
                stages[int(name[4]) - 1].append((weight, bias))
        extractor = Vgg(f"{path.stem} {names[-1]}", stages, *CAFFE, bgr=True)
        extractor.raw(torch.zeros(1, 3, 16, 16))  # fails if the layers do not fit together
    except (OSError, KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
        raise ToonError(f"{path} does not hold VGG16 weights (conv1_1.weight … conv4_3.bias): {error}.") from error
    return extractor


def features(choice: str = "auto", *, say: Callable[[str], object] = lambda line: None) -> Features:
    """The feature network to use: frozen, in eval mode, on the CPU, not calibrated yet.

    Args:
        choice: "vgg19"; "vgg16", which ships; "auto" = VGG19 where its weights are cached or can be downloaded within
            two minutes, else VGG16; a path: a ``.pth`` with torchvision's VGG19, or an ``.npz`` with VGG16.
        say: gets one line on what "auto" chose and why, when that is not VGG19.

    Raises:
        ToonError: what was asked for is not available.
    """
    if choice.endswith(".npz"):
        extractor: Features = vgg16(Path(choice))
    elif choice in ("auto", "vgg19") or choice.endswith(".pth"):
        try:
            extractor = vgg19(
                Path(choice) if choice.endswith(".pth") else hub_file(VGG19_URL, sha256_prefix="dcbb9e9d")
            )
        except Unavailable as error:
            if choice != "auto":
                raise ToonError(f"VGG19 is not available ({error}): take --features vgg16 or a file.") from error
            say(f"VGG19 is not available ({error}): using VGG16, which ships.")
            return features("vgg16")
    elif choice == "vgg16":
        extractor = vgg16_shipped()
    else:
        raise ToonError(f"There are no features {choice!r}: take auto, vgg19, vgg16, a .pth or an .npz file.")
    return extractor.eval().requires_grad_(False)

"""Perceptual distance: how different two pictures look, from the features of a network.

The construction is that of LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", arXiv 1801.03924), by default on a network that ships; the backbone of LPIPS itself must be downloaded.
Distances of different networks are on different scales, so results carry the network's ``name``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import Discriminator
from ..weights import load_network
from .choose import choose
from .hub import Unavailable, hub_file, load_state
from .vgg import vgg16

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
VGG16_TAPS = (3, 8, 15, 22, 29)  # the ReLUs relu1_2, relu2_2, relu3_3, relu4_3, relu5_3


class Perceptual(nn.Module, ABC):
    """Maps a picture to a vector; squared distance between two vectors is the perceptual distance.

    Every layer's activations are scaled to unit length at each position and averaged over positions, so that
    layers and sizes count alike (LPIPS, equation 1). Since the measure is a squared distance of vectors, a fixed
    target is embedded once.

    Attributes:
        name: "vgg16", "lpips-vgg" or "discriminator": which network is behind it.
    """

    name: str

    @abstractmethod
    def layers(self, img: Tensor) -> list[tuple[Tensor, Tensor | float]]:
        """Activations ``[N, C, H, W]``, each with its weight: one number, or one per channel ``[C, 1, 1]``."""

    def forward(self, img: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [-1, 1] -> ``[N, F]``; F depends on the size of the picture."""
        parts = []
        for x, weight in self.layers(img.float()):
            length = (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()  # never 0: its gradient stays finite
            share = weight / (x.shape[2] * x.shape[3])
            parts.append((x / length * share**0.5).flatten(1))
        return torch.cat(parts, dim=1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of pictures ``[N, 3, H, W]`` in [-1, 1] to pictures of the same size: ``[N]``, 0 = equal."""
        return (self(a) - self(b)).square().sum(dim=1)


class LPIPS(Perceptual):
    """LPIPS with the VGG16 backbone and the linear heads of the ``lpips`` package (version 0.1).

    Equal to ``lpips.LPIPS(net="vgg")`` on pictures up to ``max_size`` pixels; larger ones are reduced first,
    as StyleGAN2's projector does.

    Args:
        vgg16: state of torchvision's VGG16 (only its ``features.*`` are used).
        heads: state of the linear heads, ``lin{0..4}.model.1.weight``.
    """

    name = "lpips-vgg"
    mean: Tensor
    std: Tensor

    def __init__(self, vgg16: dict[str, Tensor], heads: dict[str, Tensor], max_size: int = 256) -> None:
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        self.max_size = max_size
        self.trunk = make_layers(cfgs["D"])[: VGG16_TAPS[-1] + 1]
        state = {key.removeprefix("features."): v for key, v in vgg16.items() if key.startswith("features.")}
        self.trunk.load_state_dict({key: v for key, v in state.items() if int(key.split(".")[0]) <= VGG16_TAPS[-1]})
        for layer in self.trunk:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # later layers must not overwrite an activation that is returned
        for i in range(len(VGG16_TAPS)):
            self.register_buffer(f"head{i}", heads[f"lin{i}.model.1.weight"].reshape(-1, 1, 1).clamp(min=0))
        # ImageNet's mean and deviation for pictures in [-1, 1].
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).reshape(3, 1, 1))

    def layers(self, img: Tensor) -> list[tuple[Tensor, Tensor | float]]:
        if max(img.shape[2:]) > self.max_size:
            img = F.interpolate(img, size=(self.max_size, self.max_size), mode="area")
        x = (img.expand(-1, 3, -1, -1) - self.mean) / self.std
        activations = []
        for i, layer in enumerate(self.trunk):
            x = layer(x)
            if i in VGG16_TAPS:
                activations.append((x, getattr(self, f"head{len(activations)}")))
        return activations


class VggFeatures(Perceptual):
    """The same measure on the first three stages of the VGG16 that ships, all layers and channels counting alike.

    Args:
        max_size: larger pictures are reduced to this first.
    """

    name = "vgg16"

    def __init__(self, max_size: int = 128) -> None:
        super().__init__()
        self.network, self.max_size = vgg16(), max_size

    def layers(self, img: Tensor) -> list[tuple[Tensor, Tensor | float]]:
        if max(img.shape[2:]) > self.max_size:
            img = fit(img, self.max_size)
        layers = self.network(img.expand(-1, 3, -1, -1))
        return [(x, 1 / len(layers)) for x in layers]


class DiscriminatorFeatures(Perceptual):
    """The same measure on the activations of a StyleGAN2 discriminator, all layers counting alike."""

    name = "discriminator"

    def __init__(self, network: Discriminator) -> None:
        super().__init__()
        self.network = network

    def layers(self, img: Tensor) -> list[tuple[Tensor, Tensor | float]]:
        layers = self.network.features(fit(img, self.network.config.resolution, self.network.config.img_channels))
        return [(x.float(), 1 / len(layers)) for x in layers]


def fit(img: Tensor, size: int, channels: int = 3) -> Tensor:
    """Bring ``[N, C, H, W]`` to ``size`` pixels square (area average down, bilinear up) and to 1 or 3 channels."""
    if img.shape[2:] != (size, size):
        down = size <= min(img.shape[2:])
        img = F.interpolate(img, size=(size, size), mode="area" if down else "bilinear")
    if channels == img.shape[1]:
        return img
    return img.expand(-1, channels, -1, -1) if img.shape[1] == 1 else img.mean(dim=1, keepdim=True)


def load_lpips(vgg16: Path | None = None) -> LPIPS:
    """LPIPS from the torch-hub cache or the network, or from a given torchvision VGG16 file.

    Raises:
        Unavailable: the backbone or the ``lpips`` package is missing, or the file holds something else.
    """
    package = find_spec("lpips")  # only located: importing it takes seconds
    if package is None or package.origin is None:
        raise Unavailable("the lpips package is not installed")
    heads = load_state(Path(package.origin).parent / "weights" / "v0.1" / "vgg.pth")
    state = load_state(vgg16 or hub_file(VGG16_URL, sha256_prefix="397923af"))
    try:
        return LPIPS(state, heads)
    except (KeyError, RuntimeError, ValueError) as error:
        raise Unavailable(f"{vgg16 or VGG16_URL} does not hold torchvision's VGG16") from error


def perceptual(
    features: str | Path | Perceptual = "vgg",
    *,
    device: torch.device | str = "cpu",
) -> Perceptual:
    """A perceptual distance: frozen, in eval mode, on ``device``.

    Args:
        features: "vgg", which ships; "lpips", whose backbone is downloaded once; a ``.pth`` file with torchvision's
            VGG16 for LPIPS; or the name or path of a network with a discriminator.

    Raises:
        ToonError: the network is not available.
    """
    if isinstance(features, Perceptual):
        return features.to(device)

    def discriminator(path: Path) -> Perceptual:
        return DiscriminatorFeatures(load_network(path, which="D"))

    builders: dict[str, Callable[[], Perceptual]] = {"vgg": VggFeatures, "lpips": load_lpips}
    files: dict[str, Callable[[Path], Perceptual]] = {".pth": load_lpips, "": discriminator}
    return choose(features, builders, files, what="a perceptual distance", instead="use --features vgg", device=device)

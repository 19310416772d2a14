"""XGAN's networks: an encoder and a decoder for each domain, sharing their deep halves and one semantic embedding.

Royer et al., "XGAN: Unsupervised Image-to-Image Translation for Many-to-Many Mappings" (arXiv 1711.05139), figure 2;
and a denoising autoencoder for the cartoons it makes.

    faces    -> e1 \\                      / d1 -> faces
                    e_shared -> z -> d_shared
    cartoons -> e2 /                      \\ d2 -> cartoons
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stylegan_toon.config import Config, option

SLOPE = 0.2
RESOLUTIONS = (32, 64, 128, 256)
DOMAINS = ("faces", "cartoons")
# The networks that translate; the others are needed for training only.
TRANSLATOR = ("e1", "e2", "e_shared", "d_shared", "d1", "d2", "denoiser")


@dataclass(frozen=True)
class XganConfig(Config):
    """Sizes of all networks.

    Attributes:
        resolution: side of the pictures in pixels, a power of two from 32; 64 is published.
        channels: of the first layer of an encoder; deeper ones have 2, 4 and 8 times as many.
        embedding: length of the semantic embedding; 1024 is published.
        disc_channels: of the first layer of a discriminator.
    """

    resolution: int = option(64, choices=RESOLUTIONS)
    channels: int = option(32, low=4, high=4096)
    embedding: int = option(1024, low=4, high=4096)
    disc_channels: int = option(32, low=4, high=4096)

    @property
    def grid(self) -> int:
        """Side of the deepest maps."""
        return self.resolution // 16


def down(inputs: int, outputs: int) -> nn.Sequential:
    """Half the size."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1), nn.GroupNorm(1, outputs), nn.LeakyReLU(SLOPE))


def up(inputs: int, outputs: int) -> nn.Sequential:
    """Twice the size."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(1, outputs), nn.ReLU()
    )


class Encoder(nn.Module):
    """The layers of one domain: ``[N, 3, R, R]`` in [-1, 1] -> ``[N, 2 channels, R / 4, R / 4]``."""

    def __init__(self, config: XganConfig) -> None:
        super().__init__()
        self.config, c = config, config.channels
        self.layers = nn.Sequential(nn.Conv2d(3, c, 4, 2, 1), nn.LeakyReLU(SLOPE), down(c, 2 * c))

    def forward(self, img: Tensor) -> Tensor:
        return self.layers(img)


class SharedEncoder(nn.Module):
    """The layers of both domains: ``[N, 2 channels, R / 4, R / 4]`` -> embedding ``[N, E]`` of unit length."""

    def __init__(self, config: XganConfig) -> None:
        super().__init__()
        self.config, c = config, config.channels
        self.layers = nn.Sequential(
            down(2 * c, 4 * c),
            down(4 * c, 8 * c),
            nn.Flatten(),
            nn.Linear(8 * c * config.grid**2, config.embedding),
            nn.LeakyReLU(SLOPE),
            nn.Linear(config.embedding, config.embedding),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=1)


class SharedDecoder(nn.Module):
    """Embedding ``[N, E]`` -> ``[N, 4 channels, R / 8, R / 8]``."""

    def __init__(self, config: XganConfig) -> None:
        super().__init__()
        self.config, c = config, config.channels
        self.layers = nn.Sequential(
            nn.Linear(config.embedding, 8 * c * config.grid**2),
            nn.Unflatten(1, (8 * c, config.grid, config.grid)),
            nn.GroupNorm(1, 8 * c),
            nn.ReLU(),
            up(8 * c, 4 * c),
        )

    def forward(self, z: Tensor) -> Tensor:
        # Entries of a unit vector are about 1 / sqrt(E): scale them to about 1.
        return self.layers(z * self.config.embedding**0.5)


class Decoder(nn.Module):
    """The layers of one domain: ``[N, 4 channels, R / 8, R / 8]`` -> ``[N, 3, R, R]`` in (-1, 1)."""

    def __init__(self, config: XganConfig) -> None:
        super().__init__()
        self.config, c = config, config.channels
        self.layers = nn.Sequential(
            up(4 * c, 2 * c), up(2 * c, c), nn.Upsample(scale_factor=2), nn.Conv2d(c, 3, 3, padding=1), nn.Tanh()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Discriminator(nn.Module):
    """Real or generated, one score a picture: ``[N, 3, R, R]`` in [-1, 1] -> ``[N]``."""

    def __init__(self, config: XganConfig) -> None:
        super().__init__()
        self.config, c = config, config.disc_channels
        widths = [3, c, 2 * c, 2 * c, 2 * c]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(2 * c * config.grid**2, 1)))

    def forward(self, img: Tensor) -> Tensor:
        return self.layers(img)[:, 0]


class DomainClassifier(nn.Module):
    """Which domain an embedding ``[N, E]`` is from: logits ``[N]``, positive for cartoons."""

    def __init__(self, config: XganConfig) -> None:
        super().__init__()
        self.config, e = config, config.embedding
        self.layers = nn.Sequential(
            nn.Linear(e, 64), nn.LeakyReLU(SLOPE), nn.Linear(64, 16), nn.LeakyReLU(SLOPE), nn.Linear(16, 1)
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z * self.config.embedding**0.5)[:, 0]


class Denoiser(nn.Module):
    """Removes spots and wrong colours from cartoons: ``[N, 3, R, R]`` in [-1, 1] -> the same."""

    def __init__(self, config: XganConfig) -> None:
        super().__init__()
        self.config, c = config, config.channels
        self.layers = nn.Sequential(
            nn.Conv2d(3, c, 4, 2, 1), nn.LeakyReLU(SLOPE), down(c, 2 * c), down(2 * c, 4 * c),
            up(4 * c, 2 * c), up(2 * c, c), nn.Upsample(scale_factor=2), nn.Conv2d(c, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, img: Tensor) -> Tensor:
        return self.layers(img)


CLASSES: dict[str, type[nn.Module]] = {
    "e1": Encoder, "e2": Encoder, "e_shared": SharedEncoder, "d_shared": SharedDecoder, "d1": Decoder, "d2": Decoder,
    "denoiser": Denoiser, "disc1": Discriminator, "disc2": Discriminator, "c_dann": DomainClassifier,
}  # fmt: skip


def new_networks(config: XganConfig) -> dict[str, nn.Module]:
    """All ten components by name, freshly initialised."""
    return {name: cls(config) for name, cls in CLASSES.items()}


class Xgan:
    """The components of XGAN together. Domain 0 is faces, 1 cartoons."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.networks = networks
        self._encoders = networks["e1"], networks["e2"]
        self._decoders = networks["d1"], networks["d2"]

    def encode(self, img: Tensor, domain: int) -> Tensor:
        """``[N, 3, R, R]`` in [-1, 1] -> ``[N, E]`` of unit length."""
        return self.networks["e_shared"](self._encoders[domain](img))

    def decode(self, z: Tensor, domain: int) -> Tensor:
        """``[N, E]`` -> ``[N, 3, R, R]`` in (-1, 1)."""
        return self._decoders[domain](self.networks["d_shared"](z))

    @torch.no_grad()
    def translate(self, img: Tensor, source: int, *, clean: bool = True) -> Tensor:
        """Pictures of the domain ``source`` as those of the other; cartoons are cleaned by the denoiser."""
        translated = self.decode(self.encode(img, source), 1 - source)
        return self.networks["denoiser"](translated) if clean and source == 0 else translated

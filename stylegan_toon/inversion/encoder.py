"""Encoder: an aligned face -> ws, in one pass. Where a search for ws begins.

Networks that ship look at the face, and one linear map of low rank takes their features to w. The map is fitted in
closed form (ridge regression) by `pretrained/recipes/encoder.py`, on pictures whose latents are known.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ToonError
from ..features.dlib import DlibNetwork, face_chip, recogniser
from ..features.perceptual import fit
from ..features.vgg import Vgg16, vgg16
from ..models import Generator
from ..weights import shipped_network

SMALLEST = 64  # pixels: smaller pictures show too little
VGG_SIDE, PIXELS_SIDE = 128, 32
FEATURES = 256 * 8 * 8 + 128 * 8 * 8 + 3 * PIXELS_SIDE**2
SAME_SPACE = 0.05  # of the length of w_avg: float16 moves it by less than 0.001, another mapping network by about 1


@dataclass(frozen=True)
class EncoderConfig:
    """What the map looks like.

    Attributes:
        rows: how many neighbouring rows of ws share one w, coarse to fine; their sum is ``num_ws``.
        w_dim: length of w.
        rank: of the map.
    """

    rows: tuple[int, ...] = (3, 4, 9)
    w_dim: int = 512
    rank: int = 256


class Encoder(nn.Module):
    """``[N, 3, R, R]`` in [-1, 1], FFHQ-aligned, R >= 64 -> ws ``[N, num_ws, w_dim]``.

    ws = w_avg + bias + heads mix (features - centre) / spread, with the features of `face_features`.
    """

    centre: Tensor
    spread: Tensor
    mix: Tensor
    heads: Tensor
    bias: Tensor
    w_avg: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        outputs = len(config.rows) * config.w_dim
        self.register_buffer("centre", torch.zeros(FEATURES))
        self.register_buffer("spread", torch.ones(FEATURES))
        self.register_buffer("mix", torch.zeros(config.rank, FEATURES))
        self.register_buffer("heads", torch.zeros(outputs, config.rank))
        self.register_buffer("bias", torch.zeros(outputs))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def decode(self, features: Tensor) -> Tensor:
        """``[N, FEATURES]`` -> ws ``[N, num_ws, w_dim]``."""
        mixed = ((features - self.centre) / self.spread) @ self.mix.T
        offsets = (mixed @ self.heads.T + self.bias).unflatten(1, (len(self.config.rows), self.config.w_dim))
        counts = torch.tensor(self.config.rows, device=offsets.device)
        return self.w_avg + offsets.repeat_interleave(counts, dim=1)

    def forward(self, img: Tensor) -> Tensor:
        return self.decode(face_features(img))


@torch.no_grad()
def face_features(img: Tensor) -> Tensor:
    """Features ``[N, FEATURES]`` of aligned faces ``[N, 3, R, R]`` in [-1, 1].

    Stage 3 of VGG16 at 128 px, averaged to 8x8; the 8x8 maps inside dlib's recogniser, which looks closer at the middle
    of the face; the colours of 32x32 pixels. Activations enter as square roots: they have long tails.

    Raises:
        ToonError: a picture that is not square, not of three channels, or smaller than 64 px.
    """
    count, channels, height, width = img.shape
    if channels != 3 or height != width or height < SMALLEST:
        raise ToonError(
            f"The encoder takes square RGB pictures of at least {SMALLEST} px, not {width}x{height} with {channels} "
            "channels: align the photo first."
        )
    img = img.float()
    vgg, dlib = _networks(img.device)
    around = F.avg_pool2d(vgg(fit(img, VGG_SIDE))[2], VGG_SIDE // 32)
    middle = dlib.maps((face_chip(img) + 1) * 127.5)
    parts = [around.clamp(min=0).sqrt(), middle.clamp(min=0).sqrt(), fit(img, PIXELS_SIDE)]
    return torch.cat([part.reshape(count, -1) for part in parts], dim=1)


@lru_cache(maxsize=2)
def _networks(device: torch.device) -> tuple[Vgg16, DlibNetwork]:
    # A copy elsewhere: `vgg16` hands the same network to everybody.
    vgg = vgg16() if device.type == "cpu" else copy.deepcopy(vgg16()).to(device)
    return vgg, recogniser(device).requires_grad_(False)


@lru_cache(maxsize=2)
def encoder(device: torch.device | str = "cpu") -> Encoder:
    """The encoder that ships, for the w of the network `faces` and of all that share its mapping network; frozen.

    Raises:
        ToonError: its file is missing from the installation or damaged.
    """
    return shipped_network("encoder", Encoder).to(device)


def fits_encoder(G: Generator, network: Encoder) -> bool:
    """Whether the ws that ``network`` gives are those of ``G``: as many rows, and the same mean of w."""
    if (G.num_ws, G.config.w_dim) != (sum(network.config.rows), network.config.w_dim):
        return False
    off = (G.mapping.w_avg.cpu() - network.w_avg.cpu()).norm() / network.w_avg.norm().cpu()
    return bool(off < SAME_SPACE)

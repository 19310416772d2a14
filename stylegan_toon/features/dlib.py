"""dlib's face recogniser: 128 numbers for a face, close together for pictures of one person.

The network is a residual one of 29 convolutions (ResNet-34 of He et al., arXiv 1512.03385, with fewer layers and
half the filters), trained by Davis King to keep pictures of one person within a distance of 0.6 and others apart
("High quality face recognition with deep metric learning", dlib blog, 2017).
`pretrained/recipes/identity.py` converts its weights.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.padded import zero_conv3x3
from ..weights import shipped_network

SIDE = 150  # of the picture that the network takes: a face with a quarter of its side around it
_MEAN = (122.782, 117.001, 104.298)  # of red, green and blue, 0 to 255
# The chip in an aligned crop, as shares of its side: centre from the left and the top, and side. Mean of what dlib's
# alignment gives in 150 synthetic faces (pretrained/recipes/same_person.py place), made symmetric; 50 portraits gave
# (0.506, 0.600) and 0.700.
CENTRE, SHARE = (0.5, 0.601), 0.689
_MAPS = 10  # blocks up to the last ones of 128 channels


@dataclass(frozen=True)
class DlibConfig:
    """This network has no options."""


class _Conv(nn.Module):
    """Convolution without a bias, then a factor and a summand for each channel; all are fixed buffers.

    Args:
        before, after: channels.
        side: of the filters.
        stride: 1 pads with zeros and keeps the size; 2 does not pad.
        eight_bits: filters are stored as whole numbers from 0 to 255: filter = step (levels - zero).
    """

    levels: Tensor  # uint8; with `eight_bits` only, as are step and zero
    step: Tensor
    zero: Tensor
    filters: Tensor  # without `eight_bits`
    factor: Tensor
    summand: Tensor

    def __init__(self, before: int, after: int, side: int = 3, stride: int = 1, *, eight_bits: bool) -> None:
        super().__init__()
        self.side, self.stride, self.eight_bits = side, stride, eight_bits
        shape = (after, before, side, side)
        if eight_bits:
            self.register_buffer("levels", torch.zeros(shape, dtype=torch.uint8))
            self.register_buffer("step", torch.ones(()))
            self.register_buffer("zero", torch.zeros(()))
        else:
            self.register_buffer("filters", torch.zeros(shape))
        self.register_buffer("factor", torch.ones(after))
        self.register_buffer("summand", torch.zeros(after))
        self._weight: Tensor | None = None

    def weight(self) -> Tensor:
        """Filters times ``factor``, ``[after, before, side, side]``; kept until the layer's tensors change."""
        if self._weight is None:
            with torch.inference_mode(False):  # a plain tensor whatever the mode of the first call
                filters = self.step * (self.levels.to(self.step.dtype) - self.zero) if self.eight_bits else self.filters
                self._weight = filters * self.factor[:, None, None, None]
        return self._weight

    def _apply(self, *args, **options) -> _Conv:  # what `to`, `double` and their like call
        self._weight = None
        return super()._apply(*args, **options)

    def _load_from_state_dict(self, *args, **options) -> None:
        self._weight = None
        super()._load_from_state_dict(*args, **options)

    def forward(self, x: Tensor) -> Tensor:
        if (self.side, self.stride) == (3, 1):
            return zero_conv3x3(x, self.weight(), self.summand, keep=True)
        return F.conv2d(x, self.weight(), self.summand, self.stride)


class _Block(nn.Module):
    """Two convolutions, added to the input; with ``stride`` 2 to its average over 2x2, zeros in new channels.

    Where the two differ in size, the smaller one is padded with zeros on the right and below.
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = _Conv(before, after, stride=stride, eight_bits=after != 64)
        self.conv2 = _Conv(after, after, eight_bits=after != 64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.stride == 2:
            x = F.avg_pool2d(x, 2)
            height, width = (max(a, b) for a, b in zip(x.shape[2:], y.shape[2:]))
            x, y = (F.pad(t, (0, width - t.shape[3], 0, height - t.shape[2])) for t in (x, y))
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return F.relu(x + y)


class DlibNetwork(nn.Module):
    """Float pictures ``[N, 3, 150, 150]``, RGB from 0 to 255, as `face_chip` cuts them -> ``[N, 128]``.

    According to its author, two vectors of one person are less than 0.6 apart (Euclidean); their length is about 1.4.
    """

    def __init__(self, config: DlibConfig | None = None) -> None:
        super().__init__()
        self.config = config or DlibConfig()
        self.start = _Conv(3, 32, 7, 2, eight_bits=True)
        widths = [32, 32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256]
        pairs = list(itertools.pairwise(widths))
        strides = [2 if before < after else 1 for before, after in pairs[:-1]] + [2]
        self.blocks = nn.Sequential(*(_Block(*pair, stride) for pair, stride in zip(pairs, strides)))
        self.head = _Conv(256, 128, 1, eight_bits=True)

    def forward(self, img: Tensor) -> Tensor:
        return self.vectors(self.maps(img))

    def vectors(self, maps: Tensor) -> Tensor:
        """What the other blocks make of `maps`: ``[N, 128]``."""
        return self.head(self.blocks[_MAPS:](maps).mean((2, 3), keepdim=True)).flatten(1)

    def maps(self, img: Tensor) -> Tensor:
        """What the first ten blocks make of the pictures: ``[N, 128, 8, 8]``, still with places."""
        x = (img - img.new_tensor(_MEAN)[:, None, None]) / 256
        return self.blocks[:_MAPS](F.max_pool2d(F.relu(self.start(x)), 3, 2))


def recogniser(device: torch.device | str = "cpu") -> DlibNetwork:
    """The network that ships, in eval mode.

    Raises:
        ToonError: its file is missing from the installation or damaged.
    """
    return shipped_network("dlib-identity", DlibNetwork).to(device)


def face_chip(img: Tensor) -> Tensor:
    """Crop FFHQ-aligned faces for the recogniser: ``[N, 3, R, R]`` -> ``[N, 3, 150, 150]``, same range.

    The square is the same in every picture (`CENTRE`, `SHARE`): where dlib's alignment puts it on average. Every pixel
    of the chip is the mean of a pixel's area, so large pictures give smooth chips; gradients reach ``img``.
    """
    count, channels, height, width = img.shape
    block = max(1, int(min(height, width) * SHARE / SIDE))
    if block > 1:
        img = F.interpolate(img, size=(height // block, width // block), mode="area")
    scale = img.new_tensor(SHARE)
    x, y = (2 * at - 1 for at in CENTRE)
    theta = torch.stack([scale, scale * 0, scale * 0 + x, scale * 0, scale, scale * 0 + y]).view(1, 2, 3)
    grid = F.affine_grid(theta.expand(count, -1, -1), [count, channels, 2 * SIDE, 2 * SIDE], align_corners=False)
    return F.avg_pool2d(F.grid_sample(img, grid, padding_mode="border", align_corners=False), 2)

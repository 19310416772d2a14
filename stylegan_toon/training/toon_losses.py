"""Losses of fine-tooning: like the person, in the person's colours, and still the cartoon that it was.

Pictures are ``[N, 3, R, R]`` in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..features.perceptual import fit
from ..features.vgg import vgg16

COLOUR_SIDE = 32  # pixels at which colours are compared: areas of skin and hair, not lines
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def triplet_loss(to_person: Tensor, to_toon: Tensor, margin: float = 1.0, legacy_sign: bool = False) -> Tensor:
    """max(0, margin + d(anchor, positive) - d(anchor, negative)) with the distance d = 1 - cosine.

    Args:
        to_person, to_toon: cosines of anchor and positive, anchor and negative; one shape.
        margin: by how much the person is to be nearer than the cartoon.
        legacy_sign: take the cosine itself for the distance, as the first code for fine-tooning did: it rewards
            moving away from the person. For comparison only.

    Returns:
        The shape of the arguments.
    """
    gap = to_person - to_toon if legacy_sign else to_toon - to_person
    return F.relu(gap + margin)


def chroma(img: Tensor) -> Tensor:
    """Colour without lightness at 32 px: blue and red minus luma (BT.601, equations of Cb and Cr), ``[N, 2, 32, 32]``.

    One channel is grey, whose chroma is 0.
    """
    small = fit(img.expand(-1, 3, -1, -1), COLOUR_SIDE)
    luma = (small * small.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    return torch.cat([(small[:, 2:] - luma) / 1.772, (small[:, :1] - luma) / 1.402], dim=1)


def colour_loss(img: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of `chroma` to the chroma ``wanted``: ``[N]``."""
    return (chroma(img) - wanted).abs().mean((1, 2, 3))


def structure_loss(maps: Tensor, wanted: Tensor) -> Tensor:
    """1 - cosine of the features at each place, averaged over places: ``[N, C, H, W]`` twice -> ``[N]``."""
    return 1 - F.cosine_similarity(maps, wanted, dim=1, eps=1e-3).mean((1, 2))


class StayCartoon(nn.Module):
    """How far pictures have moved from others in VGG16's features: place by place, and in their statistics."""

    SIDE = 128  # pixels

    def __init__(self) -> None:
        super().__init__()
        self.network = vgg16()

    def small(self, img: Tensor) -> Tensor:
        """What is compared: ``[N, 3, 128, 128]``; larger pictures are reduced."""
        img = img.expand(-1, 3, -1, -1)
        return fit(img, self.SIDE) if img.shape[-1] > self.SIDE else img

    def forward(self, img: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances ``[N]`` of ``img`` to ``start`` from `small`, in units of the mean of ``start``'s features.

        The first is the mean absolute difference of features (as `features.vgg.VggLoss`); the second that of their
        means and standard deviations over the picture, the style of Huang and Belongie (2017, equation 13). The third
        result is log(1 + x) of these statistics, ``[N, D]``, for `ToonSet`.
        """
        with torch.no_grad():
            wanted = self.network(start)
        found = self.network(self.small(img))
        pairs = list(zip(found, wanted))
        kept = torch.stack([(x - y).abs().mean((1, 2, 3)) / (y.mean((1, 2, 3)) + 1e-6) for x, y in pairs])
        styles = [(_style(x), _style(y)) for x, y in pairs]
        style = torch.stack([(x - y).abs().mean(1) / (y.mean(1) + 1e-6) for x, y in styles])
        return kept.mean(0), style.mean(0), torch.cat([x for x, _ in styles], dim=1).log1p()

    def statistics(self, img: Tensor) -> Tensor:
        """log(1 + x) of means and standard deviations over the picture of all features: ``[N, D]``."""
        return torch.cat([_style(x) for x in self.network(self.small(img))], dim=1).log1p()


class ToonSet:
    """How far pictures are, as a set, from those of a toon network: squared differences of mean and deviation.

    That is what `metrics.style_features.toon_distance` measures. A batch is too small a set, so running means of the
    batches stand for it, and the gradient is that of the distance as if the batch were the whole set.

    Args:
        toon: statistics of the toon's pictures, ``[M, D]``.
        memory: share of the running means that a batch leaves as it is.
    """

    def __init__(self, toon: Tensor, memory: float = 0.98) -> None:
        self.mean, self.deviation = toon.mean(0), toon.std(0)
        self.memory = memory
        self._first: Tensor | None = None  # running means of the statistics and of their squares
        self._second = self.mean

    def __call__(self, rows: Tensor) -> Tensor:
        """The distance in units of the toon's own variance, a number, after taking in ``rows`` ``[N, D]``."""
        first, second = rows.mean(0), rows.square().mean(0)
        if self._first is None:
            self._first, self._second = first.detach(), second.detach()
        else:
            self._first = torch.lerp(first.detach(), self._first, self.memory)
            self._second = torch.lerp(second.detach(), self._second, self.memory)
        # The batch's own means, with the values of the running ones.
        first, second = first - first.detach() + self._first, second - second.detach() + self._second
        deviation = (second - first.square()).clamp(min=1e-6).sqrt()
        squares = (first - self.mean).square() + (deviation - self.deviation).square()
        return squares.sum() / self.deviation.square().sum()


def _style(x: Tensor) -> Tensor:
    deviation = (x.var((2, 3)) + 1e-8).sqrt()  # never 0: the gradient of the root stays finite
    return torch.cat([x.mean((2, 3)), deviation], dim=1)

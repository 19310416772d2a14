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

    def forward(self, img: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Distances ``[N]`` of ``img`` to ``start`` from `small`, in units of the mean of ``start``'s features.

        The first is the mean absolute difference of features (as `features.vgg.VggLoss`); the second that of their
        means and standard deviations over the picture, the style of Huang and Belongie (2017, equation 13).
        """
        with torch.no_grad():
            wanted = self.network(start)
        found = self.network(self.small(img))
        pairs = list(zip(found, wanted))
        kept = torch.stack([(x - y).abs().mean((1, 2, 3)) / (y.mean((1, 2, 3)) + 1e-6) for x, y in pairs])
        styles = [(_style(x), _style(y)) for x, y in pairs]
        style = torch.stack([(x - y).abs().mean(1) / (y.mean(1) + 1e-6) for x, y in styles])
        return kept.mean(0), style.mean(0)


def _style(x: Tensor) -> Tensor:
    deviation = (x.var((2, 3)) + 1e-8).sqrt()  # never 0: the gradient of the root stays finite
    return torch.cat([x.mean((2, 3)), deviation], dim=1)

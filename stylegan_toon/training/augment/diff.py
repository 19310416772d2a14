"""DiffAugment (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training")."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ToonError
from .base import Augment, RandomNumbers, on_rows
from .corrupt import cut_out


class DiffAugment(Augment):
    """Colour, translation and cutout, applied to real and generated pictures with a constant probability.

    Args:
        policy: any of "color", "translation" and "cutout", separated by commas, applied in this order.
        p: probability of each of them for each picture; the paper has 1.

    Raises:
        ToonError: a policy with another word in it.
    """

    def __init__(self, policy: str = "color,translation,cutout", p: float = 1.0) -> None:
        super().__init__(p)
        parts = {"color": self._color, "translation": self._translation, "cutout": self._cutout}
        unknown = [word for word in policy.split(",") if word not in parts]
        if unknown:
            raise ToonError(f"There is no {unknown[0]!r} in DiffAugment: name some of {','.join(parts)}, with commas.")
        self.policy = policy
        self._steps = [parts[word] for word in policy.split(",")]

    def augment(self, images: Tensor, random: RandomNumbers) -> Tensor:
        for step in self._steps:
            images = step(images, random, random.uniform() < self.p)
        return images

    def _color(self, images: Tensor, random: RandomNumbers, fires: Tensor) -> Tensor:
        """Brightness + U(-.5, .5), then saturation x U(0, 2), then contrast x U(.5, 1.5), about the mean colour."""

        def recolor(x: Tensor, draw: Tensor) -> Tensor:
            added, saturation, contrast = draw[:, :, None, None, None].unbind(1)
            x = x + (added - 0.5)
            x = torch.lerp(x.mean(dim=1, keepdim=True), x, saturation * 2)
            return torch.lerp(x.mean(dim=(1, 2, 3), keepdim=True), x, contrast + 0.5)

        return on_rows(images, fires, recolor, random.uniform(3))

    def _translation(self, images: Tensor, random: RandomNumbers, fires: Tensor) -> Tensor:
        """A shift of whole pixels, up to an eighth of each side; zeros come in."""
        height, width = images.shape[2:]
        shifts = []
        for size in (width, height):
            most = int(size / 8 + 0.5)
            shifts.append(random.integer(-most, most + 1))

        def move(x: Tensor, shift: Tensor) -> Tensor:
            for axis, size in ((3, width), (2, height)):
                source = torch.arange(size, device=x.device) - shift[:, 3 - axis, None].long()  # [n, size]
                shape = [-1, 1, 1, 1]
                shape[axis] = size
                inside = ((source >= 0) & (source < size)).view(shape)
                x = x.gather(axis, source.clamp(0, size - 1).view(shape).expand_as(x)) * inside
            return x

        return on_rows(images, fires, move, torch.stack(shifts, dim=1))

    def _cutout(self, images: Tensor, random: RandomNumbers, fires: Tensor) -> Tensor:
        """A box of half of each side becomes 0; its centre is any pixel, so that a part may lie outside."""
        centers, sizes = [], []
        for size in (images.shape[3], images.shape[2]):
            side = int(size / 2 + 0.5)
            # An even side has its centre between pixels, and then one place more.
            middle = random.integer(0, size + 1 - side % 2) + (side % 2) / 2
            centers.append(middle / size)
            sizes.append(torch.full_like(middle, side / size))
        return on_rows(images, fires, cut_out, torch.stack(centers, dim=1), torch.stack(sizes, dim=1))

"""The augmentation pipe of StyleGAN2-ADA: all six categories (Karras et al. 2020, section 2.2 and appendix B)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import ToonError
from . import color, corrupt
from .base import Augment, RandomNumbers, on_rows
from .geometry import permute, rotate, scale, translate, warp


@dataclass(frozen=True)
class AugmentConfig:
    """Which augmentations fire, and how strong they are; the strengths are the published ones.

    A multiplier is the factor on ``p`` that gives the probability of one augmentation; 0 turns it off.

    Attributes:
        xflip, rotate90, xint: multipliers of the blits: mirror (half of those that fire), quarter turns (0 to 3),
            shift by whole pixels.
        scale, rotate, aniso, xfrac: multipliers of the geometry: zoom, rotation, stretch, shift by any distance.
        brightness, contrast, lumaflip, hue, saturation: multipliers of the colour. Half of the luma flips that fire
            flip.
        imgfilter: multiplier of amplifying frequency bands.
        noise, cutout: multipliers of the corruptions.
        xint_max: largest shift by whole pixels, as a share of the side.
        scale_std, aniso_std: standard deviation of log2 of the factor.
        rotate_max: largest rotation in half turns.
        xfrac_std: standard deviation of the shift, as a share of the side.
        brightness_std: standard deviation, in units of a picture in [-1, 1].
        contrast_std, saturation_std: standard deviation of log2 of the factor.
        hue_max: largest rotation of the hue in half turns.
        imgfilter_bands: factor on ``imgfilter`` for each octave, lowest first.
        imgfilter_std: standard deviation of log2 of a band's gain.
        noise_std: standard deviation of the standard deviation of the noise.
        cutout_size: side of the box as a share of the picture's.

    Raises:
        ValueError: a value below 0, or not four bands.
    """

    xflip: float = 0
    rotate90: float = 0
    xint: float = 0
    scale: float = 0
    rotate: float = 0
    aniso: float = 0
    xfrac: float = 0
    brightness: float = 0
    contrast: float = 0
    lumaflip: float = 0
    hue: float = 0
    saturation: float = 0
    imgfilter: float = 0
    noise: float = 0
    cutout: float = 0
    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1
    saturation_std: float = 1
    imgfilter_bands: tuple[float, float, float, float] = (1, 1, 1, 1)
    imgfilter_std: float = 1
    noise_std: float = 0.1
    cutout_size: float = 0.5

    def __post_init__(self) -> None:
        if len(self.imgfilter_bands) != 4:
            raise ValueError(f"imgfilter_bands has {len(self.imgfilter_bands)} values, but there are 4 bands")
        for name, value in vars(self).items():
            if min(value if isinstance(value, tuple) else (value,)) < 0:
                raise ValueError(f"{name} is {value}, but must not be negative")


_CATEGORIES = {
    "blit": ("xflip", "rotate90", "xint"),
    "geom": ("scale", "rotate", "aniso", "xfrac"),
    "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}


def _pipe(*categories: str) -> AugmentConfig:
    return replace(AugmentConfig(), **{name: 1.0 for category in categories for name in _CATEGORIES[category]})


PIPES: dict[str, AugmentConfig] = {
    **{category: _pipe(category) for category in _CATEGORIES},
    **{"bgcfnc"[:count]: _pipe(*list(_CATEGORIES)[:count]) for count in range(2, 7)},
}
"""The eleven published pipes: the six categories alone, and bg, bgc (the default), bgcf, bgcfn, bgcfnc."""


class AugmentPipe(Augment):
    """``pipe(images)`` augments ``[N, C, H, W]`` in [-1, 1]; set ``p`` to choose how often.

    Pictures on which nothing fires are passed on as they are; flips, quarter turns and whole shifts alone move pixels
    without resampling them.

    Args:
        config: what fires and how strongly, or the name of one of `PIPES`.
        p: overall probability, 0 to 1.

    Raises:
        ToonError: an unknown name; when called, colour augmentation of pictures that are neither grey nor RGB.
    """

    def __init__(self, config: AugmentConfig | str = "bgc", p: float = 0.0) -> None:
        super().__init__(p)
        if isinstance(config, str):
            if config not in PIPES:
                raise ToonError(f"There is no augmentation pipe called {config}: choose from {', '.join(PIPES)}.")
            config = PIPES[config]
        self.config = config

    def augment(self, images: Tensor, random: RandomNumbers) -> Tensor:
        channels, height, width = images.shape[1:]
        blit, geometry = self.blit_matrix(random, height, width), self.geometry_matrix(random, height, width)
        inverse = blit @ geometry
        resampled = _changes(geometry)
        if height != width:  # a quarter turn of an oblong picture does not land on its pixels
            resampled |= blit[:, 0, 1] != 0
        images = on_rows(images, resampled, warp, inverse)
        images = on_rows(images, _changes(blit) & ~resampled, permute, inverse)

        matrix = self.color_matrix(random)
        if channels in (1, 3):
            images = on_rows(images, _changes(matrix), color.recolor, matrix)
        elif any(getattr(self.config, name) for name in _CATEGORIES["color"]):
            raise ToonError(
                f"The colour augmentations are for grey or RGB pictures, these have {channels} channels: "
                f"choose a pipe without them, such as --augpipe bg."
            )

        log2_gain = self.band_gains(random)
        images = on_rows(images, (log2_gain != 0).any(dim=1), corrupt.amplify, corrupt.balanced_gains(log2_gain))

        sigma = random.gate(random.normal().abs() * self.config.noise_std, self.p * self.config.noise)
        seeds = random.integer(0, 2**53)[sigma > 0]  # a picture's noise is its own, however the batch is cut up
        images = on_rows(
            images, sigma > 0, lambda x, s: x + corrupt.white_noise(x, seeds) * s[:, None, None, None], sigma
        )

        size = random.gate(torch.full((random.n, 2), self.config.cutout_size).double(), self.p * self.config.cutout)
        return on_rows(images, size[:, 0] > 0, corrupt.cut_out, random.uniform(2), size)

    def blit_matrix(self, random: RandomNumbers, height: int, width: int) -> Tensor:
        """Inverse ``[n, 3, 3]`` of flip, quarter turns and shift, in this order: output -> input, pixels, centred."""
        c, p = self.config, self.p
        flip = 1 - 2 * random.gate(random.integer(0, 2), p * c.xflip)
        turns = random.gate(random.integer(0, 4), p * c.rotate90)
        shift = random.gate(random.symmetric(2) * c.xint_max, p * c.xint)
        shift = (shift * torch.tensor([width, height])).round()
        return scale(flip, torch.ones_like(flip)) @ rotate(turns * (math.pi / 2)).round() @ translate(-shift)

    def geometry_matrix(self, random: RandomNumbers, height: int, width: int) -> Tensor:
        """The same for zoom, rotation, stretch, another rotation and shift."""
        c, p = self.config, self.p
        zoom = torch.exp2(-random.gate(random.normal() * c.scale_std, p * c.scale))
        # A rotation before and one after the stretch; that either fires has the probability wanted.
        either = 1 - math.sqrt(max(1 - p * c.rotate, 0))
        first, last = (random.gate(random.symmetric() * (math.pi * c.rotate_max), either) for _ in range(2))
        stretch = random.gate(random.normal() * c.aniso_std, p * c.aniso)
        shift = random.gate(random.normal(2) * c.xfrac_std, p * c.xfrac) * torch.tensor([width, height])
        stretched = scale(torch.exp2(-stretch), torch.exp2(stretch))
        return scale(zoom, zoom) @ rotate(first) @ stretched @ rotate(last) @ translate(-shift)

    def color_matrix(self, random: RandomNumbers) -> Tensor:
        """``[n, 4, 4]`` on (R, G, B, 1): brightness, contrast, luma flip, hue, saturation, in this order."""
        c, p = self.config, self.p
        added = random.gate(random.normal() * c.brightness_std, p * c.brightness)
        factor = torch.exp2(random.gate(random.normal() * c.contrast_std, p * c.contrast))
        flip = random.gate(random.integer(0, 2), p * c.lumaflip)
        angle = random.gate(random.symmetric() * (math.pi * c.hue_max), p * c.hue)
        chroma = torch.exp2(random.gate(random.normal() * c.saturation_std, p * c.saturation))
        light = color.luma_flip(flip) @ color.contrast(factor) @ color.brightness(added)
        return color.saturation(chroma) @ color.hue(angle) @ light

    def band_gains(self, random: RandomNumbers) -> Tensor:
        """log2 of the gain of each band before balancing, ``[n, 4]``; every band fires independently."""
        c = self.config
        gains = [
            random.gate(random.normal() * c.imgfilter_std, self.p * c.imgfilter * band) for band in c.imgfilter_bands
        ]
        return torch.stack(gains, dim=1)


def _changes(matrix: Tensor) -> Tensor:
    """Which of ``[n, size, size]`` are not the identity: bool ``[n]``. What did not fire is 1 and 0 exactly."""
    return (matrix != torch.eye(matrix.shape[1], dtype=matrix.dtype)).flatten(1).any(dim=1)

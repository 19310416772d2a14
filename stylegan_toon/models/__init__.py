"""Networks: the StyleGAN2 and mobile generators and the discriminator, each beside its frozen config dataclass."""

from .discriminator import Discriminator, DiscriminatorConfig
from .mobile import MobileConfig, MobileGenerator
from .presets import PRESETS, Preset, preset
from .stylegan2 import Generator, GeneratorConfig

__all__ = [
    "PRESETS",
    "Discriminator",
    "DiscriminatorConfig",
    "Generator",
    "GeneratorConfig",
    "MobileConfig",
    "MobileGenerator",
    "Preset",
    "preset",
]

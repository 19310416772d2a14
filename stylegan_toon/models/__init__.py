"""Floor 2: networks, each with a frozen config dataclass beside it."""

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

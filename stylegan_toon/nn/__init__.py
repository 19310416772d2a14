"""Floor 2: networks, each with a frozen config dataclass beside it."""

from .discriminator import Discriminator, DiscriminatorConfig
from .generator import Generator, GeneratorConfig
from .presets import PRESETS, Preset, preset

__all__ = ["PRESETS", "Discriminator", "DiscriminatorConfig", "Generator", "GeneratorConfig", "Preset", "preset"]

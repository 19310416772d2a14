"""What the commands share: the group, types of options, options, and how mistakes are reported."""

from ..progress import progress
from .commands import COMMANDS, Command, command, command_group, main
from .from_config import options_of, with_config
from .options import (
    accelerate,
    base,
    device,
    dtype,
    network,
    out,
    overwrite,
    psi,
    quiet,
    seed,
    seeds,
    swap,
    toon,
)
from .types import DEVICE, DTYPE, PATH, SEEDS, integer, number

__all__ = [
    "COMMANDS",
    "DEVICE",
    "DTYPE",
    "PATH",
    "SEEDS",
    "Command",
    "accelerate",
    "base",
    "command",
    "command_group",
    "device",
    "dtype",
    "integer",
    "main",
    "network",
    "number",
    "options_of",
    "out",
    "overwrite",
    "progress",
    "psi",
    "quiet",
    "seed",
    "seeds",
    "swap",
    "toon",
    "with_config",
]

"""What the commands share: the group, types of options, options, progress, and how mistakes are reported."""

from ..progress import progress
from .commands import COMMANDS, Command, command, command_group, main, say
from .from_config import options_of, with_config
from .options import (
    accelerate,
    aligned,
    base,
    batch,
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
    width,
)
from .search import search_progress
from .types import DEVICE, DTYPE, PATH, PHOTO, PHOTOS, SEEDS, TEXT, integer, number

__all__ = [
    "COMMANDS",
    "DEVICE",
    "DTYPE",
    "PATH",
    "PHOTO",
    "PHOTOS",
    "SEEDS",
    "TEXT",
    "Command",
    "accelerate",
    "aligned",
    "base",
    "batch",
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
    "say",
    "search_progress",
    "seed",
    "seeds",
    "swap",
    "toon",
    "width",
    "with_config",
]

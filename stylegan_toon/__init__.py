"""stylegan_toon: a photo goes in, a cartoon that still looks like the person comes out."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_VERBS = ("blend", "project", "toonify", "finetoon", "generate")
__all__ = ["ToonError", "load_network", "ops", *_VERBS]

if TYPE_CHECKING:
    from . import ops as ops
    from .blend import blend as blend
    from .errors import ToonError as ToonError
    from .finetoon import finetoon as finetoon
    from .generate import generate as generate
    from .project import project as project
    from .toonify import toonify as toonify
    from .weights import load_network as load_network


if sys.argv[:1] == ["-m"]:  # so it reads while `python -m stylegan_toon.VERB` looks for the verb

    def _explain(kind, error, trace) -> None:
        """Ctrl-C while torch is being imported is no reason for a traceback."""
        print("stopped", file=sys.stderr) if kind is KeyboardInterrupt else sys.__excepthook__(kind, error, trace)

    sys.excepthook = _explain


def __getattr__(name: str):
    # Lazy, so that importing the package costs little more than importing torch.
    if name in _VERBS or name == "ops":
        return importlib.import_module(f".{name}", __name__)
    if name == "load_network":
        return importlib.import_module(".weights", __name__).load_network
    if name == "ToonError":
        return importlib.import_module(".errors", __name__).ToonError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

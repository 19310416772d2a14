"""stylegan_toon: turns photos into cartoons that still look like the person, with StyleGAN2."""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING

__version__ = "0.2.0"

# Public name -> the module that defines it, imported on first use so that importing the package is cheap.
_NAMES = {
    "FinetoonConfig": "pipelines.finetoon",
    "InversionConfig": "inversion.config",
    "ToonError": "errors",
    "blend": "pipelines.blend",
    "edit": "pipelines.edit",
    "evaluate": "metrics",
    "finetoon": "pipelines.finetoon",
    "generate": "pipelines.generate",
    "load_network": "weights",
    "ops": "ops",
    "project": "pipelines.project",
    "toonify": "pipelines.toonify",
    "train": "pipelines.train",
}
__all__ = [
    "FinetoonConfig",
    "InversionConfig",
    "ToonError",
    "blend",
    "edit",
    "evaluate",
    "finetoon",
    "generate",
    "load_network",
    "ops",
    "project",
    "toonify",
    "train",
]

if TYPE_CHECKING:
    from . import ops as ops
    from .errors import ToonError as ToonError
    from .inversion.config import InversionConfig as InversionConfig
    from .metrics import evaluate as evaluate
    from .pipelines.blend import blend as blend
    from .pipelines.edit import edit as edit
    from .pipelines.finetoon import FinetoonConfig as FinetoonConfig
    from .pipelines.finetoon import finetoon as finetoon
    from .pipelines.generate import generate as generate
    from .pipelines.project import project as project
    from .pipelines.toonify import toonify as toonify
    from .pipelines.train import train as train
    from .weights import load_network as load_network


if sys.argv[:1] == ["-m"]:  # `python -m stylegan_toon.NAME` is looking for the command

    def _explain(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        """Ctrl-C while torch is being imported ends in one line, without a traceback."""
        print("stopped", file=sys.stderr) if kind is KeyboardInterrupt else sys.__excepthook__(kind, error, trace)

    sys.excepthook = _explain


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_NAMES[name]}", __name__)
    return module if name == "ops" else getattr(module, name)


class _Package(types.ModuleType):
    """The package's class: keeps the function ``blend`` apart from the command module ``stylegan_toon.blend``.

    Importing a submodule sets an attribute of the package to the module. For the names of public functions that is
    ignored, so that ``stylegan_toon.blend`` is always the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, types.ModuleType) and name in _NAMES and name != "ops"):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

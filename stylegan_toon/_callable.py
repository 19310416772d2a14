"""Lets ``stylegan_toon.blend`` be both the module behind ``python -m`` and the function people import."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable


def callable_module(name: str, function: Callable) -> None:
    """Make the module ``name`` callable: calling it calls ``function``.

    The package promises ``from stylegan_toon import blend`` (a function) and ``python -m stylegan_toon.blend``
    (a module of the same name). Python binds an imported submodule over any attribute of that name, so the
    module itself has to answer to a call; otherwise what ``blend`` means would depend on the order of imports.
    """

    class CallableModule(types.ModuleType):
        __call__ = staticmethod(function)

    sys.modules[name].__class__ = CallableModule

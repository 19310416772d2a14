"""Functions whose results torch.compile takes for constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
FUNCTIONS: list[Callable[..., Any]] = []


def constant(function: F) -> F:
    """Decorator: torch.compile calls ``function`` once, while it traces, and takes its result for a constant.

    `compiling` marks it when the first function is traced: marking needs the compiler, whose import takes seconds.
    """
    FUNCTIONS.append(function)
    return function

"""The network that a user asks for by name or by file, ready for use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..errors import ToonError
from .hub import Unavailable

Network = TypeVar("Network", bound=nn.Module)


def choose(
    choice: str | Path,
    names: Mapping[str, Callable[[], Network]],
    files: Mapping[str, Callable[[Path], Network]] | None = None,
    *,
    what: str,
    instead: str,
    report: Callable[[str], object] | None = None,
    device: torch.device | str = "cpu",
) -> Network:
    """Build one of several networks: frozen, in eval mode, on ``device``.

    Args:
        choice: a key of ``names``, or a path that ends in a key of ``files``. With ``report`` also "auto": the first
            of ``names`` that is available.
        names: name -> builder. A builder raises `Unavailable` where its weights or its package are missing.
        files: end of a file's name, such as ".pth" or "" for any -> builder from a file of that kind.
        what: what messages call such a network, with its article: "a face embedding".
        instead: the end of a message, which says what to do: "use dlib, which ships".
        report: gets one sentence for each network that "auto" passes over.

    Raises:
        ToonError: there is no such name, or the network is not available.
    """
    text = str(choice)
    if text == "auto" and report is not None:
        for name, build in names.items():
            try:
                return _ready(build(), device)
            except Unavailable as error:
                report(f"{name} is not available ({error}): trying the next one.")
        raise ToonError(f"None of {', '.join(names)} is available: {instead}.")
    try:
        if text in names:
            return _ready(names[text](), device)
        for suffix, build_from in (files or {}).items():
            if text.endswith(suffix):
                return _ready(build_from(Path(choice)), device)
    except Unavailable as error:
        raise ToonError(f"{text} is not available ({error}): {instead}.") from error
    known = [*names, *(f"a {end or 'file'}{' file' * bool(end)}" for end in files or {})]
    raise ToonError(f"{text} is not {what}: take {', '.join(known[:-1])} or {known[-1]}.")


def _ready(network: Network, device: torch.device | str) -> Network:
    return network.eval().requires_grad_(False).to(device)

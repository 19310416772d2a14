"""Weights that other packages keep in the torch-hub cache: taken from there, or downloaded within a time limit."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from ..errors import ToonError
from ..weights.download import fetch

CONNECT_SECONDS = 5.0  # for a server to answer, and for every read after that
PATIENCE_SECONDS = 120.0  # a download that would take longer is given up


class Unavailable(Exception):
    """The file is not in the cache and cannot be fetched now; the message says why."""


def hub_file(url: str, *, folder: Path | None = None, sha256_prefix: str = "") -> Path:
    """Find the file of ``url`` in the torch-hub cache, or download it there.

    Args:
        url: where it is published; its last part is the name in the cache.
        folder: where the package that owns the file keeps it. None = ``torch.hub.get_dir()/checkpoints``.
        sha256_prefix: hexadecimal digits the SHA-256 of a fresh download must begin with.

    Raises:
        Unavailable: no connection within seconds, too slow a connection, or a damaged download.
    """
    folder = folder or Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        fetch(url, path, sha256=sha256_prefix, timeout=CONNECT_SECONDS, patience=PATIENCE_SECONDS)
    except ToonError as error:
        reason = getattr(error.__cause__, "reason", error.__cause__) or error
        raise Unavailable(f"no download from {url.split('/')[2]} ({reason})") from error
    return path


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a ``.pt`` / ``.pth`` file of tensors; nothing in it can run.

    Raises:
        Unavailable: when it is damaged or holds anything but tensors.
    """
    with contextlib.suppress(Exception):  # pickle, zip and torch each have their own errors
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict):
            return state
    raise Unavailable(f"{path} is not a readable file of weights")

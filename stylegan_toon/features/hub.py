"""Weights that other packages keep in the torch-hub cache: found there, or fetched without ever hanging."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

import torch
from tqdm import tqdm

from ..errors import ToonError
from ..files import atomic_path

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
        folder.mkdir(parents=True, exist_ok=True)
        with _open(url) as response, atomic_path(path) as temporary:
            digest = _copy(response, temporary, path.name)
            if not digest.startswith(sha256_prefix):
                raise Unavailable("the download is damaged")
    except (OSError, HTTPException, ToonError) as error:
        raise Unavailable(f"no download from {url.split('/')[2]} ({getattr(error, 'reason', error)})") from error
    return path


def _open(url: str):
    """``urlopen`` in a thread of its own: its timeout does not cover looking up the server's name."""
    answer: queue.Queue = queue.Queue()

    def connect() -> None:
        try:
            answer.put(urllib.request.urlopen(url, timeout=CONNECT_SECONDS))
        except Exception as error:  # handed to the caller, whatever it is
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        response = answer.get(timeout=CONNECT_SECONDS + 1)
    except queue.Empty:
        raise TimeoutError("no answer") from None
    if isinstance(response, Exception):
        raise response
    return response


def _copy(response, path: Path, name: str) -> str:
    """Stream a response into ``path`` under a progress bar; returns its SHA-256."""
    size = int(response.headers.get("Content-Length") or 0)
    digest, start = hashlib.sha256(), time.monotonic()
    with open(path, "wb") as file, tqdm(total=size or None, desc=name, unit="B", unit_scale=True, leave=False) as bar:
        while chunk := response.read(1 << 20):
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
            elapsed = time.monotonic() - start
            if elapsed > CONNECT_SECONDS and elapsed * max(size, bar.n) / bar.n > PATIENCE_SECONDS:
                raise TimeoutError("the connection is too slow")
    if size and bar.n < size:
        raise OSError("the connection broke off")
    return digest.hexdigest()


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

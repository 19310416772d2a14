"""Files from https addresses, kept in a cache."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from .. import __version__
from ..errors import ToonError
from ..files import atomic_path
from .checkpoint import sha256_of

MAX_BYTES = 2 << 30  # the largest published family (1024 px, with discriminator) is 0.4 GB
TIMEOUT = 30  # seconds without a byte


def cache_folder() -> Path:
    """``STYLEGAN_TOON_HOME``, or else ``~/.cache/stylegan_toon``."""
    home = os.environ.get("STYLEGAN_TOON_HOME")
    return Path(home) if home else Path.home() / ".cache" / "stylegan_toon"


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    schemes: tuple[str, ...] = ("https",)

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _require_scheme(newurl, self.schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _HttpToo(_HttpsOnly):
    schemes = ("https", "http")


def _require_scheme(url: str, schemes: tuple[str, ...]) -> None:
    if urlsplit(url).scheme not in schemes:
        raise ToonError(f"{url} is not an {' or '.join(schemes)} address: give one that is.")


def download(url: str, *, sha256: str | None = None, max_bytes: int = MAX_BYTES) -> Path:
    """The cached copy of ``url``, fetched if it is not there yet; its sha256 is shown on stderr.

    Args:
        url: must be https, and so must whatever it redirects to.
        sha256: the digest the file must have. None = any.
        max_bytes: larger files are refused.

    Raises:
        ToonError: not https, no answer, too large, cut short, or with another digest. Nothing is kept then.
    """
    _require_scheme(url, _HttpsOnly.schemes)
    name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2])[-80:] or "network"
    path = cache_folder() / "networks" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if path.exists() and (sha256 is None or sha256_of(path) == sha256.lower()):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToonError(
            f"{path.parent} cannot be made ({error.strerror or error}): set STYLEGAN_TOON_HOME to another folder."
        ) from error
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            digest = fetch(url, file, max_bytes)
        if sha256 is not None and digest != sha256.lower():
            raise ToonError(f"{url} is not the file it should be (sha256 {digest}, not {sha256}): nothing was kept.")
    print(f"{url}: sha256 {digest}", file=sys.stderr)
    return path


def fetch(url: str, file: BinaryIO, max_bytes: int, *, http: bool = False, quiet: bool = False) -> str:
    """Write the answer to an open file; its sha256. ``http`` allows plain http as well as https.

    Raises:
        ToonError: another scheme, no answer, more than ``max_bytes``, or cut short.
    """
    handler = _HttpToo if http else _HttpsOnly
    _require_scheme(url, handler.schemes)
    request = urllib.request.Request(url, headers={"User-Agent": f"stylegan_toon/{__version__}"})
    digest = hashlib.sha256()
    received = 0
    with contextlib.ExitStack() as stack:
        with _explained(url):
            answer = stack.enter_context(_open(request, handler))
            length = answer.headers.get("Content-Length", "")
        expected = int(length) if length.isdecimal() else None
        hidden = quiet or None  # None: shown on a terminal
        bar = stack.enter_context(tqdm(total=expected, unit="B", unit_scale=True, desc="fetching", disable=hidden))
        while True:
            with _explained(url):
                chunk = answer.read(1 << 20)
            received += len(chunk)
            if max(received, expected or 0) > max_bytes:
                raise ToonError(f"{url} is larger than the {max_bytes:,} bytes allowed: nothing was kept.")
            if not chunk:
                break
            digest.update(chunk)
            file.write(chunk)
            bar.update(len(chunk))
    if expected is not None and received != expected:
        raise ToonError(f"{url} broke off after {received:,} of {expected:,} bytes: try again.")
    return digest.hexdigest()


def _open(request: urllib.request.Request, handler: type[_HttpsOnly]) -> http.client.HTTPResponse:
    return urllib.request.build_opener(handler).open(request, timeout=TIMEOUT)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Network trouble as a sentence. (These are OSErrors, and would pass for a full disk further up.)"""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise ToonError(f"{url} could not be fetched ({reason}): check the address and the connection.") from error

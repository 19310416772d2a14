"""Files from web addresses, kept in a cache; a download that broke off is resumed where it stopped.

This is the only downloader of the package. The environment variable STYLEGAN_TOON_HOME names the folder of the cache,
STYLEGAN_TOON_MIRROR a folder to fetch networks from instead of their own address.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import queue
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from .. import __version__
from ..errors import ToonError
from ..files import explain_os_error
from ..progress import progress
from .checkpoint import sha256_of

MAX_BYTES = 2 << 30  # the largest published family (1024 px, with discriminator) is 0.4 GB
TIMEOUT = 30.0  # seconds without a byte


def cache_folder() -> Path:
    """The folder that ``STYLEGAN_TOON_HOME`` names, or ``~/.cache/stylegan_toon``."""
    home = os.environ.get("STYLEGAN_TOON_HOME")
    return Path(home) if home else Path.home() / ".cache" / "stylegan_toon"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to addresses with one of ``schemes`` only."""

    def __init__(self, schemes: Collection[str]) -> None:
        self.schemes = schemes

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_scheme(newurl, self.schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, schemes: Collection[str] = ("https",)) -> None:
    if urlsplit(url).scheme in schemes:
        return
    if "http" in schemes:
        raise ToonError(f"{url} is neither an http nor an https address: give one that is.")
    raise ToonError(f"{url} is not an https address: networks are only fetched over https.")


def download(url: str, *, sha256: str | None = None, max_bytes: int = MAX_BYTES, mirror: str | None = None) -> Path:
    """The cached copy of the network at ``url``, fetched if it is not there yet; its sha256 is printed on stderr.

    Args:
        url: https, as must be any address that it redirects to.
        sha256: the digest the file must have. None = any.
        max_bytes: larger files are refused.
        mirror: https address of a folder to fetch the file of the same name from instead; None = that of
            ``STYLEGAN_TOON_MIRROR``, if it is set. The copy must have the same ``sha256``.

    Raises:
        ToonError: not https, no answer, too large, cut short, or with another digest.
    """
    _check_scheme(url)
    name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2])[-80:] or "network"
    path = cache_folder() / "networks" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if _cached(path, sha256):
        return path
    mirror = mirror or os.environ.get("STYLEGAN_TOON_MIRROR")
    source = f"{mirror.rstrip('/')}/{urlsplit(url).path.rpartition('/')[2]}" if mirror else url
    _check_scheme(source)
    digest = fetch(source, path, sha256=sha256, max_bytes=max_bytes)
    print(f"{source}: sha256 {digest}", file=sys.stderr)
    return path


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    max_bytes: int = MAX_BYTES,
    timeout: float = TIMEOUT,
    patience: float | None = None,
    quiet: bool = False,
) -> str:
    """Fetch ``url`` into ``path``, unless it is there already.

    If a download breaks off, the part that has arrived is kept, and the next call asks for the rest, provided that
    the server still has the same file.

    Args:
        url: https (and then any address that it redirects to), or http for data whose ``sha256`` is known.
        path: the file to write; its folder is made.
        sha256: the digest the file must have, or the first hexadecimal digits of it. None = any.
        max_bytes: larger files are refused.
        timeout: seconds to wait for an answer, the look-up of the server's name included, and for every read.
        patience: seconds that the whole download may take; it is given up as soon as it is expected to take longer.
            None = any time.
        quiet: show no progress bar.

    Returns:
        The sha256 of the file.

    Raises:
        ToonError: no http(s) address, no answer, too slow, too large, cut short, with another digest, or the file
            cannot be written.
    """
    _check_scheme(url, ("http", "https"))
    locks = cache_folder() / "locks"
    try:
        for folder in (path.parent, locks):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToonError(
            f"{path.parent} cannot be made ({error.strerror or error}): set STYLEGAN_TOON_HOME to another folder."
        ) from error
    part = path.with_name(f"{path.name}.part")
    with FileLock(locks / path.name):  # two processes may want the same network
        if cached := _cached(path, sha256):
            return cached
        try:
            _fetch(url, part, max_bytes, timeout, patience, quiet)
        except ToonError:
            if not _tag(part).exists():  # without it the download cannot be resumed
                _forget(part)
            raise
        digest = sha256_of(part)
        if sha256 is not None and not digest.startswith(sha256.lower()):
            _forget(part)
            raise ToonError(f"{url} is not the file it should be (sha256 {digest}, not {sha256}): nothing was kept.")
        os.replace(part, path)
        _forget(part)
    return digest


def _cached(path: Path, sha256: str | None) -> str | None:
    """The sha256 of the file if it is there and the right one."""
    digest = sha256_of(path) if path.exists() else None
    return digest if digest and digest.startswith((sha256 or "").lower()) else None


def _forget(part: Path) -> None:
    for file in (part, _tag(part)):
        file.unlink(missing_ok=True)


def _tag(part: Path) -> Path:
    """The file beside a partial one that holds the server's name (ETag) of the version it is part of."""
    return part.with_name(f"{part.name}.etag")


def _fetch(url: str, part: Path, max_bytes: int, timeout: float, patience: float | None, quiet: bool) -> None:
    """Complete ``part`` with the answer of ``url``."""
    headers = {"User-Agent": f"stylegan_toon/{__version__}"}
    have = part.stat().st_size if part.exists() and _tag(part).exists() else 0
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": _tag(part).read_text()}
    with contextlib.ExitStack() as stack:
        with _explained(url):
            answer = stack.enter_context(_open(urllib.request.Request(url, headers=headers), timeout))
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not resumed:
            have = 0
            _forget(part)
            if version := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
                _tag(part).write_text(version[:200])
        length = answer.headers.get("Content-Length", "")
        expected = have + int(length) if length.isdecimal() else None
        if (expected or 0) > max_bytes:
            _forget(part)
            raise ToonError(f"{url} is larger than the {max_bytes:,} bytes allowed: nothing was kept.")
        hidden = quiet or not sys.stderr.isatty()
        bar = progress(total=expected, initial=have, unit="B", unit_scale=True, desc=part.stem[-40:], quiet=hidden)
        stack.enter_context(bar)
        received = _copy(url, answer, part, have, max_bytes, timeout, patience, bar)
    if expected is not None and received != expected:
        raise ToonError(f"{url} broke off after {received:,} of {expected:,} bytes: try again.")


def _copy(
    url: str, answer: http.client.HTTPResponse, part: Path, have: int, max_bytes: int, timeout: float,
    patience: float | None, bar: Any,
) -> int:  # fmt: skip
    """Append the answer to ``part``, which has ``have`` bytes; its size afterwards."""
    begin, before = time.monotonic(), have
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(part, "ab"))
        except OSError as error:
            raise explain_os_error(error, part) from error
        while True:
            with _explained(url):
                chunk = answer.read(1 << 20)
            if not chunk:
                return have
            have += len(chunk)
            if have > max_bytes:
                _forget(part)
                raise ToonError(f"{url} is larger than the {max_bytes:,} bytes allowed: nothing was kept.")
            try:
                file.write(chunk)
            except OSError as error:
                reason = error.strerror or error
                raise ToonError(f"{part} cannot be written ({reason}): set STYLEGAN_TOON_HOME elsewhere.") from error
            bar.update(len(chunk))
            elapsed = time.monotonic() - begin
            expected = elapsed * max((bar.total or have) - before, 1) / (have - before)
            if patience is not None and elapsed > timeout and expected > patience:
                raise ToonError(
                    f"{url} comes too slowly ({expected:.0f} s in all): try again with a better connection."
                )


def _open(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """The answer to a request, from a thread, since urllib's timeout does not cover looking up the server's name."""
    answers: queue.Queue[http.client.HTTPResponse | Exception] = queue.Queue()
    opener = urllib.request.build_opener(_Redirects(("https",) if request.type == "https" else ("http", "https")))

    def ask() -> None:
        try:
            answers.put(opener.open(request, timeout=timeout))
        except Exception as error:  # raised again below, in the thread of the caller
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout + 1)
    except queue.Empty:
        raise TimeoutError("no answer") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn network errors into a sentence here: they are OSErrors, which callers would take for a full disk."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise ToonError(
            f"{url} could not be fetched ({reason}): check the address and the connection, or get the file elsewhere "
            "and give its path."
        ) from error

"""Files from https addresses, kept in a cache; a download that broke off goes on where it stopped."""

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
from urllib.parse import urlsplit

from filelock import FileLock
from tqdm import tqdm

from .. import __version__
from ..errors import ToonError
from ..files import explain_os_error
from .checkpoint import sha256_of

MAX_BYTES = 2 << 30  # the largest published family (1024 px, with discriminator) is 0.4 GB
TIMEOUT = 30  # seconds without a byte


def cache_folder() -> Path:
    """``STYLEGAN_TOON_HOME``, or else ``~/.cache/stylegan_toon``."""
    home = os.environ.get("STYLEGAN_TOON_HOME")
    return Path(home) if home else Path.home() / ".cache" / "stylegan_toon"


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _HttpToo(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _require_web(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_web(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ToonError(f"{url} is neither an http nor an https address: give one that is.")


def _require_https(url: str) -> None:
    if urlsplit(url).scheme != "https":
        raise ToonError(f"{url} is not an https address: networks are only fetched over https.")


def download(url: str, *, sha256: str | None = None, max_bytes: int = MAX_BYTES, mirror: str | None = None) -> Path:
    """The cached copy of ``url``, fetched if it is not there yet; its sha256 is shown on stderr.

    What has arrived of a download that breaks off is kept, and the next call asks for the rest of it, if the
    server still has the same file.

    Args:
        url: must be https, and so must whatever it redirects to.
        sha256: the digest the file must have. None = any.
        max_bytes: larger files are refused.
        mirror: https address of a folder to fetch the file of the same name from instead; None = what
            ``STYLEGAN_TOON_MIRROR`` says, if anything. The copy must have the same ``sha256``.

    Raises:
        ToonError: not https, no answer, too large, cut short, or with another digest.
    """
    _require_https(url)
    name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2])[-80:] or "network"
    path = cache_folder() / "networks" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if path.exists() and (sha256 is None or sha256_of(path) == sha256.lower()):
        return path
    mirror = mirror or os.environ.get("STYLEGAN_TOON_MIRROR")
    source = f"{mirror.rstrip('/')}/{urlsplit(url).path.rpartition('/')[2]}" if mirror else url
    _require_https(source)
    digest = fetch(source, path, sha256=sha256, max_bytes=max_bytes)
    print(f"{source}: sha256 {digest}", file=sys.stderr)
    return path


def fetch(url: str, path: Path, *, sha256: str | None = None, max_bytes: int = MAX_BYTES, quiet: bool = False) -> str:
    """Get ``url`` into ``path``, unless it is there; its sha256.

    As `download`, but plain http will do where ``url`` begins with it: for data, whose ``sha256`` is known.
    """
    _require_web(url)
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
        if path.exists() and (sha256 is None or sha256_of(path) == sha256.lower()):
            return sha256 or sha256_of(path)
        try:
            _fetch(url, part, max_bytes, quiet)
        except ToonError:
            if not _tag(part).exists():  # then it could not go on from there
                _forget(part)
            raise
        digest = sha256_of(part)
        if sha256 is not None and digest != sha256.lower():
            _forget(part)
            raise ToonError(f"{url} is not the file it should be (sha256 {digest}, not {sha256}): nothing was kept.")
        os.replace(part, path)
        _forget(part)
    return digest


def _forget(part: Path) -> None:
    for file in (part, _tag(part)):
        file.unlink(missing_ok=True)


def _tag(part: Path) -> Path:
    """Beside a partial file: what the server called the version it is part of."""
    return part.with_name(f"{part.name}.etag")


def _fetch(url: str, part: Path, max_bytes: int, quiet: bool) -> None:
    """Complete ``part`` with the answer of ``url``."""
    headers = {"User-Agent": f"stylegan_toon/{__version__}"}
    have = part.stat().st_size if part.exists() and _tag(part).exists() else 0
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": _tag(part).read_text()}
    with contextlib.ExitStack() as stack:
        with _explained(url):
            answer = stack.enter_context(_open(urllib.request.Request(url, headers=headers)))
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not goes_on:
            have = 0
            _forget(part)
            if version := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
                _tag(part).write_text(version[:200])
        length = answer.headers.get("Content-Length", "")
        expected = have + int(length) if length.isdecimal() else None
        if (expected or 0) > max_bytes:
            _forget(part)
            raise ToonError(f"{url} is larger than the {max_bytes:,} bytes allowed: nothing was kept.")
        hidden = quiet or None  # None: shown on a terminal
        bar = tqdm(total=expected, initial=have, unit="B", unit_scale=True, desc=part.stem[-40:], disable=hidden)
        stack.enter_context(bar)
        received = _copy(url, answer, part, have, max_bytes, bar)
    if expected is not None and received != expected:
        raise ToonError(f"{url} broke off after {received:,} of {expected:,} bytes: try again.")


def _copy(url: str, answer: http.client.HTTPResponse, part: Path, have: int, max_bytes: int, bar: tqdm) -> int:
    """Append what comes to ``part``; the size it has then."""
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


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    handler = _HttpsOnly if request.type == "https" else _HttpToo
    return urllib.request.build_opener(handler).open(request, timeout=TIMEOUT)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Network trouble as a sentence. (These are OSErrors, and would pass for a full disk further up.)"""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise ToonError(
            f"{url} could not be fetched ({reason}): check the address and the connection, or get the file elsewhere "
            "and give its path."
        ) from error

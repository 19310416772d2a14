"""Fetching weights: from the cache, over a loopback server, and with timeouts."""

import hashlib
import http.server
import threading
import time
import urllib.error
import urllib.request
from urllib.request import OpenerDirector

import pytest
import torch

from stylegan_toon.features import hub
from stylegan_toon.features.hub import Unavailable, hub_file, load_state
from stylegan_toon.weights import download

BODY = bytes(range(256)) * 5000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:1000] if "short" in self.path else BODY)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("STYLEGAN_TOON_HOME", str(tmp_path_factory.mktemp("home")))


def test_cached_file_needs_no_network(tmp_path, monkeypatch):
    (tmp_path / "net.pth").write_bytes(b"x")
    monkeypatch.setattr(OpenerDirector, "open", lambda *a, **k: pytest.fail("went to the network"))
    assert hub_file("https://nowhere.invalid/net.pth", folder=tmp_path) == tmp_path / "net.pth"


def test_download_is_checked_and_kept(tmp_path, server):
    digest = hashlib.sha256(BODY).hexdigest()
    path = hub_file(f"{server}/net.pth", folder=tmp_path / "new", sha256_prefix=digest[:8])
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("name, prefix", [("short.pth", ""), ("whole.pth", "00000000")])
def test_damaged_download_leaves_nothing(tmp_path, server, name, prefix):
    with pytest.raises(Unavailable):
        hub_file(f"{server}/{name}", folder=tmp_path, sha256_prefix=prefix)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_connection_times_out(tmp_path, server, monkeypatch):
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.0)
    monkeypatch.setattr(hub, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(download, "_open", lambda request, timeout: urllib.request.urlopen(request, timeout=5))
    with pytest.raises(Unavailable, match="too slowly"):
        hub_file(f"{server}/net.pth", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_connection_is_reported(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(OpenerDirector, "open", refuse)
    with pytest.raises(Unavailable, match=r"example\.org.*no route"):
        hub_file("https://example.org/net.pth", folder=tmp_path)


def test_silent_name_server_does_not_hang(tmp_path, monkeypatch):
    """A name lookup that never answers is not covered by urllib's own timeout."""
    release = threading.Event()
    monkeypatch.setattr(OpenerDirector, "open", lambda *a, **k: release.wait(60))
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(Unavailable, match="no answer"):
        hub_file("https://example.org/net.pth", folder=tmp_path)
    assert time.monotonic() - start < 10
    release.set()


class Trap:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('sprung').touch()",))


def test_state_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Trap()}, tmp_path / "evil.pth")
    with pytest.raises(Unavailable):
        load_state(tmp_path / "evil.pth")
    assert not (tmp_path / "sprung").exists()

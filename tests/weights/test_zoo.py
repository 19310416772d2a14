"""Networks by name, file and address, and what is refused. No test uses the network."""

from __future__ import annotations

import copy
import email.message
import errno
import hashlib
import io
import os
import pickle
import urllib.error
from pathlib import Path

import pytest
import torch
from tiny import tiny_discriminator, tiny_generator

from stylegan_toon import load_network
from stylegan_toon.errors import ToonError
from stylegan_toon.weights import (
    catalogue,
    load_networks,
    pretrained_folder,
    save_delta,
    save_networks,
    sha256_of,
    unrelated,
    write_networks,
    zoo,
)
from stylegan_toon.weights import download as download_module
from stylegan_toon.weights.download import download

MODELS = """
[faces]
file = "faces.safetensors"
sha256 = "{faces}"
licence = "L1"
[comic]
file = "comic.safetensors"
[transferred]
same_as = "comic"
[high]
base = "faces"
toon = "comic"
swap = "b16-"
[lost]
file = "lost.safetensors"
[far]
url = "https://example.invalid/far.safetensors"
sha256 = "{faces}"
size = 1000000
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A zoo of tiny networks, and an empty cache."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    save_networks(folder / "faces.safetensors", {"G_ema": tiny_generator(0), "D": tiny_discriminator(0)},
                  provenance={"licence": "L1"})  # fmt: skip
    parent = load_networks(folder / "faces.safetensors")["G_ema"].provenance["sha256"]
    save_networks(folder / "comic.safetensors", {"G_ema": tiny_generator(1)},
                  provenance={"licence": "L2", "ancestors": [parent]})  # fmt: skip
    (folder / "models.toml").write_text(MODELS.format(faces=parent))
    monkeypatch.setattr(zoo, "pretrained_folder", lambda: folder)
    monkeypatch.setenv("STYLEGAN_TOON_HOME", str(tmp_path / "cache"))
    return folder


def serve(monkeypatch, body: bytes = b"", *, length: int | None = None, error: Exception | None = None) -> list[str]:
    """Answer every request with ``body``; the list returned collects the addresses asked for."""
    asked = []

    def answer(request, timeout):
        asked.append(request.full_url)
        if error is not None:
            raise error
        stream = io.BytesIO(body)
        stream.status = 200
        stream.headers = email.message.Message()
        stream.headers["Content-Length"] = str(len(body) if length is None else length)
        return stream

    monkeypatch.setattr(download_module, "_open", answer)
    return asked


def refused(source, **options) -> str:
    with pytest.raises(ToonError) as caught:
        load_network(source, **options)
    return str(caught.value)


def test_shipped_files_by_name(home):
    G = load_network("faces")
    assert not G.training
    assert torch.equal(G.synthesis.b4.const, tiny_generator(0).synthesis.b4.const)
    assert G.provenance["name"] == "faces" and G.provenance["sha256"] == sha256_of(home / "faces.safetensors")
    assert type(load_network("faces", which="D")).__name__ == "Discriminator"
    assert load_network("transferred").provenance["sha256"] == sha256_of(home / "comic.safetensors")


def test_a_blend_by_name(home):
    faces, comic, high = (load_network(name).state_dict() for name in ("faces", "comic", "high"))
    for key in high:
        theirs = any(f".b{res}." in key for res in (16, 32))
        assert torch.equal(high[key], (comic if theirs else faces)[key])
    provenance = load_network("high").provenance
    assert provenance["name"] == "high" and provenance["licence"] == "L1; L2"
    assert provenance["parents"] == [
        {"name": name, "sha256": sha256_of(home / f"{name}.safetensors")} for name in ("faces", "comic")
    ]
    assert not unrelated(load_network("high"), load_network("faces"))
    assert "is a blend and has no D" in refused("high", which="D")


def test_lineage(home, checkpoint):
    assert not unrelated(load_network("faces"), load_network("comic"))
    assert unrelated(load_network("faces"), load_network(checkpoint))
    assert not unrelated(load_network("faces"), tiny_generator(5)), "a network without a history is not accused"


def test_a_changed_file_is_not_loaded(home):
    save_networks(home / "faces.safetensors", {"G_ema": tiny_generator(9)}, overwrite=True)
    assert "is not the file it should be" in refused("faces")


def test_unknown_names_and_missing_files(home, tmp_path):
    assert refused("face") == "There is no network named 'face': say faces or far, or give a file or an https address."
    assert "say faces or comic or transferred or high" in refused("zzzz")
    assert "lost.safetensors of the network 'lost' is missing" in refused("lost")
    assert "does not exist" in refused("./faces")
    assert "does not exist" in refused(tmp_path / "faces")
    assert "does not exist" in refused("faces.safetensors")
    (home / "models.toml").unlink()
    assert "reinstall" in refused("faces")


def test_which_must_have_the_matching_class(tmp_path):
    save_networks(tmp_path / "odd.safetensors", {"G_ema": tiny_discriminator(0)})
    assert "is a Discriminator, not a Generator" in refused(tmp_path / "odd.safetensors")
    assert "holds no D, only G_ema" in refused(tmp_path / "odd.safetensors", which="D")


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".safetensors"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_never_run_whatever_they_are_called(tmp_path, suffix, protocol):
    """The file would create another file if anything unpickled it. (tests/weights/test_hostile.py has many more.)"""
    mark = tmp_path / "mark"
    (tmp_path / f"network{suffix}").write_bytes(pickle.dumps(_Touch(mark), protocol))
    message = refused(tmp_path / f"network{suffix}")
    assert "posix.system" in message if protocol else "is not a file of networks" in message
    assert not mark.exists()


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def test_files_of_other_repositories_load(home, tmp_path, monkeypatch):
    write_networks(tmp_path / "x.pkl", {"G_ema": tiny_generator(6)})
    write_networks(tmp_path / "x.pt", {"G_ema": tiny_generator(6, z_dim=48, w_dim=48, c_dim=0)})
    for suffix in (".pkl", ".pt"):
        G = load_network(tmp_path / f"x{suffix}")
        assert G.provenance["sha256"] == sha256_of(tmp_path / f"x{suffix}")
    serve(monkeypatch, (tmp_path / "x.pkl").read_bytes())
    G = load_network("https://example.invalid/x.pkl")
    assert torch.equal(G.synthesis.b4.const, tiny_generator(6).synthesis.b4.const) and G.provenance["name"] == "x.pkl"


def test_the_shipped_catalogue_is_valid():
    entries = catalogue()
    assert {"faces", "comic", "transferred", "toonify-original", "toon-ours", "toon-ours-negative"} <= entries.keys()
    for entry in entries.values():
        sorts = [entry.file or entry.url, entry.swap, entry.same_as]
        assert sum(part is not None for part in sorts) == 1, entry.name
        assert entry.about
        if entry.swap is not None:
            assert {entry.base, entry.toon} <= entries.keys()
        if entry.delta is not None:
            assert entry.swap is not None and sha256_of(pretrained_folder() / entry.delta) == entry.sha256
        if entry.same_as is not None:
            assert entries[entry.same_as].same_as is None
        if entry.url is not None:
            assert entry.url.startswith("https://")
        if entry.file or entry.url:
            assert entry.licence


@pytest.mark.parametrize("name", ["faces", "comic"])
def test_shipped_weights_are_pinned_and_load(name):
    path = pretrained_folder() / f"{name}.safetensors"
    assert catalogue()[name].sha256 == sha256_of(path)
    G = load_network(name)
    assert G.config.resolution == 1024 and name in G.provenance["name"]
    with torch.no_grad():
        picture = G(torch.zeros(1, G.config.z_dim), psi=0.7, resolution=64)
    assert picture.shape == (1, 3, 64, 64) and 0.1 < picture.std() < 1


def test_a_blend_with_a_delta(home):
    """The blend plus what training changed in it, of a file that is pinned."""
    blend = load_network("high")
    tuned = copy.deepcopy(blend)
    with torch.no_grad():
        tuned.synthesis.b8.conv1.bias += 0.5
    save_delta(home / "delta.safetensors", blend, tuned, provenance={"identity": "dlib"})
    digest = sha256_of(home / "delta.safetensors")
    entry = '[tuned]\nbase = "faces"\ntoon = "comic"\nswap = "b16-"\ndelta = "delta.safetensors"\n'
    toml = home / "models.toml"
    before = toml.read_text()
    toml.write_text(f'{before}{entry}sha256 = "{digest}"\n')
    found = load_network("tuned")
    torch.testing.assert_close(found.synthesis.b8.conv1.bias, tuned.synthesis.b8.conv1.bias, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.synthesis.b16.conv1.weight, blend.synthesis.b16.conv1.weight)
    assert found.provenance["identity"] == "dlib" and digest in found.provenance["ancestors"]
    assert found.provenance["name"] == "tuned"
    toml.write_text(f'{before}{entry}sha256 = "{"0" * 64}"\n')
    with pytest.raises(ToonError, match="is not the file it should be"):
        load_network("tuned")


# Downloads


def test_a_download_is_checked_and_kept(home, monkeypatch, capsys):
    body = (home / "faces.safetensors").read_bytes()
    asked = serve(monkeypatch, body)
    for _ in range(2):
        assert load_network("far").provenance["name"] == "far"
    assert asked == ["https://example.invalid/far.safetensors"]
    assert f"sha256 {hashlib.sha256(body).hexdigest()}" in capsys.readouterr().err
    network = load_network(f"https://example.invalid/far.safetensors#sha256={hashlib.sha256(body).hexdigest().upper()}")
    assert network.provenance["name"] == "far.safetensors" and len(asked) == 1


def test_a_damaged_cache_is_fetched_again(home, monkeypatch):
    asked = serve(monkeypatch, (home / "faces.safetensors").read_bytes())
    load_network("far")
    (cached,) = (home.parent / "cache" / "networks").iterdir()
    cached.write_bytes(b"spoilt")
    load_network("far")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (dict(body=b"something else"), "is not the file it should be"),
        (dict(body=b"x" * 2_000_000), "larger than the 1,000,000 bytes allowed"),
        (dict(body=b"x" * 2_000_000, length=10), "larger than the 1,000,000 bytes allowed"),
        (dict(body=b"x", length=2_000_000), "larger than the 1,000,000 bytes allowed"),
        (dict(body=b"x" * 100, length=200), "broke off after 100 of 200 bytes"),
        (dict(error=urllib.error.HTTPError("u", 404, "Not Found", None, None)), r"could not be fetched \(Not Found\)"),
        (dict(error=urllib.error.URLError(OSError(errno.ENETUNREACH, "Unreachable"))), "could not be fetched"),
        (dict(error=TimeoutError("timed out")), "could not be fetched"),
    ],
)
def test_a_bad_download_leaves_nothing(home, monkeypatch, answer, reason):
    serve(monkeypatch, **answer)
    with pytest.raises(ToonError, match=reason):
        load_network("far")
    assert os.listdir(home.parent / "cache" / "networks") == []


def test_only_https_even_after_a_redirect(home, monkeypatch):
    asked = serve(monkeypatch)
    for address in ("http://example.invalid/x.safetensors", "file:///etc/passwd", "ftp://example.invalid/x"):
        assert "is not an https address" in refused(address)
    assert asked == []
    handler = download_module._Redirects(("https",))
    with pytest.raises(ToonError, match="is not an https address"):
        handler.redirect_request(None, None, 302, "Found", {}, "http://example.invalid/x")


def test_a_malformed_digest_is_refused(home, monkeypatch):
    asked = serve(monkeypatch)
    assert "64 hexadecimal digits" in refused("https://example.invalid/x.safetensors#sha-256=00")
    assert asked == []


def test_a_cache_that_cannot_be_made(home, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STYLEGAN_TOON_HOME", str(tmp_path / "file"))
    serve(monkeypatch, b"x")
    with pytest.raises(ToonError, match="STYLEGAN_TOON_HOME"):
        download("https://example.invalid/x.safetensors")


def test_names_in_addresses_stay_in_the_cache(home, monkeypatch, tmp_path):
    serve(monkeypatch, b"x")
    for rest in ("a/..%2f..%2fx", "", "..", "é" * 300):
        path = download(f"https://example.invalid/{rest}")
        assert path.parent == tmp_path / "cache" / "networks" and path.read_bytes() == b"x"


class Server:
    """A web server that supports ranges and closes the connection after ``patience`` bytes."""

    def __init__(self, body: bytes, etag: str | None, patience: int) -> None:
        self.body, self.etag, self.patience = body, etag, patience
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, request, timeout):
        wanted, version = request.get_header("Range"), request.get_header("If-range")
        self.asked.append((request.full_url, wanted))
        start = int(wanted[6:-1]) if wanted and version == self.etag else 0
        stream = io.BytesIO(self.body[start : start + self.patience])
        stream.status = 206 if start else 200
        stream.headers = email.message.Message()
        stream.headers["Content-Length"] = str(len(self.body) - start)
        if self.etag:
            stream.headers["ETag"] = self.etag
        if start:
            stream.headers["Content-Range"] = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
        return stream


URL = "https://example.invalid/x.safetensors"


def test_an_interrupted_download_resumes(home, monkeypatch):
    server = Server(os.urandom(250_000), '"one"', patience=100_000)
    monkeypatch.setattr(download_module, "_open", server)
    for _ in range(2):
        with pytest.raises(ToonError, match="broke off"):
            download(URL)
    path = download(URL)
    assert path.read_bytes() == server.body
    assert [wanted for _, wanted in server.asked] == [None, "bytes=100000-", "bytes=200000-"]
    assert os.listdir(path.parent) == [path.name], "nothing partial is left"


def test_a_changed_file_is_fetched_from_the_start(home, monkeypatch):
    server = Server(b"old" * 50_000, '"one"', patience=100_000)
    monkeypatch.setattr(download_module, "_open", server)
    with pytest.raises(ToonError, match="broke off"):
        download(URL)
    server.body, server.etag, server.patience = b"new" * 40_000, '"two"', 10**6
    assert download(URL).read_bytes() == server.body


def test_without_a_version_nothing_partial_is_kept(home, monkeypatch):
    monkeypatch.setattr(download_module, "_open", Server(b"x" * 200_000, None, patience=100_000))
    with pytest.raises(ToonError, match="broke off"):
        download(URL)
    assert os.listdir(home.parent / "cache" / "networks") == []


def test_a_mirror_serves_the_same_file(home, monkeypatch):
    body = (home / "faces.safetensors").read_bytes()
    asked = serve(monkeypatch, body)
    download(URL, mirror="https://mirror.invalid/networks/", sha256=hashlib.sha256(body).hexdigest())
    monkeypatch.setenv("STYLEGAN_TOON_MIRROR", "https://elsewhere.invalid/n")
    load_network("far")
    assert asked == ["https://mirror.invalid/networks/x.safetensors", "https://elsewhere.invalid/n/far.safetensors"]
    next((home.parent / "cache" / "networks").glob("*-far.safetensors")).unlink()
    load_network("far", mirror="https://third.invalid")
    assert asked[2:] == ["https://third.invalid/far.safetensors"]
    monkeypatch.setenv("STYLEGAN_TOON_MIRROR", "http://elsewhere.invalid")
    assert "is not an https address" in refused("https://example.invalid/y.safetensors")

"""From a name, a file or an address to a network; and what is refused on the way. Nothing here leaves the machine."""

from __future__ import annotations

import email.message
import errno
import hashlib
import io
import os
import urllib.error
from pathlib import Path

import pytest
import torch
from tiny import tiny_discriminator, tiny_generator

from stylegan_toon import load_network
from stylegan_toon.errors import ToonError
from stylegan_toon.weights import catalogue, load_networks, pretrained_folder, save_networks, sha256_of, unrelated, zoo
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

    def answer(request):
        asked.append(request.full_url)
        if error is not None:
            raise error
        stream = io.BytesIO(body)
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


def test_a_blend_made_on_the_spot(home):
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


def test_which_must_be_what_its_name_says(tmp_path):
    save_networks(tmp_path / "odd.safetensors", {"G_ema": tiny_discriminator(0)})
    assert "is a Discriminator, not a Generator" in refused(tmp_path / "odd.safetensors")
    assert "holds no D, only G_ema" in refused(tmp_path / "odd.safetensors", which="D")


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".PTH"])
def test_pickles_are_refused_unopened(tmp_path, monkeypatch, suffix):
    """The file would leave a mark if anything unpickled it."""
    mark = tmp_path / "mark"
    path = tmp_path / f"network{suffix}"
    path.write_bytes(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())
    assert "does not read" in refused(path)
    asked = serve(monkeypatch)
    assert "does not read" in refused(f"https://example.invalid/network{suffix}")
    path.rename(tmp_path / "network.safetensors")
    assert "is not a file of networks" in refused(tmp_path / "network.safetensors")
    assert not mark.exists() and asked == []


def test_the_real_catalogue_is_sound():
    entries = catalogue()
    assert {"faces", "comic", "transferred", "toonify-original", "toon-ours", "toon-ours-negative"} <= entries.keys()
    for entry in entries.values():
        sorts = [entry.file or entry.url, entry.swap, entry.same_as]
        assert sum(part is not None for part in sorts) == 1, entry.name
        assert entry.about
        if entry.swap is not None:
            assert {entry.base, entry.toon} <= entries.keys()
        if entry.same_as is not None:
            assert entries[entry.same_as].same_as is None
        if entry.url is not None:
            assert entry.url.startswith("https://") and entry.sha256 and entry.size
        if entry.file or entry.url:
            assert entry.licence


@pytest.mark.parametrize("name", ["faces", "comic"])
def test_shipped_weights_are_pinned_and_load(name):
    path = pretrained_folder() / f"{name}.safetensors"
    assert catalogue()[name].sha256 == sha256_of(path)
    G, D = load_network(name), load_network(name, which="D")
    assert D(G(torch.zeros(1, G.config.z_dim))).isfinite().all()


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


def test_a_spoilt_cache_is_fetched_again(home, monkeypatch):
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
    handler = download_module._HttpsOnly()
    with pytest.raises(ToonError, match="is not an https address"):
        handler.redirect_request(None, None, 302, "Found", {}, "http://example.invalid/x")


def test_a_mistyped_digest_is_not_ignored(home, monkeypatch):
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

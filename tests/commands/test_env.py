"""The command `env`: versions, kernels, networks."""

from __future__ import annotations

import importlib.metadata
import json
import socket

import torch
from click.testing import CliRunner
from tiny import tiny_generator

from stylegan_toon import __version__, ops
from stylegan_toon.env import main
from stylegan_toon.pipelines.env import env
from stylegan_toon.weights import save_networks, sha256_of


def test_json_and_text_say_the_same(monkeypatch):
    def no_network(*_):
        raise AssertionError("env reached for the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    result = CliRunner().invoke(main, ["--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report == env()
    lines = CliRunner().invoke(main, []).stdout.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == list(report)
    entries = [item for section in report.values() for item in section.items()]
    for (name, value), line in zip(entries, (line for line in lines if line.startswith("  ")), strict=True):
        assert line.split(maxsplit=1) == [name, "; ".join(value) if isinstance(value, list) else str(value)]


def test_versions_and_kernels_are_the_real_ones():
    report = env()
    assert report["versions"]["stylegan_toon"] == __version__
    assert report["versions"]["torch"].startswith(torch.__version__)
    assert report["versions"]["safetensors"] == importlib.metadata.version("safetensors")
    status = ops.status()
    assert report["kernels"]["cpu"] == status.live["cpu"] and report["kernels"]["library"] == status.path


def test_networks(tmp_path, monkeypatch):
    save_networks(tmp_path / "a.safetensors", {"G_ema": tiny_generator(0)})
    digest = sha256_of(tmp_path / "a.safetensors")
    (tmp_path / "models.toml").write_text(
        f'[a]\nfile = "a.safetensors"\nsha256 = "{digest}"\n[b]\nfile = "a.safetensors"\nsha256 = "{"0" * 64}"\n'
        '[c]\nfile = "c.safetensors"\n[d]\nsame_as = "a"\n[e]\nbase = "a"\ntoon = "b"\nswap = "b8"\n'
        '[f]\nfile = "f.safetensors"\nurl = "https://example.invalid/f"\n'
    )
    monkeypatch.setattr("stylegan_toon.weights.zoo.pretrained_folder", lambda: tmp_path)
    monkeypatch.setattr("stylegan_toon.pipelines.env.pretrained_folder", lambda: tmp_path)
    assert env()["networks"] == {
        "a": "shipped",
        "b": "shipped, but changed: reinstall stylegan_toon",
        "c": "missing: reinstall stylegan_toon",
        "d": "same as a",
        "e": "blend of a and b, b8",
        "f": "downloaded when asked for, from https://example.invalid/f (not verified here)",
    }
    (tmp_path / "models.toml").unlink()
    assert "reinstall" in env()["networks"]["none"]

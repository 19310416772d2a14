"""The command `evaluate`: its table, JSON, log line and picture, and its error messages."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shell
from PIL import Image
from tiny import tiny_generator

from stylegan_toon import load_network
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.evaluate import main
from stylegan_toon.features import extractors
from stylegan_toon.features.hub import Unavailable
from stylegan_toon.metrics import evaluate
from stylegan_toon.weights import save_networks

FD = "fd-efficientnet-lite0"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STYLEGAN_TOON_HOME", str(tmp_path / "home"))


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "reals"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


run, refused = partial(shell.run, main), partial(shell.refused, main)


def test_a_network(tmp_path, checkpoint, data):
    out = tmp_path / "out"
    options = ["--network", checkpoint, "--data", data, "--metrics", f"{FD},kd-efficientnet-lite0", "--out", out]
    result = run(*options, "--samples", 5, "--psi", 0.9, "--seed", 2)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "tiny.json").read_text())
    reals = ImageDataset(data, 32, resize=True)
    truth = evaluate(load_network(checkpoint), reals, list(report["metrics"]), samples=5, psi=0.9, seed=2)
    assert report["metrics"] == truth and list(truth) == [FD, "kd-efficientnet-lite0"]
    assert report.items() >= {
        "name": "tiny", "samples": 5, "psi": 0.9, "seed": 2, "data": "reals", "reals": 6, "resolution": 32
    }.items()  # fmt: skip
    assert report["sha256"] == load_network(checkpoint).provenance["sha256"]
    assert report["networks"]["efficientnet-lite0"].startswith("57934424")
    table = result.stdout.splitlines()
    assert table[0].split() == [FD, f"{truth[FD]:.5g}", "lower", "is", "better"]
    assert table[-1] == str(out / "tiny.json")
    assert "compares 5 pictures by 1280 features" in result.stderr
    assert Image.open(out / "tiny.png").width > 8 * 128
    assert str(tmp_path) not in (out / "tiny.json").read_text()


def test_lines_are_appended_and_nothing_is_overwritten_unasked(tmp_path, data):
    options = ["--pictures", data, "--data", data, "--metrics", FD, "--out", tmp_path / "out", "--quiet"]
    assert run(*options).exit_code == 0
    assert "--overwrite" in refused(*options)
    assert run(*options, "--samples", 4, "--reals", 5, "--overwrite").exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["samples"], line["reals"]) for line in lines] == [(6, 6), (4, 5)]
    assert abs(lines[0]["metrics"][FD]) < 1e-6 < lines[1]["metrics"][FD]
    assert lines[1] == json.loads((tmp_path / "out" / "reals.json").read_text())


def test_photos_and_toons(tmp_path, portrait, crop):
    for folder, file, name in (("photos", portrait, "me.jpg"), ("toons", crop, "me-toon.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(file.read_bytes())
    result = run(
        "--photos", tmp_path / "photos", "--toons", tmp_path / "toons", "--out", tmp_path / "out",
        "--metrics", "identity-dlib,detection",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "photos.json").read_text())
    assert report["pairs"] == 1 and report["metrics"]["detection"] == 1
    assert 0.8 < report["metrics"]["identity-dlib"] < 1
    assert Image.open(tmp_path / "out" / "photos.png").height > 128


def test_missing_and_unknown_options_are_refused(tmp_path, checkpoint, data):
    out = ["--out", tmp_path / "out"]
    for given in ([], ["--network", checkpoint, "--pictures", data], ["--photos", data], ["--toons", data]):
        assert "Say what to measure" in refused(*given, *out)
    assert "--data" in refused("--network", checkpoint, *out, "--metrics", FD)
    assert "no metric named 'fud'" in refused("--network", checkpoint, *out, "--metrics", "detection,fud")
    assert "needs a network" in refused("--pictures", data, *out, "--metrics", "identity-dlib")
    assert "as the base" in refused("--network", checkpoint, *out, "--metrics", "identity-dlib")
    assert not list(tmp_path.glob("out/*"))


def test_a_missing_connection_is_reported_before_any_work(tmp_path, checkpoint, data, monkeypatch):
    def fail(url, **kwargs):
        raise Unavailable("no download from github.com (no answer)")

    monkeypatch.setattr(extractors, "hub_file", fail)
    line = refused("--network", checkpoint, "--data", data, "--metrics", "fid", "--out", tmp_path / "out")
    assert "no answer" in line and "use efficientnet-lite0" in line
    assert not (tmp_path / "out").exists()


def test_nothing_is_downloaded_for_missing_input(tmp_path, checkpoint, data, monkeypatch):
    monkeypatch.setattr(extractors, "hub_file", lambda url, **kwargs: pytest.fail("a download"))
    options = ["--metrics", "fid", "--out", tmp_path / "out"]
    assert "none does not exist" in refused("--network", checkpoint, "--data", tmp_path / "none", *options)
    assert "none does not exist" in refused("--pictures", tmp_path / "none", "--data", data, *options)
    assert "a folder of each" in refused("--photos", data, "--toons", tmp_path / "none", *options)


def test_a_conditional_network(tmp_path, data):
    save_networks(tmp_path / "c.safetensors", {"G_ema": tiny_generator(0, c_dim=2)})
    options = ["--network", tmp_path / "c.safetensors", "--data", data, "--metrics", "detection", "--samples", 2]
    assert "has no dataset.json" in refused(*options, "--out", tmp_path / "out")
    (data / "dataset.json").write_text(json.dumps({"labels": [[f"{i}.png", i % 2] for i in range(6)]}))
    assert run(*options, "--out", tmp_path / "out").exit_code == 0
    assert json.loads((tmp_path / "out" / "c.json").read_text())["metrics"] == {"detection": 0}

"""What a training logs, and where."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image
from tiny import tiny_generator

from stylegan_toon.errors import ToonError
from stylegan_toon.training.log import JsonLines, Log, TensorBoard, WandB, open_sinks
from stylegan_toon.training.samples import SampleGrid


class Heard:
    def __init__(self) -> None:
        self.calls: list = []

    def numbers(self, images, values):
        self.calls.append((images, values))

    def picture(self, images, name, path):
        self.calls.append((images, name, path))

    def close(self):
        self.calls.append("closed")


def test_means_since_the_last_tick():
    heard = Heard()
    log = Log([heard], quiet=True)
    log.start("train", 100, 0)
    log.report(a=torch.tensor([1.0, 3.0]), b=2)
    log.report(a=torch.tensor(5.0))
    log.tick(8, p=0.5)
    log.report(a=1.0)
    log.tick(16)
    log.close()
    assert heard.calls == [(8, {"a": 3.5, "b": 2.0, "p": 0.5}), (16, {"a": 1.0}), "closed"]


def test_a_failing_sink_does_not_end_the_training():
    class Full(Heard):
        def numbers(self, images, values):
            raise ToonError("The disk is full, so x could not be written: free some space.")

    heard = Heard()
    log = Log([Full(), heard], quiet=True)
    log.start("train", 100, 0)
    with pytest.warns(UserWarning, match="The disk is full.* training goes on"):
        log.tick(8, p=0.5)
    assert heard.calls == [(8, {"p": 0.5})]
    log.close()


def test_json_lines_after_the_snapshot_are_removed(tmp_path):
    sink = JsonLines(tmp_path)
    for images in (8, 16, 24):
        sink.numbers(images, {"G": images / 3})
    JsonLines(tmp_path, 16).numbers(20, {"G": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["kimg"] for line in lines] == [0.008, 0.016, 0.02] and lines[0]["G"] == 2.66667


def test_tensorboard(tmp_path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    result = open_sinks(tmp_path, 0)
    assert [type(sink) for sink in result] == [JsonLines, TensorBoard]
    for sink in result:
        sink.numbers(16, {"G": 0.25})
        sink.picture(16, "fakes", tmp_path / "a.png")
        sink.close()
    events = loading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("G")] == [(16, 0.25)]
    (image,) = events.Images("fakes")
    assert (image.width, image.height) == (8, 4)


def test_without_tensorboard_the_log_remains(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert [type(sink) for sink in open_sinks(tmp_path, 0)] == [JsonLines]


def test_wandb_is_used_only_with_a_project_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert not any(isinstance(sink, WandB) for sink in open_sinks(tmp_path, 0))
    with pytest.raises(ToonError, match="pip install wandb"):
        open_sinks(tmp_path, 0, wandb="toons")


def test_wandb_resumes_the_same_run(tmp_path, monkeypatch):
    """Offline, with the real package."""
    pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    names = []
    for images in (0, 16):
        sink = WandB(tmp_path, "toons", {"lr": 0.1}, images)
        sink.numbers(images + 8, {"path_length": 0.5})
        sink.picture(images + 8, "fakes", tmp_path / "a.png")
        names.append(sink._run.id)
        assert sink._run.config["lr"] == 0.1
        sink.close()
    assert names[0] == names[1] == (tmp_path / "wandb.id").read_text()
    records = [path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    assert records and all(b"path_length" in data for data in records)
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/fakes*.png"))


def test_the_grid_shows_one_class_a_column(monkeypatch):
    G, asked = tiny_generator(0, c_dim=3).eval(), []
    forward = type(G).forward
    monkeypatch.setattr(type(G), "forward", lambda self, z, c, **k: (asked.append(c), forward(self, z, c, **k))[1])
    grid = SampleGrid(G)
    picture = grid.sheet(G)
    classes = torch.cat(asked).argmax(1)
    assert grid.columns == 8 and classes.tolist() == [i % 8 % 3 for i in range(32)]
    assert picture.width > 8 * 32
    assert SampleGrid(tiny_generator(0)).c is None

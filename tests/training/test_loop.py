"""The loop with a small task, and what the projects share."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from projects import _common as common
from stylegan_toon.config import Config, from_values, option, read_toml
from stylegan_toon.data.charts import ticks
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.training import loop
from stylegan_toon.training.config import TrainConfig
from stylegan_toon.training.curves import curves
from stylegan_toon.training.log import JsonLines
from stylegan_toon.training.loop import Trainer
from stylegan_toon.training.snapshot_format1 import upgrade_state, upgrade_tensors
from stylegan_toon.training.snapshots import find_snapshot, snapshots
from stylegan_toon.training.stylegan2_state import StyleGAN2State
from stylegan_toon.weights import KINDS, load_networks, provenance_of, sha256_of


@dataclass(frozen=True)
class FilterConfig:
    width: int = 3


class Filter(nn.Module):
    """A convolution and a batch norm: parameters, buffers, and dropout for randomness of torch's own."""

    def __init__(self, config: FilterConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(3, 3, config.width, padding=config.width // 2)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.norm(self.conv(x)), 0.1, self.training)


@dataclass(frozen=True)
class FilterTraining(common.ProjectConfig):
    lr: float = option(0.01, "Rate.", above=0)
    flip: bool = option(False, "Nothing.")


SMALL = FilterTraining(kimg=0.036, batch=4, snapshot_kimg=0.012)  # 9 steps


@pytest.fixture(autouse=True)
def filters_can_be_saved_and_every_step_is_logged(monkeypatch):
    monkeypatch.setitem(KINDS, "test-filter", f"{__name__}:FilterConfig,Filter")
    monkeypatch.setattr(loop, "TICK", 0)


def new_networks() -> dict[str, nn.Module]:
    return {"A": Filter(FilterConfig()), "B": Filter(FilterConfig(5))}


class FilterTask(common.ProjectTask):
    """Two filters that learn to remove noise; Ctrl-C after ``stop`` steps."""

    config_class = FilterTraining

    def __init__(self, config: FilterTraining, networks, pictures: ImageDataset, stop: int | None = None) -> None:
        adam = torch.optim.Adam([p for network in networks.values() for p in network.parameters()], config.lr)
        super().__init__(config, networks, {"both": adam}, {"x": pictures, "y": pictures})
        self.memory, self.stop = torch.zeros(3), stop

    def step(self, phase: str, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x, y, A, B = batch["x"], batch["y"], self.networks["A"], self.networks["B"]
        steps = self.counters["train"].steps
        self.set_learning_rate("both", self.config.lr / (1 + steps))
        with self.autocast():
            loss = (B(A(x + torch.randn_like(x))) - x).square().mean() + 0.1 * (A(y) - y).abs().mean()
        self.minimise("both", loss)
        self.memory.add_(x.mean(dim=(0, 2, 3)))
        if self.stop is not None and steps + 1 == self.stop:
            signal.raise_signal(signal.SIGINT)
        return {"loss": loss}

    def samples(self) -> Image.Image:
        return to_pil(self.networks["A"](torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)))

    def tensors(self) -> dict[str, torch.Tensor]:
        return super().tensors() | {"memory": self.memory}


def go(
    data: Path, folder: Path, config: FilterTraining = SMALL, *, resume: str | None = None, stop: int | None = None
) -> Path:
    folder.mkdir(exist_ok=True)
    snapshot = find_snapshot(resume, folder, FilterTask) if resume else None
    torch.manual_seed(7)
    networks = snapshot.networks if snapshot else new_networks()
    task = FilterTask(config, networks, ImageDataset(data, 16), stop)
    sinks = [JsonLines(folder, snapshot.images_seen if snapshot else 0)]
    return Trainer(task, folder, resume=snapshot, quiet=True, sinks=sinks).run()


def contents(folder: Path) -> dict[str, bytes]:
    """Every tensor in the newest snapshot, the counters, and the pictures."""
    newest = snapshots(folder)[0]
    actual = {path.name: path.read_bytes() for path in folder.glob("fakes-*.png")}
    for name in ("networks.safetensors", "optimizers.safetensors"):
        actual |= {key: tensor.numpy().tobytes() for key, tensor in load_file(newest / name).items()}
    return actual | {"progress": str(json.loads((newest / "state.json").read_text())["counters"]).encode()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resuming_gives_the_same_result(pictures, tmp_path, dtype):
    """Weights, statistics, moments, counters and pictures are equal bit for bit; no line of the log is doubled."""
    config = replace(SMALL, dtype=dtype)
    go(pictures, tmp_path / "whole", config)
    for stop in (2, 7):
        with pytest.raises(KeyboardInterrupt):
            go(pictures, tmp_path / "parts", config, resume="auto", stop=stop)
    go(pictures, tmp_path / "parts", config, resume="auto")
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert [name for name in whole if parts[name] != whole[name]] == []  # there is a picture more for every stop
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["kimg"] for line in lines] == [4 * n / 1000 for n in range(1, 10)]


def test_the_dtype_changes_the_result(pictures, tmp_path):
    for dtype in ("float32", "bfloat16"):
        go(pictures, tmp_path / dtype, replace(SMALL, dtype=dtype))
    a, b = (load_networks(tmp_path / d / "network.safetensors")["A"].conv.weight for d in ("float32", "bfloat16"))
    assert not torch.equal(a, b) and (a - b).abs().max() < 0.02
    with pytest.raises(ToonError, match="CUDA only"):
        go(pictures, tmp_path / "float16", replace(SMALL, dtype="float16"))


def test_each_set_has_its_own_order(pictures):
    task = FilterTask(SMALL, new_networks(), ImageDataset(pictures, 16))
    batches = task.batches("train")
    seen: dict[str, list[torch.Tensor]] = {"x": [], "y": []}
    for _ in range(9):
        for name, part in next(batches).items():
            seen[name] += list(part)
    every = {tuple(picture.flatten().tolist()) for picture in seen["x"]}
    assert len(every) == 12 == len({tuple(picture.flatten().tolist()) for picture in seen["y"]})
    assert not all(torch.equal(x, y) for x, y in zip(seen["x"], seen["y"]))


def test_a_damaged_snapshot_is_skipped_and_one_of_another_task_refused(pictures, tmp_path):
    go(pictures, tmp_path / "run")
    newest = snapshots(tmp_path / "run")[0]
    data = bytearray((newest / "optimizers.safetensors").read_bytes())
    data[-3] ^= 1
    (newest / "optimizers.safetensors").write_bytes(data)
    with pytest.warns(UserWarning, match="going on from the one before it"):
        snapshot = find_snapshot("auto", tmp_path / "run", FilterTask)
    assert snapshot.images_seen == 24 and snapshot.config == SMALL
    data = ImageDataset(pictures, 16)
    other = FilterTask(SMALL, {"G": Filter(FilterConfig()), "A": Filter(FilterConfig())}, data)
    with pytest.raises(ToonError, match="holds A, B: go on with the command"):
        Trainer(other, tmp_path, resume=snapshot)
    del snapshot.tensors["task.memory"]
    with pytest.raises(ToonError, match="does not fit these options at memory"):
        Trainer(FilterTask(SMALL, snapshot.networks, data), tmp_path, resume=snapshot)


def test_a_loss_that_is_not_finite_ends_the_training(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(FilterTask, "step", lambda self, phase, batch: {"L": float("nan")})
    with pytest.raises(ToonError, match="The loss L is nan"):
        go(pictures, tmp_path / "run")


@dataclass(frozen=True)
class TwoPhases(common.ProjectConfig):
    first_kimg: float = option(0.012, low=0)


class TwoPhaseTask(common.ProjectTask):
    """Counts its own steps of each phase; learns nothing."""

    config_class, phases = TwoPhases, ("first", "second")

    def images_wanted(self, phase: str) -> int:
        return int((self.config.first_kimg if phase == "first" else self.config.kimg) * 1000)

    def batches(self, phase: str) -> Iterator[str]:
        while True:
            yield phase

    def step(self, phase: str, batch: str) -> dict[str, float]:
        assert phase == batch
        return {phase: self.counters[phase].steps}

    def samples(self) -> Image.Image:
        return Image.new("RGB", (8, 8))


def test_each_phase_has_its_own_counters(tmp_path):
    config = TwoPhases(kimg=0.02, batch=4, snapshot_kimg=0.008)
    Trainer(TwoPhaseTask(config, new_networks(), {}, {}), tmp_path, quiet=True, sinks=[JsonLines(tmp_path)]).run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line.get("first") for line in lines] == [0, 1, 2] + [None] * 5
    assert [line.get("second") for line in lines] == [None] * 3 + [0, 1, 2, 3, 4]
    assert [line["kimg"] for line in lines] == [4 * n / 1000 for n in range(1, 9)]
    newest = find_snapshot("auto", tmp_path, TwoPhaseTask)
    assert {phase: (c.steps, c.images) for phase, c in newest.counters.items()} == {"first": (3, 12), "second": (5, 20)}
    assert [path.name[-2:] for path in snapshots(tmp_path)] == ["32", "28", "20"]  # 8 of the first phase was removed


# Snapshots of format 1.


def test_resuming_from_format_1_gives_the_same_result(pictures, tmp_path):
    """A snapshot in the projects' earlier format; the rest of the training gives the same bits."""
    go(pictures, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "old")
    for newest in snapshots(tmp_path / "old")[:2]:
        shutil.rmtree(newest)
    (snapshot,) = snapshots(tmp_path / "old")
    tensors = load_file(snapshot / "optimizers.safetensors")
    renamed = {name.replace("task.", "extra."): tensor for name, tensor in tensors.items()}
    save_file(renamed, snapshot / "optimizers.safetensors")
    state = json.loads((snapshot / "state.json").read_text())
    progress = state.pop("counters")["train"]
    del state["state"]
    digest = sha256_of(snapshot / "optimizers.safetensors")
    state |= {
        "format_version": 1,
        "progress": progress,
        "sha256": {**state["sha256"], "optimizers.safetensors": digest},
    }
    (snapshot / "state.json").write_text(json.dumps(state))
    go(pictures, tmp_path / "old", resume="auto")
    whole, old = contents(tmp_path / "whole"), contents(tmp_path / "old")
    assert [name for name in whole if old[name] != whole[name]] == []


def test_a_stylegan2_snapshot_of_format_1_is_read():
    progress = {"steps": 20, "images": 80, "pairs_steps": 3, "pairs_images": 12, "pairs_drawn": 52, "p": 0.25}
    progress |= {"batch_gpu": 4, "pictures": 24}
    state = upgrade_state({"progress": progress, "config": {"dtype": None, "batch_gpu": 0, "lr": 0.1}})
    assert state["counters"] == {"pairs": {"steps": 3, "images": 12}, "train": {"steps": 20, "images": 80}}
    assert from_values(StyleGAN2State, state["state"]) == StyleGAN2State(0.25, 4, 52, 24)
    config = from_values(TrainConfig, state["config"])
    assert (config.dtype, config.batch_gpu, config.lr) == ("auto", "auto", 0.1)
    names = [
        "path_length",
        "ada.sum",
        "broken.G",
        "G.mapping.fc0.weight.exp_avg",
        "D.b4.fc.bias.step",
        "pairs.b4.const.step",
    ]
    assert list(upgrade_tensors(dict.fromkeys(names, torch.zeros(1)))) == [
        "task.path_length", "task.ada.sum", "task.broken.G", "G.G.mapping.fc0.weight.exp_avg", "D.D.b4.fc.bias.step",
        "pairs.G.synthesis.b4.const.step",
    ]  # fmt: skip


# The config.


def test_a_config_is_read_and_options_win(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("lr = 1\nbatch = 3\n")
    assert read_toml(FilterTraining, path, {"batch": 5}) == FilterTraining(lr=1, batch=5)
    for text, fault in {
        "rl = 1": "no option rl", "batch = 'three'": "batch is 'three'", "dtype = 'int8'": "int8", "kimg = inf": "inf",
        "batch = 0": "--batch is 0", "batch = true": "batch is True", "batch": "Expected", "keep = 0": "--keep is 0",
    }.items():  # fmt: skip
        path.write_text(text)
        with pytest.raises(ToonError, match=fault):
            read_toml(FilterTraining, path)


# The command.


@dataclass(frozen=True)
class Sources(Config):
    data: str = option(help="Pictures.")


def command(tmp_path: Path):
    file = tmp_path / "config.toml"
    file.write_text("kimg = 0.008\nbatch = 4\n")

    @common.training_command("python -m projects.test.train --data x", FilterTask, Sources, file, [["loss"]])
    def main(start: common.Start) -> Path:
        """Test."""
        networks = start.networks(new_networks)
        return start.train(FilterTask(start.config, networks, ImageDataset(start.sources.data, 16)))

    return main


def test_the_command(pictures, tmp_path):
    main, out = command(tmp_path), tmp_path / "out"
    usual = ["--data", str(pictures), "--out", str(out), "--quiet", "--device", "cpu"]
    result = CliRunner().invoke(main, [*usual, "--lr", "0.5"])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(out / "network.safetensors")
    refused = CliRunner().invoke(main, usual)
    assert refused.exit_code == 2 and "--resume auto" in refused.output
    result = CliRunner().invoke(main, [*usual, "--resume", "auto", "--kimg", "0.016"])
    assert result.exit_code == 0, result.output
    snapshot = find_snapshot("auto", out, FilterTask)
    assert (snapshot.config.lr, snapshot.config.batch, snapshot.images_seen) == (0.5, 4, 16)
    history = provenance_of(load_networks(out / "network.safetensors")["A"])
    assert history["images_seen"] == 16 and history["options"]["data"] == pictures.name
    with Image.open(out / "curves.png") as picture:
        assert picture.width > 300
    page = CliRunner().invoke(main, ["--help"]).output
    assert "--flip / --no-flip" in page and page.index("--data") < page.index("--config")


def test_the_command_with_nothing_to_do_leaves_new_networks(pictures, tmp_path):
    """The untrained networks that a training is compared with."""
    out = tmp_path / "out"
    arguments = ["--data", str(pictures), "--out", str(out), "--quiet", "--device", "cpu", "--kimg", "0"]
    result = CliRunner().invoke(command(tmp_path), arguments)
    assert result.exit_code == 0, result.output
    torch.manual_seed(0)
    assert torch.equal(load_networks(out / "network.safetensors")["A"].conv.weight, Filter(FilterConfig()).conv.weight)


def test_curves_show_where_a_line_goes():
    """A falling line is high on the left and low on the right."""
    rows = [{"kimg": float(x), "fall": 10.0 - x} for x in range(11)]
    image = curves(rows, [["fall"], ["never"]])
    assert image.size == (420, 260)
    blue = [(x, y) for x in range(60, 400) for y in range(44, 218) if image.getpixel((x, y)) == (0x2A, 0x6F, 0xBB)]
    assert min(blue)[1] < 60 and max(blue)[1] > 205
    for low, high in ((0.0, 1.0), (-3.0, 14.3), (0.0525, 0.0526), (1e5, 3e7), (0.021, 0.024)):
        marks = ticks(low, high)
        assert 3 <= len(marks) <= 8 and low <= marks[0] and marks[-1] <= high
    with pytest.raises(ToonError, match="nothing to draw"):
        curves(rows, [["never"]])


# Pictures in, pictures out.


def test_every_picture_of_a_folder(pictures, tmp_path):
    (pictures / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="bad.png is not a picture"):
        written = common.each_picture(pictures, out, lambda image: image.rotate(180), suffix="-x", quiet=True)
    assert [path.name for path in written] == [f"{n:02d}-x.png" for n in range(12)]
    with Image.open(pictures / "03.png") as before, Image.open(out / "03-x.png") as after:
        assert before.convert("RGB").rotate(180).tobytes() == after.tobytes()
    assert (out / "sheet.png").exists()
    with pytest.raises(ToonError, match="exists already"):
        common.each_picture(pictures / "03.png", out, lambda image: image, suffix="-x", quiet=True)
    with pytest.raises(ToonError, match="is not a picture"):
        common.each_picture(pictures / "bad.png", tmp_path / "one", lambda image: image, quiet=True)
    assert not (tmp_path / "one").exists()

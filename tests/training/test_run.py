"""The trainer the projects stand on, with the smallest networks there can be."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from projects import _common as kit
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.training import run as run_module
from stylegan_toon.training.config import RunConfig, restored, setting
from stylegan_toon.training.curves import curves, ticks
from stylegan_toon.training.log import JsonLines
from stylegan_toon.training.run import Run, find_run
from stylegan_toon.training.snapshots import snapshots
from stylegan_toon.weights import KINDS, load_networks, provenance_of


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
class Config(RunConfig):
    lr: float = setting(0.01, "Rate.")
    flip: bool = setting(False, "Nothing.")


SMALL = Config(kimg=0.036, batch=4, snapshot_kimg=0.012)  # 9 steps


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(KINDS, "test-filter", f"{__name__}:FilterConfig,Filter")
    monkeypatch.setattr(run_module, "TICK", 0)


def go(
    data: Path, folder: Path, config: Config = SMALL, *, resume: str | None = None, stop: int | None = None, **more
) -> Run:
    """Two filters that learn to undo each other's noise; Ctrl-C after ``stop`` steps."""
    folder.mkdir(exist_ok=True)
    saved = find_run(resume, folder, Config) if resume else None
    torch.manual_seed(7)
    networks = saved.networks if saved else {"A": Filter(FilterConfig()), "B": Filter(FilterConfig(5))}
    memory = torch.zeros(3)
    adam = torch.optim.Adam([p for network in networks.values() for p in network.parameters()], config.lr)
    run = Run(
        folder, config, networks, {"both": adam}, extras={"memory": memory}, resume=saved, quiet=True,
        sinks=[JsonLines(folder, saved.counters.images if saved else 0)], **more,
    )  # fmt: skip

    def step(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x, y = batch["x"], batch["y"]
        run.rate("both", config.lr / (1 + run.counters.steps))
        with run.autocast():
            loss = (networks["B"](networks["A"](x + torch.randn_like(x))) - x).square().mean()
            loss = loss + 0.1 * (networks["A"](y) - y).abs().mean()
        run.minimise("both", loss)
        memory.add_(x.mean(dim=(0, 2, 3)))
        if stop is not None and run.counters.steps + 1 == stop:
            signal.raise_signal(signal.SIGINT)
        return {"loss": loss}

    pictures = ImageDataset(data, 16)
    picture = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    run.final = run.train({"x": pictures, "y": pictures}, step, lambda: to_pil(networks["A"](picture)))
    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every tensor in the newest snapshot, the counters, and the pictures."""
    newest = snapshots(folder)[0]
    found = {path.name: path.read_bytes() for path in folder.glob("fakes-*.png")}
    for name in ("networks.safetensors", "optimizers.safetensors"):
        found |= {key: tensor.numpy().tobytes() for key, tensor in load_file(newest / name).items()}
    return found | {"progress": str(json.loads((newest / "state.json").read_text())["progress"]).encode()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stopped_and_taken_up_it_ends_the_same(pictures, tmp_path, dtype):
    """Bit for bit: weights, statistics, moments, extras, counters, pictures; and no line of the log twice."""
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


def test_the_dtype_counts(pictures, tmp_path):
    for dtype in ("float32", "bfloat16"):
        go(pictures, tmp_path / dtype, replace(SMALL, dtype=dtype))
    a, b = (load_networks(tmp_path / d / "network.safetensors")["A"].conv.weight for d in ("float32", "bfloat16"))
    assert not torch.equal(a, b) and (a - b).abs().max() < 0.02
    with pytest.raises(ToonError, match="CUDA only"):
        go(pictures, tmp_path / "float16", replace(SMALL, dtype="float16"))


def test_sets_are_read_in_orders_of_their_own(pictures, tmp_path):
    seen: dict[str, list[torch.Tensor]] = {"x": [], "y": []}
    network = Filter(FilterConfig())
    run = Run(tmp_path, SMALL, {"A": network}, {"A": torch.optim.Adam(network.parameters())}, quiet=True)

    def step(batch: dict[str, torch.Tensor]) -> dict[str, float]:
        for name, part in batch.items():
            seen[name] += list(part)
        return {"loss": 0.0}

    data = ImageDataset(pictures, 16)
    run.train({"x": data, "y": data}, step, lambda: Image.new("RGB", (8, 8)))
    every = {tuple(picture.flatten().tolist()) for picture in seen["x"]}
    assert len(every) == 12 == len({tuple(picture.flatten().tolist()) for picture in seen["y"]})
    assert not all(torch.equal(x, y) for x, y in zip(seen["x"], seen["y"]))


def test_a_damaged_snapshot_gives_way_and_a_foreign_one_is_refused(pictures, tmp_path):
    go(pictures, tmp_path / "run")
    newest = snapshots(tmp_path / "run")[0]
    data = bytearray((newest / "optimizers.safetensors").read_bytes())
    data[-3] ^= 1
    (newest / "optimizers.safetensors").write_bytes(data)
    with pytest.warns(UserWarning, match="going on from the one before it"):
        saved = find_run("auto", tmp_path / "run", Config)
    assert saved.counters.images == 24 and saved.config == SMALL
    with pytest.raises(ToonError, match="holds A, B: go on with a run of this project"):
        network = Filter(FilterConfig())
        Run(tmp_path, SMALL, {"G": network}, {"G": torch.optim.Adam(network.parameters())}, resume=saved)


def test_a_loss_that_is_not_finite_ends_it(pictures, tmp_path):
    network = Filter(FilterConfig())
    run = Run(tmp_path, SMALL, {"A": network}, {"A": torch.optim.Adam(network.parameters())}, quiet=True)
    with pytest.raises(ToonError, match="The loss L is nan"):
        run.train({"x": ImageDataset(pictures, 16)}, lambda batch: {"L": float("nan")}, lambda: None)


# The config.


def test_a_config_is_read_and_options_win(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("lr = 1\nbatch = 3\n")
    assert kit.read_config(Config, path, {"batch": 5}) == Config(lr=1, batch=5)
    for text, fault in {
        "rl = 1": "no option rl", "batch = 'three'": "the option batch is 'three'", "dtype = 'int8'": "not float32",
        "batch = 0": "batch is 0", "batch = true": "the option batch is True", "batch": "Expected",
    }.items():  # fmt: skip
        path.write_text(text)
        with pytest.raises(ToonError, match=fault):
            kit.read_config(Config, path)
    with pytest.raises(ToonError, match="cannot be read"):
        kit.read_config(Config, tmp_path / "none.toml")


@dataclass(frozen=True)
class Layers:
    sizes: tuple[int, ...] = (1, 2)


def test_what_json_cannot_say_comes_back_as_it_was():
    assert restored(Layers, {"sizes": [3, 4, 5]}) == Layers((3, 4, 5))


# The command.


def command(tmp_path: Path):
    file = tmp_path / "config.toml"
    file.write_text("kimg = 0.008\nbatch = 4\n")

    @kit.trainer("python -m projects.test.train --data x", Config, file, [["loss"]])
    @kit.click.option("--data", required=True)
    def main(start: kit.Start, data: str) -> Path:
        """Test."""
        saved = start.saved
        network = saved.networks["A"] if saved else Filter(FilterConfig())
        adam = torch.optim.Adam(network.parameters(), start.config.lr)
        run = Run(
            start.folder, start.config, {"A": network}, {"A": adam}, resume=saved, sinks=start.sinks, quiet=True,
            provenance=start.provenance,
        )  # fmt: skip

        def step(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            loss = (network(batch["x"]) - batch["x"]).square().mean()
            run.minimise("A", loss)
            return {"loss": loss}

        return run.train({"x": ImageDataset(data, 16)}, step, lambda: Image.new("RGB", (8, 8)))

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
    saved = find_run("auto", out, Config)
    assert (saved.config.lr, saved.config.batch, saved.counters.images) == (0.5, 4, 16)
    history = provenance_of(load_networks(out / "network.safetensors")["A"])
    assert history["images_seen"] == 16 and history["options"]["data"] == pictures.name
    with Image.open(out / "curves.png") as picture:
        assert picture.width > 300
    page = CliRunner().invoke(main, ["--help"]).output
    assert "--flip / --no-flip" in page and page.index("--data") < page.index("--config")


def test_the_command_with_nothing_to_do_leaves_new_networks(pictures, tmp_path):
    """What a training is measured against."""
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
    for low, high in ((0.0, 1.0), (-3.0, 14.3), (0.0525, 0.0526), (1e5, 3e7)):
        marks = ticks(low, high)
        assert 3 <= len(marks) <= 8 and low <= marks[0] and marks[-1] <= high
    with pytest.raises(ToonError, match="nothing to draw"):
        curves(rows, [["never"]])


# Pictures in, pictures out.


def test_every_picture_of_a_folder(pictures, tmp_path):
    (pictures / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="bad.png is not a picture"):
        written = kit.each_picture(pictures, out, lambda image: image.rotate(180), suffix="-x", quiet=True)
    assert [path.name for path in written] == [f"{n:02d}-x.png" for n in range(12)]
    with Image.open(pictures / "03.png") as before, Image.open(out / "03-x.png") as after:
        assert before.convert("RGB").rotate(180).tobytes() == after.tobytes()
    assert (out / "sheet.png").exists()
    with pytest.raises(ToonError, match="exists already"):
        kit.each_picture(pictures / "03.png", out, lambda image: image, suffix="-x", quiet=True)
    with pytest.raises(ToonError, match="is not a picture"):
        kit.each_picture(pictures / "bad.png", tmp_path / "one", lambda image: image, quiet=True)
    assert not (tmp_path / "one").exists()

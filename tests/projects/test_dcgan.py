"""DCGAN: shapes from the paper, training and resuming, pictures from the saved file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from projects.dcgan import infer
from projects.dcgan import train as training
from projects.dcgan.model import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, sample
from projects.dcgan.train import DcganTask, TrainingConfig, new_networks
from stylegan_toon.config import read_toml
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.pipelines.generate import latents
from stylegan_toon.training import loop
from stylegan_toon.training.log import JsonLines
from stylegan_toon.training.loop import Trainer
from stylegan_toon.training.snapshots import find_snapshot, snapshots

TINY = TrainingConfig(
    resolution=32, z_dim=8, g_channels=8, d_channels=8, batch=8, kimg=0.048, snapshot_kimg=0.016, lr=1e-3
)


@pytest.fixture(autouse=True)
def told_at_every_step(monkeypatch):
    monkeypatch.setattr(loop, "TICK", 0)


def go(data: ImageDataset, folder: Path, config: TrainingConfig = TINY, resume: str | None = None, sinks=()) -> Path:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    snapshot = find_snapshot(resume, folder, DcganTask) if resume else None
    task = DcganTask(config, snapshot.networks if snapshot else new_networks(config), data)
    return Trainer(task, folder, resume=snapshot, sinks=sinks, quiet=True).run()


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_shapes_and_sizes(resolution):
    """Against sizes added up by hand from the paper's figure 1: 4x4 kernels, a batch norm has two numbers a channel."""
    G, D = Generator(GeneratorConfig(resolution, 100, 4)), Discriminator(DiscriminatorConfig(resolution, 4))
    with torch.no_grad():
        image = G(torch.randn(2, 100))
        assert image.shape == (2, 3, resolution, resolution) and image.abs().max() < 1
        assert D(image).shape == (2,)
    widths = {64: [32, 16, 8, 4], 128: [32, 32, 16, 8, 4], 256: [32, 32, 32, 16, 8, 4]}[resolution]
    steps = [16 * a * b + 2 * b for a, b in zip([100, *widths], widths)]
    assert parameters(G) == sum(steps) + 16 * 4 * 3 + 3
    up = widths[::-1]
    steps = [16 * a * b + 2 * b for a, b in pairwise(up)]
    assert parameters(D) == 16 * 3 * 4 + 4 + sum(steps) + 16 * 32 + 1


def test_the_published_size():
    """3,576,704 parameters at 64 px with nz 100, ngf 64 in the reference code, which has no bias before the tanh."""
    assert parameters(Generator(GeneratorConfig())) == 3_576_704 + 3


def test_the_discriminator_learns(pictures, tmp_path):
    """With the generator almost frozen by a tiny rate, D learns to tell its pictures from real ones."""
    config = replace(TINY, kimg=0.32)
    go(ImageDataset(pictures, 32, resize=True), tmp_path, config, sinks=[JsonLines(tmp_path)])
    rows = log(tmp_path)
    assert len(rows) == 40
    first, last = (np.mean([row["D"] for row in part]) for part in (rows[:4], rows[-4:]))
    assert last < 0.5 * first
    assert np.mean([row["D_accuracy"] for row in rows[-4:]]) > 0.9


def test_the_generator_learns(pictures, tmp_path):
    """A set of one colour: what is sampled comes near it."""
    folder = tmp_path / "red"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32), (200, 30, 30)).save(folder / f"{number}.png")
    colour = torch.tensor([200, 30, 30]) / 127.5 - 1

    def far(kimg: float) -> float:
        path = go(ImageDataset(folder), tmp_path / str(kimg), replace(TINY, kimg=kimg, snapshot_kimg=9))
        images = sample(infer.load_generator(path), latents(range(8), 8))
        return float((images.mean(dim=(0, 2, 3)) - colour).abs().mean())

    assert far(1.6) < 0.6 * far(0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resuming_gives_the_same_result(pictures, tmp_path, dtype):
    data = ImageDataset(pictures, 32, resize=True)
    config = replace(TINY, dtype=dtype, ema_kimg=0.02, augment="diff")
    for name, parts in {"whole": [0.048], "parts": [0.016, 0.048]}.items():
        for kimg in parts:
            go(data, tmp_path / name, replace(config, kimg=kimg), resume="auto")
    whole, parts = (find_snapshot("auto", tmp_path / name, DcganTask) for name in ("whole", "parts"))
    assert whole.counters == parts.counters and whole.counters["train"].steps == 6
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, parts.tensors[name]), name
    for name, network in whole.networks.items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, parts.networks[name].state_dict()[key]), key
    assert whole.tensors["G.G.layers.0.weight.exp_avg"].abs().max() > 0


def test_the_saved_file_gives_the_pictures_of_training(pictures, tmp_path):
    """Inference from the saved file, against the grid that the training process drew, pixel for pixel."""
    path = go(ImageDataset(pictures, 32, resize=True), tmp_path, replace(TINY, ema_kimg=0.02))
    G = infer.load_generator(path)
    drawn = image_grid([to_pil(image) for image in sample(G, latents(training.SHOWN, 8))], columns=8)
    with Image.open(tmp_path / "fakes-000000048.png") as seen:
        assert seen.tobytes() == drawn.tobytes()


def test_the_path_between_latents_keeps_their_length():
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    b = b / b.norm() * a.norm()
    way = infer.path(a, b, 9)
    assert torch.allclose(way[0], a) and torch.allclose(way[-1], b, atol=1e-5)
    assert torch.allclose(way.norm(dim=1), a.norm().expand(9), rtol=1e-5)
    angles = torch.arccos((way[:-1] * way[1:]).sum(1) / a.norm() ** 2)
    assert torch.allclose(angles, angles.mean().expand(8), atol=1e-4)
    assert torch.equal(infer.path(a, a, 3), a.expand(3, -1))


def test_the_commands(pictures, tmp_path):
    out = tmp_path / "run"
    sizes = ["--resolution=32", "--z-dim=8", "--g-channels=8", "--d-channels=8", "--batch=8", "--kimg=0.016"]
    result = CliRunner().invoke(
        training.main, ["--data", str(pictures), "--out", str(out), *sizes, "--quiet", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    path = result.output.strip()
    usual = ["--network", path, "--device", "cpu"]
    shown = tmp_path / "shown"
    result = CliRunner().invoke(infer.main, ["--seeds", "0-17", "--out", str(shown), "--quiet", *usual])
    assert result.exit_code == 0, result.output
    assert len(list(shown.glob("seed*.png"))) == 18 and (shown / "grid.png").exists()
    result = CliRunner().invoke(infer.main, ["interpolate", "--seeds", "0,5", "--out", str(shown), *usual])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(infer.main, ["interpolate", "--seeds", "5", "--out", str(shown), *usual])
    assert result.exit_code == 2 and "two --seeds" in result.output
    for command in (training.main, infer.main):
        assert "python -m projects.dcgan." in CliRunner().invoke(command, ["--help"]).output


def test_a_network_of_another_family_is_refused(checkpoint):
    with pytest.raises(ToonError, match="is of another project"):
        infer.load_generator(checkpoint)


def test_the_shipped_config_is_valid():
    config = read_toml(TrainingConfig, Path(training.__file__).with_name("config.toml"))
    assert config.resolution == 64
    with pytest.raises(ToonError, match="resolution is 100"):
        read_toml(TrainingConfig, Path(training.__file__).with_name("config.toml"), {"resolution": 100})


@pytest.mark.skipif(not infer.WEIGHTS.exists(), reason="the weights are not in this copy")
def test_shipped_weights_give_smooth_and_different_pictures():
    """Neighbouring pixels agree, and samples differ from each other."""
    images = sample(infer.load_generator(infer.WEIGHTS), latents(range(32), 100))
    neighbours = (images[..., 1:] - images[..., :-1]).abs().mean()
    assert neighbours < 0.12 < images.std(dim=0).mean()


@pytest.mark.skipif("STYLEGAN_TOON_LONG" not in os.environ, reason="a minute: set STYLEGAN_TOON_LONG to run it")
def test_a_minute_of_training_approaches_the_mean_of_the_set(tmp_path):
    """A set of coloured discs; the mean picture of the samples comes near that of the set."""
    folder = tmp_path / "discs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for number in range(64):
        disc = (x - 16) ** 2 + (y - 16) ** 2 < rng.uniform(60, 120)
        colour = rng.integers(120, 255, 3)
        Image.fromarray(np.where(disc[..., None], colour, 20).astype(np.uint8)).save(folder / f"{number}.png")
    data = ImageDataset(folder)
    mean = torch.stack([data[row][0] for row in range(64)]).float().mean(dim=0) / 127.5 - 1

    def far(kimg: float) -> float:
        out = tmp_path / str(kimg)
        path = go(data, out, replace(TINY, g_channels=16, lr=5e-4, ema_kimg=2, kimg=kimg))
        assert snapshots(out)
        return float((sample(infer.load_generator(path), latents(range(64), 8)).mean(dim=0) - mean).abs().mean())

    assert far(12) < 0.3 * far(0)

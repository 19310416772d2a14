"""CycleGAN: sizes from the paper, training and resuming, pictures from the saved file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy import ndimage

from projects._common import fade_out
from projects.cyclegan import compare, infer
from projects.cyclegan import train as training
from projects.cyclegan.model import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, Pool
from projects.cyclegan.train import CycleganTask, TrainingConfig, adversarial, new_networks
from stylegan_toon.config import read_toml
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.errors import ToonError
from stylegan_toon.metrics.evaluation import evaluate_pictures
from stylegan_toon.training import loop
from stylegan_toon.training.log import JsonLines
from stylegan_toon.training.loop import Trainer
from stylegan_toon.training.snapshots import find_snapshot

TINY = TrainingConfig(resolution=32, blocks=4, g_channels=4, d_channels=4, kimg=0.006, snapshot_kimg=0.002, pool=2)


@pytest.fixture(autouse=True)
def told_at_every_step(monkeypatch):
    monkeypatch.setattr(loop, "TICK", 0)


@pytest.fixture
def sets(pictures, tmp_path) -> tuple[ImageDataset, ImageDataset]:
    """Soft colours, and stripes."""
    folder = tmp_path / "stripes"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(10):
        bars = np.repeat(rng.integers(0, 2, (1, 8, 1)) * rng.integers(128, 255, 3), 4, axis=1)
        Image.fromarray(np.repeat(bars, 32, axis=0).astype(np.uint8)).save(folder / f"{number}.png")
    return ImageDataset(pictures), ImageDataset(folder)


def go(
    sets: tuple[ImageDataset, ImageDataset], folder: Path, config: TrainingConfig = TINY, resume: bool = False
) -> Path:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    snapshot = find_snapshot("auto", folder, CycleganTask) if resume else None
    task = CycleganTask(config, snapshot.networks if snapshot else new_networks(config), *sets)
    return Trainer(task, folder, resume=snapshot, sinks=[JsonLines(folder)], quiet=True).run()


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("blocks", "millions"), [(4, 5.477), (6, 7.838), (9, 11.378)])
def test_the_published_sizes(blocks, millions):
    """11.378 M and 2.765 M parameters are what the reference code prints; a block has two 3x3x256x256 and biases."""
    assert parameters(Generator(GeneratorConfig(64, blocks))) == pytest.approx(millions * 1e6, abs=1000)
    assert parameters(Discriminator(DiscriminatorConfig(64))) == pytest.approx(2.765e6, abs=1000)


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_receptive_field_of_a_score(layers, side):
    """The gradient of one score, in a network without norms (these see the whole picture)."""
    D = Discriminator(DiscriminatorConfig(2, layers)).double()
    D.layers = torch.nn.Sequential(*(m for m in D.layers if not isinstance(m, torch.nn.InstanceNorm2d)))
    image = torch.rand(1, 3, 192, 192, dtype=torch.float64, requires_grad=True)
    scores = D(image)
    stride = 2**layers
    assert scores.shape == (1, 1, 192 // stride - 2, 192 // stride - 2)
    scores[0, 0, 96 // stride, 96 // stride].backward()
    for axis in (1, 2):
        touched = image.grad[0].abs().amax(dim=0).amax(dim=axis - 1).nonzero()
        assert touched.max() - touched.min() + 1 == side


def test_instance_norm_ignores_the_mean_colour():
    """It takes the mean of every channel away, right behind the first convolution; layer norm does not."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64) - 0.5
    redder = image + torch.tensor([0.4, 0.0, -0.2], dtype=torch.float64)[:, None, None]
    for norm, blind in (("instance", True), ("layer", False)):
        G = Generator(GeneratorConfig(8, 4, norm)).double()
        assert torch.allclose(G(image), G(redder), rtol=0, atol=1e-9) == blind


def test_transposed_convolutions_give_a_checkerboard():
    """On a plain picture, far from its rim; nearest neighbours and a convolution stay plain."""
    torch.manual_seed(0)
    for upsample, plain in (("transposed", False), ("nearest", True)):
        G = Generator(GeneratorConfig(8, 4, "layer", upsample)).double()
        middle = G(torch.full((1, 3, 160, 160), 0.3, dtype=torch.float64))[..., 72:88, 72:88]
        assert (middle.std((2, 3)).max() < 1e-12) == plain


def test_losses_in_closed_form():
    scores = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    assert adversarial("lsgan", scores, True) == pytest.approx((1 + 0 + 4) / 3)
    assert adversarial("lsgan", scores, False) == pytest.approx((0 + 1 + 9) / 3)
    sigmoid = 1 / (1 + np.exp(-scores.numpy()))
    assert adversarial("bce", scores, True) == pytest.approx(-np.log(sigmoid).mean())
    assert adversarial("bce", scores, False) == pytest.approx(-np.log(1 - sigmoid).mean())


def test_the_learning_rate_falls_with_decay_kimg():
    assert [fade_out(10, images, 4) for images in (0, 6000, 8000, 9999)] == [1, 1, 0.5, pytest.approx(0.00025)]
    assert fade_out(10, 9999, 0) == 1


def test_the_pool():
    """A full pool returns an older picture half the time and keeps the new one in its place."""
    torch.manual_seed(0)
    pool, given = Pool(5, (1, 1, 1)), []
    for number in range(400):
        given.append(pool.exchange(torch.full((1, 1, 1, 1), float(number))).item())
    assert given[:5] == [0, 1, 2, 3, 4]
    new = sum(value == number for number, value in enumerate(given[5:], start=5))
    assert 160 < new < 235  # 197.5 expected, standard deviation 9.9
    assert len(set(given[5:])) == 395  # what is given away is gone
    assert torch.equal(Pool(0, (1, 1, 1)).exchange(torch.ones(2, 1, 1, 1)), torch.ones(2, 1, 1, 1))


def test_losses_fall(sets, tmp_path):
    """The cycle and identity losses and that of D_toon fall."""
    go(sets, tmp_path / "run", replace(TINY, kimg=0.1, g_channels=8, lr=2e-3))
    rows = log(tmp_path / "run")
    for name, part in {"cycle": 0.87, "identity": 0.75, "D_toon": 0.5}.items():
        first, last = (np.mean([row[name] for row in rows]) for rows in (rows[:5], rows[-5:]))
        assert last < part * first, name


@pytest.mark.parametrize("change", [{}, {"dtype": "bfloat16", "loss": "bce", "decay_kimg": 0.004, "batch": 2}])
def test_resuming_gives_the_same_result(sets, tmp_path, change):
    """Networks, optimisers and both pools, bit for bit."""
    config = replace(TINY, **change)
    go(sets, tmp_path / "whole", config)
    for stop in (2, 4):  # as a signal would leave it: a snapshot before the end
        for path in sorted((tmp_path / "whole").glob("snapshot-*")):
            if path.name == f"snapshot-{stop:09d}":
                (tmp_path / f"from{stop}").mkdir()
                os.rename(path, tmp_path / f"from{stop}" / path.name)
        go(sets, tmp_path / f"from{stop}", config, resume=True)
    whole = find_snapshot("auto", tmp_path / "whole", CycleganTask)
    for stop in (2, 4):
        parts = find_snapshot("auto", tmp_path / f"from{stop}", CycleganTask)
        assert whole.counters == parts.counters and whole.images_seen == 6
        assert whole.tensors.keys() == parts.tensors.keys()
        for name, tensor in whole.tensors.items():
            assert torch.equal(tensor, parts.tensors[name]), name
        for name, network in whole.networks.items():
            for key, tensor in network.state_dict().items():
                assert torch.equal(tensor, parts.networks[name].state_dict()[key]), key
    assert whole.tensors["task.toon.count"] == 2 and whole.tensors["task.photo.pictures"].abs().max() > 0


def test_mixed_precision_runs_in_bfloat16(sets, tmp_path, monkeypatch):
    """Convolutions do run in bfloat16 under --dtype bfloat16, and in float32 without."""
    seen: set[torch.dtype] = set()
    convolve = torch.nn.Conv2d.forward

    def watched(self, x):
        actual = convolve(self, x)
        seen.add(actual.dtype)
        return actual

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    monkeypatch.setattr(training, "sheet", lambda *_: Image.new("RGB", (8, 8)))  # drawn in float32
    for dtype in ("bfloat16", "float32"):
        seen.clear()
        go(sets, tmp_path / dtype, replace(TINY, kimg=0.001, dtype=dtype))
        assert seen == {getattr(torch, dtype)}


def test_the_saved_file_gives_the_pictures_of_training(sets, tmp_path):
    """Both directions, from the saved file, against the sheet that the training process drew, pixel for pixel."""
    path = go(sets, tmp_path / "run")
    networks = {"toon": infer.load_generator(path), "photo": infer.load_generator(path, "photo")}
    drawn = training.sheet(*networks.values(), *([data.image(row) for row in range(training.SHOWN)] for data in sets))
    with Image.open(tmp_path / "run" / "fakes-000000006.png") as seen:
        assert seen.tobytes() == drawn.tobytes()


def test_the_commands(sets, tmp_path):
    """Train, translate a folder both ways; what it writes is what the network makes."""
    photos, cartoons = (str(data.path) for data in sets)
    out = tmp_path / "run"
    sizes = ["--resolution=32", "--blocks=4", "--g-channels=4", "--d-channels=4", "--kimg=0.002"]
    arguments = ["--photos", photos, "--cartoons", cartoons, "--out", str(out), "--quiet", "--device", "cpu"]
    result = CliRunner().invoke(training.main, [*arguments, *sizes])
    assert result.exit_code == 0, result.output
    path = Path(result.output.strip())
    for to, source in (("cartoon", photos), ("photo", cartoons)):
        usual = ["--network", str(path), "--to", to, "--size", "32", "--device", "cpu", "--quiet"]
        result = CliRunner().invoke(infer.main, [source, *usual, "--out", str(tmp_path / to)])
        assert result.exit_code == 0, result.output
        expected = training.translate(infer.load_generator(path, to), sets[to == "photo"].image(3))
        with Image.open(sorted((tmp_path / to).glob("*3.png"))[0]) as made:
            assert made.tobytes() == expected.tobytes()
    wrong = ["--photos", str(tmp_path / "nowhere"), "--cartoons", cartoons, "--device", "cpu", *sizes]
    rows = log(out)
    for folder in (tmp_path / "new", out):  # a usage error writes nothing and removes no earlier training
        result = CliRunner().invoke(training.main, [*wrong, "--out", str(folder), "--overwrite"])
        assert result.exit_code == 2 and "does not exist" in result.output
    assert not (tmp_path / "new").exists() and path.exists() and log(out) == rows
    result = CliRunner().invoke(training.main, [*arguments, "--blocks", "5"])
    assert result.exit_code == 2 and "--blocks" in result.output
    for command in (training.main, infer.main):
        assert "python -m projects.cyclegan." in CliRunner().invoke(command, ["--help"]).output


def test_compare(sets, tmp_path):
    """Each number of blocks is trained, and its cost and the distances of its pictures are reported."""
    config = tmp_path / "config.toml"
    config.write_text("resolution = 32\ng_channels = 4\nd_channels = 4\nkimg = 9\ndecay_kimg = 3\nworkers = 0\n")
    photos, cartoons = (str(data.path) for data in sets)
    out = tmp_path / "out"
    arguments = ["--photos", photos, "--cartoons", cartoons, "--test-photos", photos, "--test-cartoons", cartoons]
    arguments += ["--config", str(config), "--kimg", "0.003", "--device", "cpu", "--out", str(out)]
    result = CliRunner().invoke(compare.main, arguments)
    assert result.exit_code == 0, result.output
    four, six = json.loads((out / "compare.json").read_text())
    assert (four["blocks"], six["blocks"]) == (4, 6)
    assert six["parameters"] - four["parameters"] == 2 * 2 * (9 * 16 * 16 + 16)
    for row in (four, six):
        assert row["cpu_seconds"] > 0.5 and row["memory_mb"] > 100  # of a process that imports torch
        made = ImageDataset(out / f"blocks{row['blocks']}" / "test")
        measured = evaluate_pictures(made, sets[1], compare.METRICS, quiet=True)
        assert {name: row[name] for name in measured} == pytest.approx(measured, rel=1e-6)
    G = infer.load_generator(out / "blocks6" / "network.safetensors")
    assert G.provenance["config"]["decay_kimg"] == pytest.approx(0.001)
    with Image.open(out / "compare.png") as image:
        assert image.height > 3 * 96


def test_a_network_of_another_family_is_refused(checkpoint):
    with pytest.raises(ToonError, match="holds no toon"):
        infer.load_generator(checkpoint)


FAULTS = (
    ({"blocks": 7}, "--blocks is 7"), ({"loss": "wgan"}, "wgan"), ({"resolution": 50}, "50"),
    ({"norm": "batch"}, "batch"), ({"upsample": "bilinear"}, "bilinear"), ({"d_layers": 5}, "--d-layers is 5"),
)  # fmt: skip


def test_the_shipped_config_is_valid():
    file = Path(training.__file__).with_name("config.toml")
    assert read_toml(TrainingConfig, file).blocks == 4
    for given, fault in FAULTS:
        with pytest.raises(ToonError, match=fault):
            read_toml(TrainingConfig, file, given)


def test_shipped_weights_translate_the_example_and_back():
    portrait = Image.open(Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg").convert("RGB")
    photo = portrait.crop((58, 54, 282, 278)).resize((64, 64), Image.Resampling.LANCZOS)
    drawn = training.translate(infer.load_generator(infer.SHIPPED), photo)
    back = training.translate(infer.load_generator(infer.SHIPPED, "photo"), drawn)
    before, after, again = (np.asarray(image).astype(float) / 255 for image in (photo, drawn, back))
    assert 0.02 < np.abs(after - before).mean() < 0.08 and np.abs(again - before).mean() < 0.08
    assert np.abs(after.mean((0, 1)) - before.mean((0, 1))).max() < 0.04  # its colours
    wrinkles = [np.quantile(ndimage.black_tophat(image.mean(2), 3), 0.9) for image in (before, after)]
    assert wrinkles[1] < 0.75 * wrinkles[0]  # flatter tones


@pytest.mark.skipif("STYLEGAN_TOON_LONG" not in os.environ, reason="a minute: set STYLEGAN_TOON_LONG to run it")
def test_a_minute_of_training_gives_stripes(sets, tmp_path):
    """Soft colours become stripes: alike along a column, which they were not."""
    config = replace(TINY, kimg=1.5, g_channels=8, d_channels=16, snapshot_kimg=0.5, norm="layer", upsample="nearest")
    path = go(sets, tmp_path / "run", config)
    G = infer.load_generator(path)

    def uneven(image: Image.Image) -> float:
        """Along columns, over along rows: 0 for stripes, 1 for what has no direction; grey pictures do not help."""
        down, across = (np.asarray(image, np.float64).std(axis=axis).mean() for axis in (0, 1))
        return down / across

    photos = [sets[0].image(row) for row in range(12)]
    assert np.mean([uneven(image) for image in photos]) > 0.9
    assert np.mean([uneven(training.translate(G, image)) for image in photos]) < 0.4

"""The train command on tiny sets."""

from __future__ import annotations

import io
import json
import signal
from functools import partial

import numpy as np
import pytest
import shell
import torch
from PIL import Image
from tiny import tiny_discriminator, tiny_generator
from trainings import read_snapshot

from stylegan_toon.data.datasets import ImageDataset, PairDataset
from stylegan_toon.train import main
from stylegan_toon.training.config import TrainConfig
from stylegan_toon.training.loop import Trainer
from stylegan_toon.training.optimise import adam
from stylegan_toon.training.stylegan2 import StyleGAN2Task
from stylegan_toon.weights import load_network, load_networks, read_header, save_networks

SMALL = ["--resolution", "16", "--batch", "4", "--channel-base", "128", "--channel-max", "16"]
SMALL += ["--workers", "0", "--quiet"]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        colour = rng.integers(0, 255, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(colour).resize((16, 16), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


run, refused = partial(shell.run, main), partial(shell.refused, main)


def test_from_scratch_then_transfer(pictures, tmp_path):
    """A training from scratch; another from what it made, with frozen layers that do not move."""
    result = run("--data", pictures, "--out", tmp_path / "a", "--kimg", "0.04", "--snapshot-kimg", "0.02", *SMALL)
    assert result.exit_code == 0, result.output
    final = tmp_path / "a" / "network.safetensors"
    assert result.output.strip().splitlines()[-1] == str(final)
    assert sorted(load_networks(final)) == ["D", "G_ema"]
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert {"kimg", "G", "D", "p", "real"} <= set(lines[-1]) and lines[-1]["kimg"] == 0.04
    assert Image.open(tmp_path / "a" / "reals.png").size[0] > 16
    assert Image.open(tmp_path / "a" / "curves.png").width == 3 * 420
    assert len(list((tmp_path / "a").glob("fakes-*.png"))) >= 1

    before = load_networks(final)["D"].state_dict()
    result = run(
        "--data", pictures, "--out", tmp_path / "b", "--init-from", final, "--kimg", "0.02", "--freeze-d", "3", *SMALL
    )
    assert result.exit_code == 0, result.output
    after = load_networks(tmp_path / "b" / "network.safetensors")["D"].state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {"b16.fromrgb.weight", "b16.conv0.weight", "b16.conv1.weight"} <= same
    assert "b16.skip.weight" not in same and "b4.fc.weight" not in same
    history = read_header(tmp_path / "b" / "network.safetensors").provenance
    assert history["verb"] == "train" and history["images_seen"] == 20
    assert history["parents"][0]["sha256"] in history["ancestors"]


@pytest.mark.parametrize(
    ("aug", "p"), [(["--aug", "diff", "--augpipe", "color,cutout"], 1), (["--augpipe", "bgcfnc", "--p", "0.5"], 0.5)]
)
def test_the_augmentation_is_chosen(pictures, tmp_path, aug, p):
    assert run("--data", pictures, "--out", tmp_path / "a", "--kimg", "0.02", *SMALL, *aug).exit_code == 0
    history = read_header(tmp_path / "a" / "network.safetensors").provenance
    assert history["augment_p"] == pytest.approx(p, abs=1e-3)


def test_metrics_are_measured_at_every_snapshot(pictures, tmp_path):
    measured = ["--metrics", "detection", "--metrics-samples", "2", "--snapshot-kimg", "0.008"]
    result = run("--data", pictures, "--out", tmp_path / "a", "--kimg", "0.016", *measured, *SMALL)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [line["kimg"] for line in lines if "detection" in line] == [0.008, 0.016]
    assert "beauty" in refused("--data", pictures, "--out", tmp_path / "b", "--metrics", "beauty", *SMALL)
    assert not (tmp_path / "b" / "reals.png").exists()


def test_pairs_are_learnt(pictures, tmp_path):
    """Pictures made by one generator are learnt by another from (w, picture); the loss falls, G_ema follows."""
    torch.manual_seed(0)
    G = tiny_generator(0, resolution=16)
    D = tiny_discriminator(0, resolution=16)
    w = np.random.default_rng(0).standard_normal((12, 32)).astype(np.float32)
    pair_set = PairDataset(ImageDataset(pictures, 16), w)
    config = TrainConfig(kimg=0, pairs_kimg=1.2, pairs_lr=0.01, batch=4, workers=0, snapshot_kimg=10)
    folder = tmp_path / "out"
    folder.mkdir()
    task = StyleGAN2Task(G, D, ImageDataset(pictures, 16), config, pairs=pair_set)
    target = torch.stack([pair_set[i][0] for i in range(12)]) / 127.5 - 1
    ws = torch.from_numpy(w)[:, None].expand(-1, G.num_ws, -1)

    def error(network) -> float:
        with torch.no_grad():
            return (network.synthesis(ws, noise_mode="none") - target).abs().mean().item()

    start = error(G)
    D_before = {k: v.clone() for k, v in D.state_dict().items()}
    Trainer(task, folder, quiet=True).run()
    assert error(G) < 0.3 * start
    assert error(task.G_ema) < 0.5 * start
    assert all(torch.equal(v, D.state_dict()[k]) for k, v in D_before.items())  # no discriminator in this phase


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(pictures, tmp_path, monkeypatch, number):
    steps, step = [], Trainer.step

    def interrupted(self, phase, batches):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(number)
        step(self, phase, batches)

    before = signal.getsignal(number)
    monkeypatch.setattr(Trainer, "step", interrupted)
    result = run("--data", pictures, "--out", tmp_path / "a", "--kimg", "1", *SMALL)
    assert result.exit_code == 130 and len(steps) == 3 and "--resume auto" in result.output
    (snapshot,) = (tmp_path / "a").glob("snapshot-*")
    assert read_snapshot(snapshot).counters["train"].steps == 3
    assert load_network(str(snapshot / "networks.safetensors"), which="D").config.resolution == 16
    assert signal.getsignal(number) is before


def test_training_is_reproducible(pictures, tmp_path):
    for name in "ab":
        assert run("--data", pictures, "--out", tmp_path / name, "--kimg", "0.02", *SMALL).exit_code == 0
    a, b = (load_networks(tmp_path / name / "network.safetensors")["G_ema"].state_dict() for name in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_ema_is_the_published_average():
    """One step with half-life h: G_ema moves by 1 - 0.5^(batch / h)."""
    G, D = tiny_generator(0), tiny_discriminator(0)

    class Nothing(torch.utils.data.Dataset):
        resolution = 32

        def __len__(self):
            return 4

        def __getitem__(self, i):
            return torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(0)

    config = TrainConfig(batch=4, ema_kimg=0.016, workers=0)
    average = tiny_generator(1)
    before = average.synthesis.b4.const.detach().clone()
    task = StyleGAN2Task(G, D, Nothing(), config, G_ema=average)
    task._average(None)
    wanted = before + (G.synthesis.b4.const - before) * (1 - 0.5 ** (4 / 16))
    assert torch.allclose(task.G_ema.synthesis.b4.const, wanted, atol=1e-6)
    assert torch.equal(task.G_ema.mapping.w_avg, G.mapping.w_avg)


def test_lazy_regularisation_corrects_adam():
    assert adam(tiny_generator(0), 0.01, 4).defaults["lr"] == pytest.approx(0.01 * 4 / 5)
    assert adam(tiny_discriminator(0), 0.01, 16).defaults["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    assert adam(tiny_generator(0), 0.01, None).defaults["lr"] == 0.01


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "missing.zip"], "missing.zip"),
        (["--data", "{tmp}/empty"], "empty holds no pictures"),
        (["--pairs-kimg", "1"], "--pairs"),
        (["--batch", "6"], "multiple"),
        (["--resolution", "20"], "power of two"),
        (["--cond"], "dataset.json"),
        (["--augpipe", "bgx"], "bgcfnc"),
        (["--aug", "fixed"], "--p"),
        (["--freeze-g", "b7"], "'b7' among the layers to freeze"),
        (["--freeze-d", "99"], "99 layers of the discriminator cannot be frozen: it has 7."),
        (["--pairs-features", "{tmp}/set/00.png"], "does not hold VGG16 weights"),
        (["--pairs", "{tmp}/set/00.png"], "npz of latents"),
        (["--gamma", "nan"], "--gamma"),
        (["--kimg", "nan"], "--kimg"),
        (["--kimg", "1e308"], "--kimg"),
        (["--lr", "nan"], "--lr"),
        (["--lr", "0"], "--lr"),
        (["--snapshot-kimg", "inf"], "--snapshot-kimg"),
        (["--resolution", "-8"], "--resolution"),
        (["--batch-gpu", "0"], "--batch-gpu"),
        (["--batch-gpu", "many"], "--batch-gpu"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing_behind(pictures, tmp_path, arguments, sentence):
    (tmp_path / "empty").mkdir()
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert sentence in refused("--data", pictures, "--out", tmp_path / "x", "--kimg", "0.01", *SMALL, *arguments)
    assert not (tmp_path / "x").exists()


def test_one_corrupt_file_in_ten_thousand_and_mixed_sizes(tmp_path):
    """It is named; with --skip-bad training goes on without it, and other sizes are cut and resized."""
    folder = tmp_path / "set"
    folder.mkdir()
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).save(buffer, "PNG")
    for i in range(10_000):
        (folder / f"{i:05d}.png").write_bytes(buffer.getvalue())
    (folder / "00007.png").write_bytes(buffer.getvalue()[:60])
    Image.linear_gradient("L").crop((0, 0, 40, 24)).save(folder / "00008.png")
    options = ["--data", folder, "--out", tmp_path / "x", "--kimg", "0.008", *SMALL]
    assert "00007.png" in refused(*options) and not (tmp_path / "x").exists()
    result = run(*options, "--skip-bad")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("warning: ") == result.stderr.count("00007.png") == 1
    assert (tmp_path / "x" / "network.safetensors").exists()


def test_a_broken_link_is_no_folder(pictures, tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "nowhere")
    assert "link to nothing" in refused("--data", pictures, "--out", tmp_path / "x", "--kimg", "0", *SMALL)
    assert not (tmp_path / "nowhere").exists()


def test_a_network_of_another_size_is_refused(pictures, tmp_path):
    path = tmp_path / "other.safetensors"
    save_networks(path, {"G_ema": tiny_generator(0)})
    assert "32 px" in refused("--data", pictures, "--out", tmp_path / "x", "--init-from", path, *SMALL)


def test_a_bad_picture_found_by_a_worker_is_one_sentence(pictures, tmp_path):
    (pictures / "05.png").write_text("not a picture")
    arguments = ["--data", pictures, "--out", tmp_path / "x", "--kimg", "0.1", *SMALL, "--workers", "1"]
    assert "05.png" in refused(*arguments)

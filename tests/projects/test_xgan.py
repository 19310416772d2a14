"""XGAN: its formulas against closed forms, and a small training from start to translated pictures."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from projects.xgan import losses, train
from projects.xgan.infer import SHIPPED, load_xgan, segment, translate
from projects.xgan.infer import main as infer
from projects.xgan.model import CLASSES, TRANSLATOR, Xgan, XganConfig, new_networks
from projects.xgan.noise import corrupt
from projects.xgan.train import main as train_main
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.errors import ToonError
from stylegan_toon.weights import load_networks, save_networks

LONG = pytest.mark.skipif(not os.environ.get("STYLEGAN_TOON_LONG"), reason="set STYLEGAN_TOON_LONG=1 for a minute more")
TINY = XganConfig(resolution=32, channels=4, embedding=8, disc_channels=4)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- networks and losses


def test_shapes_and_the_shared_embedding():
    config = XganConfig()
    networks = new_networks(config)
    xgan = Xgan(networks)
    img = torch.rand(2, 3, 64, 64) * 2 - 1
    for domain in (0, 1):
        z = xgan.encode(img, domain)
        assert z.shape == (2, 1024)
        torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
        generated = xgan.decode(z, domain)
        assert generated.shape == img.shape and generated.abs().max() <= 1
    assert networks["disc1"](img).shape == networks["c_dann"](z).shape == (2,)
    assert networks["denoiser"](img).shape == img.shape
    with pytest.raises(ValueError, match="--resolution is 60"):
        XganConfig(resolution=60)


def test_the_deep_halves_are_shared():
    """The same picture is encoded differently in the two domains, but only because of their first layers."""
    networks = new_networks(TINY)
    xgan, img = Xgan(networks), torch.rand(1, 3, 32, 32)
    assert not torch.allclose(xgan.encode(img, 0), xgan.encode(img, 1))
    networks["e2"].load_state_dict(networks["e1"].state_dict())
    assert torch.equal(xgan.encode(img, 0), xgan.encode(img, 1))


def test_the_gradient_is_reversed_in_closed_form():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, dtype=torch.float64, requires_grad=True)
    y = losses.reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    (y @ w).square().sum().backward()
    torch.testing.assert_close(
        w.grad, 2 * x.detach().T @ (x @ w).detach()
    )  # the classifier's own gradient is unchanged
    torch.testing.assert_close(x.grad, -0.3 * 2 * torch.outer((x @ w).detach(), w.detach()))
    assert losses.reversal_strength(0) == 0
    assert losses.reversal_strength(0.1) == pytest.approx(math.tanh(0.5))  # 2 / (1 + e^-1) - 1
    assert losses.reversal_strength(1) > 0.9999


def test_losses_in_closed_form():
    logits = torch.tensor([-2.0, 0.0, 3.0])
    for domain in (0, 1):
        p = torch.sigmoid(logits)
        wanted = -(p if domain else 1 - p).log().mean()
        assert losses.domain_loss(logits, domain).item() == pytest.approx(wanted.item(), rel=1e-5)
        assert losses.adversarial_loss(logits, bool(domain)).item() == pytest.approx(wanted.item(), rel=1e-5)
    a, b = torch.tensor([[1.0, 0, 0, 0]], requires_grad=True), torch.tensor([[0, 0.6, 0.8, 0]], requires_grad=True)
    loss = losses.semantic_loss(a, b)
    assert loss.item() == pytest.approx(2.4 / 2)
    loss.backward()
    assert a.grad is None and b.grad is not None
    unrelated = torch.nn.functional.normalize(torch.randn(2000, 512), dim=1).chunk(2)
    assert losses.embedding_distance(*unrelated).item() == pytest.approx(2 / math.sqrt(math.pi), rel=0.01)
    taught = torch.tensor([[0.6, 0.8]])
    assert losses.teacher_loss(torch.tensor([[0.3, 0.4, 0.1, 0.9]]), taught).item() == pytest.approx(0, abs=1e-6)
    assert losses.teacher_loss(torch.tensor([[0.8, 0.6, 0.1, 0.9]]), taught).item() == pytest.approx(0.4 / 2**0.5)


def test_corruptions_and_their_strengths():
    img = torch.zeros(16, 3, 32, 32)
    assert torch.equal(corrupt(img, spots=0, tint=0, grain=0), img)
    dirty = corrupt(img)
    assert dirty.abs().max() <= 1 and dirty.square().mean(dim=(1, 2, 3)).min() > 1e-3
    assert not torch.equal(dirty[0], dirty[1])
    spotted = corrupt(img, spots=6, tint=0, grain=0)
    assert 0.3 < (spotted.abs().amax(1) < 1e-3).float().mean() < 0.99  # spots are spots, not a new picture


# ---------------------------------------------------------------- training


@pytest.fixture
def sets(tmp_path) -> list[str]:
    """Faces: a disc on white, shaded. Cartoons: the same disc, flat, with an outline."""
    rng = np.random.default_rng(0)
    for kind in ("faces", "cartoons"):
        (tmp_path / kind).mkdir()
        for i in range(8):
            colour = tuple(rng.integers(40, 220, 3).tolist())
            image = Image.new("RGB", (32, 32), "white")
            ImageDraw.Draw(image).ellipse((6, 4, 26, 28), fill=colour, outline="black" if kind == "cartoons" else None)
            if kind == "faces":
                image = Image.composite(
                    image, Image.new("RGB", (32, 32), "white"), Image.linear_gradient("L").resize((32, 32))
                )
            image.save(tmp_path / kind / f"{i}.png")
    return ["--faces", str(tmp_path / "faces"), "--cartoons", str(tmp_path / "cartoons")]


SMALL = (
    "--batch=4", "--resolution=32", "--channels=8", "--embedding=16", "--disc-channels=4", "--snapshot-kimg=0.04",
    "--device=cpu", "--quiet",
)  # fmt: skip


def go(sets: list[str], out: Path, *more: str, ok: bool = True) -> str:
    result = CliRunner().invoke(train_main, [*sets, *SMALL, "--out", str(out), *more])
    assert (result.exit_code == 0) == ok, result.output
    return result.output


def test_resuming_gives_the_same_result(sets, tmp_path, monkeypatch):
    plan = ["--kimg", "0.08", "--fade-kimg", "0.02"]
    go(sets, tmp_path / "whole", *plan)
    step, stops = train.XganTask.step, [4, 13]

    def stopping(self, phase, batch):
        if stops and self.counters["train"].steps == stops[0]:
            stops.pop(0)
            signal.raise_signal(signal.SIGINT)
        return step(self, phase, batch)

    monkeypatch.setattr(train.XganTask, "step", stopping)
    for _ in range(2):
        go(sets, tmp_path / "parts", *plan, "--resume", "auto", ok=False)
    go(sets, tmp_path / "parts", "--resume", "auto")
    assert stops == []
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for name in ("networks", "optimizers"):
        a, b = (load_file(folder / "snapshot-000000080" / f"{name}.safetensors") for folder in (whole, parts))
        assert a.keys() == b.keys() and [k for k in a if not torch.equal(a[k], b[k])] == []
    assert (whole / "fakes-000000080.png").read_bytes() == (parts / "fakes-000000080.png").read_bytes()


def falls(log: Path, name: str, share: float = 0.8) -> bool:
    values = [row[name] for row in map(json.loads, log.read_text().splitlines()) if name in row]
    third = max(len(values) // 3, 1)
    return np.mean(values[-third:]) < share * np.mean(values[:third])


def test_losses_fall_and_the_saved_file_translates_the_same(sets, tmp_path, monkeypatch):
    monkeypatch.setattr("stylegan_toon.training.loop.TICK", 0)
    generated = []
    sheet = train.sheet

    def keep(xgan, faces, cartoons):
        pictures = [Image.open(path) for path in sorted((tmp_path / "faces").iterdir())]
        generated[:] = [translate(xgan, picture, 0) for picture in pictures]
        return sheet(xgan, faces, cartoons)

    monkeypatch.setattr(train, "sheet", keep)
    out = tmp_path / "run"
    go(sets, out, "--kimg", "0.4", "--lr", "2e-3", "--adversarial", "0.1", "--snapshot-kimg", "1")
    for name in ("reconstruction", "denoiser"):
        assert falls(out / "log.jsonl", name)
    assert (out / "curves.png").exists()

    # One file, and the folder of components: the same translator, bit for bit.
    assert {path.stem for path in (out / "components").iterdir()} == set(CLASSES)
    for number, place in enumerate([out / "network.safetensors", out / "components"]):
        made = tmp_path / f"made{number}"
        result = CliRunner().invoke(
            infer, [sets[1], "--segmented", "--network", str(place), "--out", str(made), "--quiet"]
        )
        assert result.exit_code == 0, result.output
        assert (made / "sheet.png").exists() and len(list((made / "generated").iterdir())) == 8
        xgan = load_xgan(place)
        for i in range(8):
            face = Image.open(tmp_path / "faces" / f"{i}.png")
            assert (np.asarray(translate(xgan, face, 0)) == np.asarray(generated[i])).all()
            shown = Image.open(made / "segmented" / f"{i}.png")
            wanted = np.asarray(translate(xgan, shown, 0))
            assert (np.asarray(Image.open(made / "generated" / f"{i}.png")) == wanted).all()


@LONG
def test_a_minute_of_training_learns_an_embedding_that_survives_translation(sets, tmp_path, monkeypatch):
    monkeypatch.setattr("stylegan_toon.training.loop.TICK", 0)
    go(sets, tmp_path / "run", "--kimg", "4", "--lr", "1e-3", "--snapshot-kimg", "10")
    for name in ("reconstruction", "semantic", "denoiser"):
        assert falls(tmp_path / "run" / "log.jsonl", name, 0.6)


def test_discriminator_gradients_reach_the_discriminators_only(sets):
    """In a public version it reaches the encoders without being reversed."""
    networks = new_networks(TINY)
    config = train.TrainingConfig(batch=2, resolution=32, channels=4, embedding=8, disc_channels=4)
    task = train.XganTask(config, networks, *(ImageDataset(path) for path in sets[1::2]))
    pictures = [torch.rand(2, 3, 32, 32) for _ in range(2)]
    parts, translated = task.translator_losses(pictures, 1.0)
    sum(parts.values()).backward()
    assert all(p.grad is None for name in ("disc1", "disc2") for p in networks[name].parameters())
    for network in networks.values():
        network.zero_grad(set_to_none=True)
    task.discriminator_loss(pictures, [img.detach() for img in translated]).backward()
    taught = {name for name, network in networks.items() if any(p.grad is not None for p in network.parameters())}
    assert taught == {"disc1", "disc2"}


def test_the_teacher_runs_only_if_it_has_a_weight(sets, tmp_path, monkeypatch):
    class Teacher(torch.nn.Module):
        def forward(self, img):
            return torch.nn.functional.normalize(img.mean((2, 3)).repeat(1, 3) + torch.arange(9.0), dim=1)

    monkeypatch.setattr(train, "face_embedder", lambda *_, **__: Teacher())
    monkeypatch.setattr("stylegan_toon.training.loop.TICK", 0)
    go(sets, tmp_path / "a", "--kimg", "0.008")
    assert "teacher" not in (tmp_path / "a" / "log.jsonl").read_text()
    go(sets, tmp_path / "b", "--kimg", "0.2", "--teacher", "5", "--lr", "2e-3")
    assert falls(tmp_path / "b" / "log.jsonl", "teacher")
    assert "--embedding must be" in go(sets, tmp_path / "c", "--teacher", "1", "--embedding", "8", ok=False)


# ---------------------------------------------------------------- inference


def test_segment(tmp_path):
    portrait = Image.open(Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg").convert("RGB")
    crop = tmp_path / "face.png"  # as alignment would cut it
    portrait.crop((58, 54, 282, 278)).resize((64, 64), Image.Resampling.LANCZOS).save(crop)
    networks = new_networks(TINY)
    save_networks(tmp_path / "x.safetensors", {name: networks[name] for name in TRANSLATOR})
    options = ["--network", str(tmp_path / "x.safetensors"), "--aligned", "--out", str(tmp_path / "out"), "--quiet"]
    result = CliRunner().invoke(infer, [str(crop), *options])
    assert result.exit_code == 0, result.output
    cut = np.asarray(Image.open(tmp_path / "out" / "segmented" / "face.png"))
    photo = np.asarray(Image.open(crop).resize((256, 256), Image.Resampling.LANCZOS)).astype(int)
    assert (cut[4:30, 4:20] > 235).all() and (photo[4:30, 4:20] < 200).any()  # background
    assert np.abs(cut[110:160, 110:146] - photo[110:160, 110:146]).mean() < 12  # face
    assert Image.open(tmp_path / "out" / "generated" / "face.png").size == (32, 32)
    assert "exists already" in CliRunner().invoke(infer, [str(crop), *options]).output


def test_components_of_different_trainings_are_refused(tmp_path):
    networks = new_networks(TINY) | {"denoiser": new_networks(XganConfig(32, 8, 8, 4))["denoiser"]}
    for name in TRANSLATOR:
        save_networks(tmp_path / f"{name}.safetensors", {name: networks[name]})
    with pytest.raises(ToonError, match="do not belong together"):
        load_xgan(tmp_path)
    (tmp_path / "e1.safetensors").unlink()
    with pytest.raises(ToonError, match="does not exist"):
        load_xgan(tmp_path)
    save_networks(tmp_path / "e1.safetensors", {"other": networks["e1"]})
    with pytest.raises(ToonError):
        load_xgan(tmp_path)
    assert set(load_networks(tmp_path / "d1.safetensors")) == {"d1"}


def test_shipped_weights_make_an_avatar_of_the_example():
    portrait = Image.open(Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg").convert("RGB")
    face = segment(portrait.crop((58, 54, 282, 278)), aligned=True)
    made = np.asarray(translate(load_xgan(SHIPPED), face, 0)).astype(int)
    assert made.shape == (64, 64, 3)
    corners = made[[0, 0], [0, -1]]  # avatars stand on white
    red, _, blue = made[30:40, 28:36].mean((0, 1))  # and have skin in the middle
    assert (corners > 200).all() and red - blue > 25

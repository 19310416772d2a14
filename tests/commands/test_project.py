"""The command `project`: its files reproduce the projected picture, and the scores are those of that picture."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
from functools import partial

import numpy as np
import pytest
import shell
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import tiny_generator

from stylegan_toon import InversionConfig, cli, load_network, project
from stylegan_toon.data.images import to_pil, to_tensor
from stylegan_toon.errors import ToonError
from stylegan_toon.features.identity import face_embedder
from stylegan_toon.features.perceptual import DiscriminatorFeatures
from stylegan_toon.inversion.optimise import Progress
from stylegan_toon.project import main
from stylegan_toon.weights import sha256_of

TUNED = ["-network.safetensors", "-projected.png", ".json", ".safetensors"]


@pytest.fixture
def options(checkpoint, tmp_path) -> list[object]:
    """A short run of the command into ``out``."""
    return ["--network", checkpoint, "--features", checkpoint, "--steps", 6, "--device", "cpu",
            "--out", tmp_path / "out"]  # fmt: skip


run, refused = partial(shell.run, main), partial(shell.refused, main)


def made(*args: object) -> None:
    result = run(*args)
    assert result.exit_code == 0, result.output


def render(network, latent) -> torch.Tensor:
    """What a network file shows with the ws and the noise of a projection's file."""
    G, tensors = load_network(network), load_file(latent)
    noise = {name.removeprefix("noise."): v for name, v in tensors.items() if name.startswith("noise.")}
    buffers = dict(G.synthesis.named_buffers())
    for name, tensor in noise.items():
        buffers[name].copy_(tensor)
    with torch.no_grad():
        return G.synthesis(tensors["ws"], noise_mode="const")


def cells(sheet) -> list[np.ndarray]:
    """Aligned and projected as they stand in the picture: two squares of 256 in the lower corners."""
    pixels = np.asarray(Image.open(sheet))
    height, width = pixels.shape[:2]
    margin = (width - 2 * 256 - 8) // 2
    rows = slice(height - margin - 256, height - margin)
    return [pixels[rows, margin : margin + 256], pixels[rows, width - margin - 256 : width - margin]]


def enlarged(picture: Image.Image) -> np.ndarray:
    return np.asarray(ImageOps.contain(picture, (256, 256), Image.Resampling.LANCZOS))


# The command


@pytest.mark.parametrize("space", ["w", "w+"])
def test_the_file_shows_the_projected_picture_again(options, tmp_path, crop, checkpoint, space):
    made(crop, *options, "--aligned", "--space", space)
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["face-projected.png", "face.json", "face.safetensors"]

    tensors = load_file(out / "face.safetensors")
    assert tensors["ws"].shape == (1, 8, 32)
    assert (tensors["ws"] == tensors["ws"][:, :1]).all() == (space == "w")
    assert {name: tuple(v.shape) for name, v in tensors.items() if name != "ws"} == {
        f"noise.b{r}.{conv}.noise_const": (r, r)
        for r in (4, 8, 16, 32) for conv in ("conv0", "conv1") if (r, conv) != (4, "conv0")
    }  # fmt: skip
    shown = to_pil(render(checkpoint, out / "face.safetensors"))
    aligned, projected = cells(out / "face-projected.png")
    assert np.array_equal(projected, enlarged(shown))
    assert np.array_equal(aligned, enlarged(Image.open(crop).resize((32, 32), Image.Resampling.LANCZOS)))


def test_the_scores_are_those_of_the_picture(options, tmp_path, crop, checkpoint, tiny_D):
    made(crop, *options, "--aligned", "--tune", 2)
    out = tmp_path / "out"
    scores = json.loads((out / "face.json").read_text())
    expected = {"space": "w+", "features": "discriminator", "steps": 6, "tuned": 2, "interrupted": False,
                "identity_network": "dlib"}  # fmt: skip
    assert {key: scores[key] for key in expected} == expected
    assert set(scores) == {*expected, "distance", "psnr", "seconds", "identity"} and 0 < scores["seconds"] < 600

    shown = render(out / "face-network.safetensors", out / "face.safetensors")
    target = to_tensor(Image.open(crop).resize((32, 32), Image.Resampling.LANCZOS))
    with torch.no_grad():
        distance = DiscriminatorFeatures(tiny_D).distance(shown, target)
        identity = face_embedder("dlib").similarity(shown, target)
    psnr = 10 * math.log10(4 / np.square(shown.clamp(-1, 1).numpy() - target.numpy()).mean())
    assert scores["distance"] == pytest.approx(float(distance), rel=1e-4)
    assert scores["psnr"] == pytest.approx(psnr, rel=1e-5)
    assert scores["identity"] == pytest.approx(float(identity), abs=1e-4)

    with safe_open(out / "face.safetensors", "pt") as file:
        header = file.metadata()
    assert header["kind"] == "projection"
    provenance = json.loads(header["provenance"])
    assert provenance["verb"] == "project" and provenance["options"]["tune"] == 2
    assert provenance["parents"] == [{"name": "tiny.safetensors", "sha256": sha256_of(checkpoint)}]


def test_the_tuned_network_shows_the_picture_by_itself(options, tmp_path, crop, checkpoint):
    made(crop, *options, "--aligned", "--tune", 3)
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == [f"face{ending}" for ending in TUNED]
    tuned, ws = load_network(out / "face-network.safetensors"), load_file(out / "face.safetensors")["ws"]
    with torch.no_grad():
        shown = to_pil(tuned.synthesis(ws, noise_mode="const"))
    assert np.array_equal(cells(out / "face-projected.png")[1], enlarged(shown))
    assert not np.array_equal(np.asarray(shown), np.asarray(to_pil(render(checkpoint, out / "face.safetensors"))))


def test_faces_are_counted_from_the_left(options, tmp_path, two_people):
    photo = tmp_path / "party.png"
    two_people.save(photo)
    warmth = []
    for number in (1, 2):
        made(photo, *options, "--face", number, "--out", tmp_path / str(number))
        red, _, blue = cells(tmp_path / str(number) / "party-projected.png")[0].mean(axis=(0, 1))
        warmth.append(red - blue)
    assert warmth[0] > 20 > -20 > warmth[1]  # red light on the left, blue on the right
    assert refused(photo, *options, "--face", 3) == "error: party.png shows 2 face(s): choose --face from 1 to 2."
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("stage", "steps", "tuned"), [("w", 1, 0), ("w+", 4, 0), ("tune", 6, 2)])
def test_ctrl_c_keeps_the_result_so_far(options, tmp_path, crop, monkeypatch, stage, steps, tuned):
    """SIGINT in the first step of the stage with one w, in the second with many, or in the second of tuning."""
    shown = cli.search_progress

    @contextlib.contextmanager
    def with_ctrl_c(*args):
        with shown(*args) as move:

            def step(at: Progress) -> None:
                move(at)
                if at.stage == stage and at.step == (tuned or steps):
                    signal.raise_signal(signal.SIGINT)

            yield step

    monkeypatch.setattr(cli, "search_progress", with_ctrl_c)
    result = run(crop, *options, "--aligned", "--tune", 3)
    out = tmp_path / "out"
    assert result.exit_code == 130 and f"Stopped early; the best so far is in {out}." in result.stderr
    assert sorted(os.listdir(out)) == [f"face{ending}" for ending in TUNED]
    scores = json.loads((out / "face.json").read_text())
    assert (scores["steps"], scores["tuned"], scores["interrupted"]) == (steps, tuned, True)
    shown = to_pil(render(out / "face-network.safetensors", out / "face.safetensors"))
    assert np.array_equal(cells(out / "face-projected.png")[1], enlarged(shown))


# The function


def short(features, **changes) -> InversionConfig:
    """A search of two steps that compares pictures by a discriminator."""
    return InversionConfig(**{"steps": 2, "features": str(features), **changes})


def test_a_picture_of_the_network_is_found_again(tiny_G, tiny_D):
    """The truth is known: a w of the network. The search closes most of the distance the mean w leaves."""
    with torch.no_grad():
        truth = tiny_G(torch.randn(1, 32, generator=torch.Generator().manual_seed(7)), noise_mode="const")
    measure = DiscriminatorFeatures(tiny_D).requires_grad_(False)
    far, near = (
        project(tiny_G, truth.clamp(-1, 1), InversionConfig(steps=steps), measure=measure) for steps in (1, 60)
    )
    assert near.distance < far.distance / 2 and near.psnr > far.psnr


def test_arguments_are_not_changed(tiny_G, checkpoint, crop):
    before = {name: tensor.clone() for name, tensor in tiny_G.state_dict().items()}
    picture = to_tensor(Image.open(crop))
    seen: list[Progress] = []
    found = project(tiny_G, picture[0], short(checkpoint, steps=4, tune_steps=2), callback=seen.append)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_G.state_dict().items())
    assert all(p.requires_grad for p in tiny_G.parameters())
    assert [at.stage for at in seen] == ["w", "w+", "w+", "w+", "tune", "tune"]
    assert [at.distance for at in seen] == found.history
    with torch.no_grad():
        assert torch.equal(found.generator.synthesis(found.ws, noise_mode="const"), found.image)
    assert torch.equal(found.target, torch.nn.functional.avg_pool2d(picture, 2))


def test_the_result_repeats_with_the_seed(tiny_G, checkpoint, crop):
    found = [project(tiny_G, Image.open(crop), short(checkpoint, steps=3, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(found[0].image, found[1].image) and not torch.equal(found[0].image, found[2].image)


def test_grey_networks_take_photos_too(checkpoint, crop):
    found = project(tiny_generator(0, img_channels=1), Image.open(crop), short(checkpoint))
    assert found.image.shape == found.target.shape == (1, 1, 32, 32) and math.isfinite(found.distance)


def test_invalid_arguments_are_refused(tiny_G, checkpoint, toon_checkpoint):
    with pytest.raises(ToonError, match="--space is z: choose w or w\\+"):
        InversionConfig(space="z")
    with pytest.raises(ToonError, match="64x32 pixels"):
        project(tiny_G, Image.new("RGB", (64, 32)), short(checkpoint))
    with pytest.raises(ToonError, match=r"toon\.safetensors"):
        project(tiny_G, Image.new("RGB", (32, 32)), short(toon_checkpoint))  # holds no discriminator


def test_an_unavailable_face_network_is_reported_before_the_search(options, tmp_path, crop, monkeypatch):
    monkeypatch.setattr("stylegan_toon.features.dlib.pretrained_folder", lambda: tmp_path / "nowhere")
    assert "dlib-identity.safetensors does not exist" in refused(crop, *options, "--aligned")
    assert not (tmp_path / "out").exists()

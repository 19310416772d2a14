"""The command `project`: its files reproduce the projected picture, and the scores are those of that picture."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import shell
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import tiny_generator, tiny_mobile

from stylegan_toon import InversionConfig, cli, load_network, project
from stylegan_toon.data.images import to_pil, to_tensor
from stylegan_toon.errors import ToonError
from stylegan_toon.features.identity import face_embedder
from stylegan_toon.features.perceptual import DiscriminatorFeatures
from stylegan_toon.inversion.optimise import Progress
from stylegan_toon.pipelines.project import compared_size, project_all
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
    numbers = {"distance", "psnr", "pixel_error", "seconds", "identity"}
    assert set(scores) == {*expected, *numbers, "transform"} and 0 < scores["seconds"] < 600
    corners = [[0, 0], [0, 64], [64, 64], [64, 0]]  # an aligned crop is the whole photo
    assert scores["transform"] == {"photo": "face.png", "corners": corners, "size": 32}

    shown = render(out / "face-network.safetensors", out / "face.safetensors")
    target = to_tensor(Image.open(crop).resize((32, 32), Image.Resampling.LANCZOS))
    with torch.no_grad():
        distance = DiscriminatorFeatures(tiny_D).distance(shown, target)
        identity = face_embedder("dlib").similarity(shown, target)
    error = shown.clamp(-1, 1).numpy() - target.numpy()
    psnr = 10 * math.log10(4 / np.square(error).mean())
    assert scores["pixel_error"] == pytest.approx(127.5 * np.abs(error).mean(), abs=1e-3)
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


def test_all_faces_of_all_photos(options, tmp_path, two_people, crop):
    """Faces are counted from the left; without noise they are searched together, and the result is that of one."""
    photo = tmp_path / "party.png"
    two_people.save(photo)
    made(photo, *options, "--no-noise", "--way", "webp", "--out", tmp_path / "all")
    endings = ["-projected.png", "-way.webp", ".json", ".safetensors"]
    assert sorted(os.listdir(tmp_path / "all")) == [f"party-{i}{ending}" for i in (1, 2) for ending in endings]
    warmth = []
    for number in (1, 2):
        red, _, blue = cells(tmp_path / "all" / f"party-{number}-projected.png")[0].mean(axis=(0, 1))
        warmth.append(red - blue)
        report = json.loads((tmp_path / "all" / f"party-{number}.json").read_text())
        corners = np.array(report["transform"]["corners"])
        assert report["transform"]["photo"] == "party.png" and (corners[:, 0].mean() < two_people.width / 2) == (
            number == 1
        )
        film = Image.open(tmp_path / "all" / f"party-{number}-way.webp")
        assert film.size == (512, 256) and film.n_frames > 4
    assert warmth[0] > 20 > -20 > warmth[1]  # red light on the left, blue on the right
    made(photo, *options, "--no-noise", "--face", 2, "--out", tmp_path / "one")
    one, both = (load_file(tmp_path / path)["ws"] for path in ("one/party.safetensors", "all/party-2.safetensors"))
    assert torch.allclose(one, both, atol=1e-4)
    assert refused(photo, *options, "--face", 3) == "error: party.png shows 2 face(s): choose --face from 1 to 2."
    assert "the same name" in refused(photo, photo, *options)
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


def test_a_batch_equals_its_pictures_one_by_one(tiny_G, tiny_D, crop):
    """Searched in one pass and tuned one by one: ws, networks and pictures are those of single projections."""
    measure = DiscriminatorFeatures(tiny_D).requires_grad_(False)
    pictures = [Image.open(crop), ImageOps.mirror(Image.open(crop)).rotate(20), Image.new("RGB", (64, 64), "teal")]
    config = InversionConfig(steps=9, tune_steps=2, tune_blocks="all", lr=0.02)
    firsts = []
    batch = project_all(tiny_G, pictures, config, measure=measure, callback=lambda at: firsts.append(at.first))
    assert firsts == [0] * 9 + [0, 0, 1, 1, 2, 2]
    for picture, together in zip(pictures, batch):
        alone = project(tiny_G, picture, config, noise=False, measure=measure)
        assert torch.allclose(together.ws, alone.ws, atol=2e-4)
        assert torch.allclose(together.image, alone.image, atol=1e-3)
        assert together.distance == pytest.approx(alone.distance, rel=1e-3)
        for name, weight in together.generator.named_parameters():
            assert torch.allclose(weight, alone.generator.get_parameter(name), atol=1e-3)
    assert not torch.allclose(batch[0].ws, batch[1].ws, atol=0.01)


def test_ctrl_c_in_a_batch_keeps_all_that_were_searched(tiny_G, tiny_D, crop):
    def stop(at: Progress) -> None:
        if at.step == 3:
            raise KeyboardInterrupt

    measure = DiscriminatorFeatures(tiny_D).requires_grad_(False)
    found = project_all(tiny_G, [Image.open(crop)] * 2, InversionConfig(steps=9), measure=measure, callback=stop)
    assert len(found) == 2 and all(one.interrupted and len(one.history) == 3 for one in found)
    found = project_all(
        tiny_G, [Image.open(crop)] * 2, InversionConfig(steps=2, tune_steps=5), measure=measure, callback=stop
    )
    assert len(found) == 1 and found[0].interrupted and found[0].tuned == 3


def test_a_budget_is_shared_by_search_and_tuning(tiny_G, tiny_D, crop, monkeypatch):
    """A clock that jumps two seconds with every look: the steps that fit are few, and both stages have some."""
    now = iter(range(0, 10**6, 2))
    for module in ("inversion.pace", "pipelines.project"):
        monkeypatch.setattr(f"stylegan_toon.{module}.time", SimpleNamespace(monotonic=lambda: float(next(now))))
    measure = DiscriminatorFeatures(tiny_D).requires_grad_(False)
    config = InversionConfig(steps=100, tune_steps=100, time_budget=60, tune_blocks="all")
    found = project(tiny_G, Image.open(crop), config, noise=False, measure=measure)
    assert 3 < len(found.history) - found.tuned < 20 and 3 < found.tuned < 20
    assert found.seconds <= 60 + 10  # the picture at the end is not counted


def test_legacy_is_the_published_schedule(tiny_G, tiny_D, crop):
    """1000 steps of one w without tuning; what else was asked for does not matter."""
    plan = InversionConfig(legacy=True).with_defaults(steps=90, tune_steps=60)
    assert (plan.space, plan.steps, plan.tune_steps, plan.start, plan.seed) == ("w", 1000, 0, "mean", 303)
    measure = DiscriminatorFeatures(tiny_D).requires_grad_(False)
    legacy = project(tiny_G, Image.open(crop), InversionConfig(legacy=True, steps=5), measure=measure)
    plain = project(tiny_G, Image.open(crop), InversionConfig(space="w", steps=5), measure=measure)
    assert legacy.space == "w" and torch.equal(legacy.ws, plain.ws)
    wide = tiny_mobile(resolution=512, channels=(4,) * 7)
    assert compared_size(wide, InversionConfig(legacy=True)) == 256
    assert compared_size(wide, InversionConfig()) == 512 and compared_size(tiny_G, InversionConfig(legacy=True)) == 32


def test_grey_networks_take_photos_too(checkpoint, crop):
    found = project(tiny_generator(0, img_channels=1), Image.open(crop), short(checkpoint))
    assert found.image.shape == found.target.shape == (1, 1, 32, 32) and math.isfinite(found.distance)


def test_invalid_arguments_are_refused(tiny_G, checkpoint, toon_checkpoint):
    with pytest.raises(ToonError, match="--space is z: choose w or w\\+"):
        InversionConfig(space="z")
    for values, fault in (
        ({"time_budget": 0}, "--time-budget is 0: give more than 0"),
        ({"time_budget": math.nan}, "--time-budget is nan: give a finite number"),
        ({"plateau": 0.6}, "--plateau is 0.6: give 0.5 or less"),
        ({"legacy": True, "tune_steps": 5}, "leave out --tune"),
        ({"legacy": True, "start": "encoder"}, "leave out --start"),
    ):
        with pytest.raises(ToonError, match=fault):
            InversionConfig(**values)
    with pytest.raises(ToonError, match="64x32 pixels"):
        project(tiny_G, Image.new("RGB", (64, 32)), short(checkpoint))
    with pytest.raises(ToonError, match=r"toon\.safetensors"):
        project(tiny_G, Image.new("RGB", (32, 32)), short(toon_checkpoint))  # holds no discriminator


def test_an_unavailable_face_network_is_reported_before_the_search(options, tmp_path, crop, monkeypatch):
    monkeypatch.setattr("stylegan_toon.weights.shipped.pretrained_folder", lambda: tmp_path / "nowhere")
    assert "dlib-identity.safetensors does not exist" in refused(crop, *options, "--aligned")
    assert not (tmp_path / "out").exists()

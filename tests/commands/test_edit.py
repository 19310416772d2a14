"""The command `edit` and its functions: amounts of 0, mixing, walks, latent files that are not what they should be."""

from __future__ import annotations

import json
import os

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from stylegan_toon import cli, edit
from stylegan_toon.errors import ToonError
from stylegan_toon.models.directions import Directions, DirectionsConfig, sefa
from stylegan_toon.pipelines.edit import mix, walk
from stylegan_toon.weights.latent import Latent, read_latent, save_latent


@pytest.fixture
def ws(tiny_G):
    return torch.randn(2, tiny_G.num_ws, tiny_G.config.w_dim, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def known(tiny_G):
    directions = Directions(DirectionsConfig(("smile", "yaw"), ("a", "b"), ("b8", "b16-"), tiny_G.config.w_dim))
    directions.w_avg.copy_(tiny_G.mapping.w_avg)
    directions.vectors.copy_(torch.eye(2, tiny_G.config.w_dim))
    return directions


def test_amounts_of_0_change_nothing(tiny_G, ws, known):
    for zero in (0.0, -0.0):
        same = edit(ws, {"smile": zero}, network=tiny_G, sefa_amounts={3: zero}, directions=known)
        assert torch.equal(same.view(torch.int32), ws.view(torch.int32)) and same is not ws


def test_directions_act_in_their_rows(tiny_G, ws, known):
    before = ws.clone()
    moved = edit(ws, {"smile": 2.0, "yaw": -1.0}, network=tiny_G, directions=known) - ws
    assert torch.equal(ws, before)
    want = torch.zeros_like(ws)
    want[:, [1, 2], 0] = 2
    want[:, 3:, 1] = -1
    torch.testing.assert_close(moved, want, atol=1e-6, rtol=0)
    moved = edit(ws, network=tiny_G, sefa_amounts={1: 3.0}, layers="b8") - ws
    torch.testing.assert_close(moved[0, 2], 3 * sefa(tiny_G, "b8", 2)[1], atol=1e-5, rtol=0)
    assert set(moved[0].abs().sum(1).nonzero()[:, 0].tolist()) == {1, 2}


def test_wrong_edits_are_told(tiny_G, ws, known):
    with pytest.raises(ToonError, match="say smile, yaw"):
        edit(ws, {"frown": 0}, network=tiny_G, directions=known)
    with pytest.raises(ToonError, match="from -100 to 100"):
        edit(ws, {"smile": float("nan")}, network=tiny_G, directions=known)
    with pytest.raises(ToonError, match="numbered 0 to"):
        edit(ws, network=tiny_G, sefa_amounts={10**6: 1})
    with pytest.raises(ValueError, match="ws must be"):
        edit(ws[:, :2], network=tiny_G)


def test_mix_takes_exactly_the_named_rows(tiny_G, ws):
    other = torch.full_like(ws[:1], 7)
    mixed = mix(ws, other, tiny_G, "b4-b8")
    assert bool((mixed[:, :3] == 7).all()) and torch.equal(mixed[:, 3:], ws[:, 3:])


def test_walk_passes_through_every_latent(ws):
    path = walk(torch.cat([ws, ws[:1]]), 5)
    assert len(path) == 11
    assert torch.equal(path[[0, 5, 10]], torch.cat([ws, ws[:1]]))
    torch.testing.assert_close(walk(ws, 2)[1], ws.mean(0))


def run(*args: object):
    return CliRunner().invoke(cli.main, ["edit", "--quiet", *map(str, args)])


def test_the_command(tmp_path, checkpoint, tiny_G):
    out = tmp_path / "out"
    result = run(
        "--network", checkpoint, "--seeds", "3,4", "--sefa", "0=0", "--walk", "webp", "--frames", 3, "--out", out
    )
    assert result.exit_code == 0, result.output
    latents = {f"seed{n:04d}.safetensors" for n in (3, 4)}
    assert set(os.listdir(out)) == latents | {"seed0003.png", "seed0004.png", "strip.png", "walk.webp"}
    with Image.open(out / "walk.webp") as film:
        assert getattr(film, "n_frames", 1) == 4
    plain = CliRunner().invoke(
        cli.main, ["generate", "--quiet", "--network", str(checkpoint), "--seeds", "3", "--out", str(tmp_path / "g")]
    )
    assert plain.exit_code == 0, plain.output
    with Image.open(out / "seed0003.png") as ours, Image.open(tmp_path / "g" / "seed0003.png") as theirs:
        assert list(ours.getdata()) == list(theirs.getdata())

    again = run(
        "--network",
        checkpoint,
        "--latent",
        out / "seed0003.safetensors",
        "--mix",
        4,
        "--mix-layers",
        "b16-",
        "--out",
        tmp_path / "m",
    )
    assert again.exit_code == 0, again.output
    first, second, mixed = (
        load_file(path)["ws"]
        for path in (
            out / "seed0003.safetensors",
            out / "seed0004.safetensors",
            tmp_path / "m" / "seed0003.safetensors",
        )
    )
    assert torch.equal(mixed[:, :3], first[:, :3]) and torch.equal(mixed[:, 3:], second[:, 3:])
    refused = run("--network", checkpoint, "--seeds", "3", "--out", out)
    assert refused.exit_code == 2 and "exists already" in refused.output


def test_noise_travels_with_a_latent(tmp_path, checkpoint, tiny_G, ws):
    noise = {
        name: torch.randn(buffer.shape) for name, buffer in tiny_G.synthesis.named_buffers() if "noise_const" in name
    }
    save_latent(tmp_path / "me.safetensors", Latent(ws[:1], noise))
    assert (
        run("--network", checkpoint, "--latent", tmp_path / "me.safetensors", "--out", tmp_path / "out").exit_code == 0
    )
    saved = read_latent(tmp_path / "out" / "me.safetensors", tiny_G)
    assert torch.equal(saved.ws, ws[:1]) and noise and saved.noise.keys() == noise.keys()
    assert all(torch.equal(saved.noise[name], noise[name]) for name in noise)


def latent_file(path, kind="projection", **tensors):
    save_file(tensors, path, {"kind": kind, "scores": json.dumps({})})
    return path


@pytest.mark.parametrize(
    "case", ["kind", "no ws", "shape", "many", "none", "integers", "nan", "cut", "text", "folder", "missing"]
)
def test_hostile_latents_are_refused(tmp_path, checkpoint, tiny_G, case):
    shape = (1, tiny_G.num_ws, tiny_G.config.w_dim)
    path = tmp_path / "x.safetensors"
    good = torch.zeros(shape)
    if case == "kind":
        latent_file(path, kind="network", ws=good)
    elif case == "no ws":
        latent_file(path, w=good)
    elif case == "shape":
        latent_file(path, ws=good[:, :-1].contiguous())
    elif case in ("many", "none"):
        latent_file(path, ws=torch.zeros(65 if case == "many" else 0, *shape[1:]))
    elif case == "integers":
        latent_file(path, ws=good.long())
    elif case == "nan":
        latent_file(path, ws=good / 0)
    elif case == "cut":
        data = latent_file(path, ws=good).read_bytes()
        path.write_bytes(data[:-7])
    elif case == "text":
        path.write_text("ws, ws, ws")
    elif case == "folder":
        path.mkdir()
    result = run("--network", checkpoint, "--latent", path, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert result.output.startswith("error: ") and len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_unknown_tensors_are_ignored(tmp_path, tiny_G, ws):
    path = latent_file(tmp_path / "x.safetensors", ws=ws, quad=torch.zeros(4, 2), **{"delta.b4.const": torch.zeros(3)})
    read = read_latent(path, tiny_G)
    assert torch.equal(read.ws, ws) and read.noise == {} and read.tuned == {}

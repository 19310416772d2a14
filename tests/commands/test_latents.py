"""Latents that are kept: of photos, seeds and edits, shown again in any style, and refused where they do not belong."""

from __future__ import annotations

import copy
import json
import os
import shutil

import numpy as np
import pytest
import shell
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_generator, tiny_mobile

from stylegan_toon import load_network, toonify
from stylegan_toon.data.images import to_pil
from stylegan_toon.edit import main as edit_command
from stylegan_toon.errors import ToonError
from stylegan_toon.generate import main as generate_command
from stylegan_toon.inversion.config import InversionConfig
from stylegan_toon.pipelines.toonify import Toonifier
from stylegan_toon.project import main as project_command
from stylegan_toon.toonify import main as toonify_command
from stylegan_toon.weights import descend, save_networks
from stylegan_toon.weights.latent import Latent, network_of, read_latent, save_latent, tuning_of


def pixels(path) -> np.ndarray:
    return np.asarray(path if isinstance(path, Image.Image) else Image.open(path)).astype(int)


def near(a, b) -> bool:
    """Equal but for the rounding of float16, which sharpening nearly doubles."""
    return bool(np.abs(pixels(a) - pixels(b)).max() <= 2)


@pytest.fixture
def networks(checkpoint, toon_checkpoint) -> list[object]:
    return ["--base", checkpoint, "--toon", toon_checkpoint, "--swap", "b16-", "--device", "cpu"]


@pytest.fixture
def search(checkpoint) -> list[object]:
    return ["--features", checkpoint, "--aligned", "--steps", 2, "--tune", 3, "--tune-blocks", "all", "--quiet"]


@pytest.fixture
def kept(tmp_path, crop, networks, search):
    """A photo was toonified, and its latent kept."""
    result = shell.run(
        toonify_command, crop, *networks, *search, "--no-preserve-colour", "--save-latent", "--paste-back",
        "--out", tmp_path / "a",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(tmp_path / "a")) == [
        "face-latent.safetensors", "face-pasted.png", "face-sheet.png", "face-toon.png",
    ]  # fmt: skip
    return tmp_path / "a"


def made(command, *args: object) -> None:
    result = shell.run(command, *args)
    assert result.exit_code == 0, result.output


def test_a_kept_latent_makes_the_same_cartoon(kept, tmp_path, networks, monkeypatch):
    monkeypatch.setattr("stylegan_toon.pipelines.toonify.project", None)  # nothing is searched
    made(toonify_command, "--latent", kept / "face-latent.safetensors", *networks, "--out", tmp_path / "b")
    assert sorted(os.listdir(tmp_path / "b")) == ["face-sheet.png", "face-toon.png"]
    assert near(tmp_path / "b" / "face-toon.png", kept / "face-toon.png")


def test_another_swap_costs_no_search_either(kept, tmp_path, networks, crop, checkpoint, toon_checkpoint):
    """Equal to the whole way with that swap."""
    made(toonify_command, "--latent", kept / "face-latent.safetensors", *networks, "--swap", "b4-b8", "--out",
         tmp_path / "b")  # fmt: skip
    config = InversionConfig(steps=2, tune_steps=3, tune_blocks="all", features=str(checkpoint))
    whole = toonify(
        crop,
        base=checkpoint,
        toon=toon_checkpoint,
        swap="b4-b8",
        preserve_colour=False,
        aligned=True,
        config=config,
    )
    assert near(tmp_path / "b" / "face-toon.png", whole.image)
    assert not near(tmp_path / "b" / "face-toon.png", kept / "face-toon.png")


def test_with_its_photo_it_is_pasted_back(kept, tmp_path, networks, crop):
    latent = ["--latent", kept / "face-latent.safetensors", *networks, "--aligned", "--paste-back"]
    latent.append("--no-preserve-colour")
    made(toonify_command, crop, *latent, "--out", tmp_path / "b")
    for name in ("toon", "pasted", "sheet"):
        assert near(tmp_path / "b" / f"face-{name}.png", kept / f"face-{name}.png"), name
    line = shell.refused(toonify_command, crop, *latent, *latent[:2], "--out", tmp_path / "c")
    assert "1 face(s) for 2 latent(s)" in line and not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--paste-back"], "need the photo"),
        (["--preserve-colour"], "need the photo"),
        (["--soften", 1], "need the photo"),
        (["--draw", "--style", "ink"], "Drawings have no latents"),
        (["--save-latent"], "there already"),
    ],
)
def test_what_does_not_go_with_a_latent(kept, tmp_path, networks, more, words):
    args = ["--latent", kept / "face-latent.safetensors", *networks, *more, "--out", tmp_path / "b"]
    assert words in shell.refused(toonify_command, *args)


def test_two_latents_of_one_name(kept, tmp_path, networks):
    (tmp_path / "c").mkdir()
    shutil.copy(kept / "face-latent.safetensors", tmp_path / "c" / "face.safetensors")
    args = ["--latent", kept / "face-latent.safetensors", "--latent", tmp_path / "c" / "face.safetensors", *networks]
    assert "the same name" in shell.refused(toonify_command, *args, "--out", tmp_path / "b")


def test_results_of_latents_are_not_overwritten(kept, networks):
    args = ["--latent", kept / "face-latent.safetensors", *networks, "--out", kept]
    assert "exists already" in shell.refused(toonify_command, *args)
    made(toonify_command, *args, "--overwrite")


def test_latents_go_from_command_to_command(kept, tmp_path, checkpoint, networks, search, crop):
    """Those of project, generate and edit make cartoons, and edit and generate show those of toonify as they were."""
    base = ["--network", checkpoint, "--device", "cpu", "--quiet"]
    made(project_command, crop, *base, *search[:-1], "--out", tmp_path / "p")
    made(generate_command, *base, "--seeds", 3, "--save-w", tmp_path / "w", "--out", tmp_path / "g")
    made(edit_command, *base, "--latent", kept / "face-latent.safetensors", "--sefa", "0=0.5", "--out", tmp_path / "e")
    latents = [tmp_path / "p" / "face.safetensors", tmp_path / "w" / "seed0003.safetensors"]
    for path in (*latents, tmp_path / "e" / "face-latent.safetensors"):
        made(toonify_command, "--latent", path, *networks, "--out", tmp_path / "t" / path.parent.name)
    edited = read_latent(tmp_path / "e" / "face-latent.safetensors", load_network(checkpoint))
    before = read_latent(kept / "face-latent.safetensors", load_network(checkpoint))
    assert edited.tuned.keys() == before.tuned.keys() != set() and not torch.equal(edited.ws, before.ws)

    made(generate_command, *base, "--latent", latents[1], "--out", tmp_path / "again")
    assert np.array_equal(pixels(tmp_path / "again" / "seed0003.png"), pixels(tmp_path / "g" / "seed0003.png"))
    assert sorted(os.listdir(tmp_path / "again")) == ["grid.png", "seed0003.png"]
    # What project shows is what generate shows of its file: the tuning and the noise are in it.
    made(generate_command, *base, "--latent", latents[0], "--out", tmp_path / "shown")
    tuned = load_network(tmp_path / "p" / "face-network.safetensors")
    ws = load_file(latents[0])["ws"]
    with torch.no_grad():
        assert near(tmp_path / "shown" / "face.png", to_pil(tuned.synthesis(ws, noise_mode="const")[0]))
    # With the tuned network itself nothing is added a second time.
    assert read_latent(latents[0], tuned).tuned == {}


def test_generate_refuses_what_does_not_go_together(tmp_path, checkpoint, kept):
    latent = ["--network", checkpoint, "--latent", kept / "face-latent.safetensors", "--out", tmp_path / "g"]
    assert "leave out --latent" in shell.refused(generate_command, *latent, "--save-w", tmp_path / "w")
    assert "leave out --latent" in shell.refused(generate_command, *latent, "--class", 1)
    assert "the same name" in shell.refused(generate_command, *latent, *latent[2:4])
    assert not (tmp_path / "g").exists() and not (tmp_path / "w").exists()


def test_saved_w_is_that_of_the_seed(tmp_path, checkpoint, tiny_G):
    made(generate_command, "--network", checkpoint, "--seeds", "0-4", "--batch", 2, "--psi", 0.5, "--save-w",
         tmp_path / "w", "--out", tmp_path / "g", "--device", "cpu")  # fmt: skip
    for seed in range(5):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 32)).float()
        ws = read_latent(tmp_path / "w" / f"seed{seed:04d}.safetensors", tiny_G).ws
        torch.testing.assert_close(ws, tiny_G.mapping(z, psi=0.5))
    line = shell.refused(generate_command, "--network", checkpoint, "--seeds", 4, "--save-w", tmp_path / "w", "--out",
                         tmp_path / "other")  # fmt: skip
    assert "seed0004.safetensors exists already" in line


def test_an_edited_latent_does_not_take_the_place_of_the_first(kept, checkpoint):
    before = (kept / "face-latent.safetensors").read_bytes()
    args = ["--network", checkpoint, "--latent", kept / ".." / "a" / "face-latent.safetensors", "--sefa", "0=1"]
    assert "is one of the originals" in shell.refused(edit_command, *args, "--out", kept, "--overwrite")
    assert (kept / "face-latent.safetensors").read_bytes() == before


# The file


@pytest.mark.parametrize("family", [tiny_generator, tiny_mobile])
def test_tuning_and_noise_are_kept_as_they_were(tmp_path, family):
    G = family(0)
    tuned = copy.deepcopy(G)
    with torch.no_grad():
        for name, p in tuned.synthesis.named_parameters():
            if name.startswith(("b8", "b16")):
                p += 0.01 * torch.randn(p.shape)
    change = tuning_of(G, tuned)
    assert change and all(name.startswith(("b8", "b16")) for name in change)
    ws = torch.randn(1, G.num_ws, G.config.w_dim)
    save_latent(tmp_path / "a.safetensors", Latent(ws, tuned=change), provenance={"verb": "project"})
    read = read_latent(tmp_path / "a.safetensors", G)
    assert torch.equal(read.ws, ws) and read.tuned.keys() == change.keys()
    for name, before in change.items():
        torch.testing.assert_close(read.tuned[name], before, atol=1e-5, rtol=1e-3)
    with torch.no_grad():
        a, b = (to_pil(network.synthesis(ws, noise_mode="const")[0]) for network in (tuned, network_of(read, G)))
    assert near(a, b)
    stored = load_file(tmp_path / "a.safetensors")
    assert all(stored[f"tuned.{name}"].dtype == torch.float16 for name in change)


def hostile(path, G, case: str) -> None:
    name, p = next((name, p) for name, p in G.synthesis.named_parameters() if p.ndim == 4)
    tensors = {"ws": torch.zeros(1, G.num_ws, G.config.w_dim), f"tuned.{name}": torch.zeros(p.shape)}
    if case == "name":
        tensors["tuned.b4.nothing"] = torch.zeros(3)
    elif case == "shape":
        tensors[f"tuned.{name}"] = torch.zeros(*p.shape[:-1], p.shape[-1] + 1)
    elif case == "type":
        tensors[f"tuned.{name}"] = torch.zeros(p.shape, dtype=torch.int32)
    elif case == "infinite":
        tensors[f"tuned.{name}"] = torch.full(p.shape, torch.inf)
    elif case == "buffer":
        tensors["tuned.b8.conv0.noise_const"] = torch.zeros(8, 8)
    save_file(tensors, path, {"kind": "projection", "provenance": "[1" if case == "json" else "{}"})


@pytest.mark.parametrize("case", ["name", "shape", "type", "infinite", "buffer"])
def test_hostile_tuning_is_refused(tmp_path, networks, tiny_G, case):
    hostile(tmp_path / "x.safetensors", tiny_G, case)
    line = shell.refused(toonify_command, "--latent", tmp_path / "x.safetensors", *networks, "--out", tmp_path / "out")
    assert "x.safetensors" in line and ("tuned in another network" in line or "infinite" in line)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["sound", "json"])
def test_a_header_of_any_form_is_read(tmp_path, tiny_G, case):
    hostile(tmp_path / "x.safetensors", tiny_G, case)
    assert read_latent(tmp_path / "x.safetensors", tiny_G).ancestors == frozenset()


def test_latents_of_another_network(kept, tmp_path, networks, checkpoint):
    """Of one with other sizes, of one with the same, and of one that comes from it but is not the one tuned."""
    save_networks(tmp_path / "other.safetensors", {"G_ema": tiny_generator(7)})
    save_networks(tmp_path / "wide.safetensors", {"G_ema": tiny_generator(0, w_dim=16)})
    latent = ["--latent", kept / "face-latent.safetensors", "--toon", networks[3], "--out", tmp_path / "out"]
    line = shell.refused(toonify_command, *latent, "--base", tmp_path / "other.safetensors")
    assert "was found in a network that other.safetensors does not come from" in line
    line = shell.refused(toonify_command, *latent[:2], "--base", tmp_path / "wide.safetensors", "--toon",
                         tmp_path / "wide.safetensors", "--out", tmp_path / "out")  # fmt: skip
    assert "this network takes [N, 8, 16]" in line
    parent = load_network(checkpoint)
    save_networks(
        tmp_path / "child.safetensors", {"G_ema": tiny_generator(0)}, provenance=descend("train", {}, [parent])
    )
    line = shell.refused(toonify_command, *latent, "--base", tmp_path / "child.safetensors")
    assert "was tuned in tiny.safetensors" in line and "--base is child.safetensors" in line
    # To show it in a network that comes from it is what edit is for.
    made(edit_command, "--network", tmp_path / "child.safetensors", *latent[:2], "--out", tmp_path / "e", "--quiet")


def test_as_functions(kept, tmp_path, checkpoint, toon_checkpoint, crop):
    toonifier = Toonifier.load(checkpoint, toon_checkpoint, "b16-")
    _, cartoon = toonifier.show(read_latent(kept / "face-latent.safetensors", toonifier.base))
    assert near(cartoon, kept / "face-toon.png")
    with pytest.raises(ToonError, match="does not exist"):
        read_latent(tmp_path / "nothing.safetensors", toonifier.base)


def test_scores_and_provenance_are_in_the_file(kept, checkpoint):
    with safe_open(kept / "face-latent.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["scores"])["tuned"] == 3
    history = json.loads(metadata["provenance"])
    assert history["verb"] == "toonify" and history["parents"][0]["name"] == "tiny.safetensors"
    assert json.loads(metadata["tuned_in"])["sha256"] == load_network(checkpoint).provenance["sha256"]

"""The command `evaluate likeness`: its table, JSON and pictures, the family, names of networks, and mistakes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shell
import torch
from PIL import Image
from tiny import tiny_generator

from stylegan_toon import load_network
from stylegan_toon.errors import ToonError
from stylegan_toon.evaluate import main
from stylegan_toon.features.identity import face_embedder
from stylegan_toon.metrics.likeness import measure_likeness
from stylegan_toon.models.swap import swap_layers
from stylegan_toon.pipelines.likeness import faces_sheet, family, named_networks
from stylegan_toon.weights import catalogue, save_networks

run, refused = partial(shell.run, main, "likeness"), partial(shell.refused, main, "likeness")


@pytest.fixture
def options(checkpoint, toon_checkpoint, tmp_path) -> list[object]:
    return ["--base", checkpoint, "--toon", toon_checkpoint, "--no-family", "--count", 2, "--device", "cpu",
            "--out", tmp_path / "out"]  # fmt: skip


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_table_json_chart_and_faces(tmp_path, options, checkpoint, toon_checkpoint):
    result = run(toon_checkpoint, *options, "--swap", "b16-", "--psi", 0.9, "--seed", 3)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["likeness-faces.png", "likeness.json", "likeness.png"]
    report = json.loads((out / "likeness.json").read_text())
    assert list(report["networks"]) == ["b16-", "toon"] and report["judge"] == "faceres" and report["count"] == 2
    base, toon = load_network(checkpoint), load_network(toon_checkpoint)
    blended = swap_layers(base, toon, "b16-")
    truth = measure_likeness({"x": blended}, base, toon, face_embedder("faceres"), count=2, psi=0.9, seed=3)["x"]
    assert report["networks"]["b16-"]["identity"] == pytest.approx(truth.identity, abs=2e-5)
    assert report["networks"]["b16-"]["toon_distances"] == {"textures": pytest.approx(truth.toon_distance, rel=1e-3)}
    lines = result.stdout.splitlines()
    assert lines[1].split()[:2] == ["b16-", f"{truth.identity:.3f}"] and lines[-1] == str(out / "likeness.json")
    sheet = faces_sheet({"b16-": blended, "toon": toon}, base, psi=0.9, seed=3)
    assert np.array_equal(np.asarray(sheet), np.asarray(Image.open(out / "likeness-faces.png")))


def test_the_distance_to_a_folder_of_drawings(tmp_path, options):
    """Of several sizes; one picture alone is refused before anything is computed."""
    Image.effect_noise((32, 32), 40).convert("RGB").save(tmp_path / "0.png")
    assert "at least 2 of them" in refused("--swap", "b16-", *options, "--data", tmp_path)
    Image.effect_noise((48, 32), 80).convert("RGB").save(tmp_path / "1.png")
    result = run("--swap", "b16-", *options, "--data", tmp_path)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "likeness.json").read_text())
    assert report["data"] == tmp_path.name
    assert report["networks"]["b16-"]["toon_distance"] > 1  # networks of random weights draw no such noise
    assert "nothing is" in refused("--swap", "b16-", *options, "--overwrite", "--data", tmp_path / "nothing is")


def test_the_family_is_what_the_zoo_makes():
    """Of two networks of 128 px: the swaps of the names in models.toml."""
    base, toon = (tiny_generator(seed, resolution=128) for seed in (0, 1))
    blends = family(base, toon)
    assert blends["toon-transferred"] is toon
    entries = catalogue()
    for name in ("toonify-original", "toon-ours", "toon-ours-negative"):
        swap = entries[name].swap
        assert swap is not None and same(blends[name], swap_layers(base, toon, swap))
    assert not same(blends["toon-ours"], blends["toon-ours-negative"])


def test_networks_too_small_for_the_family(tmp_path, options):
    assert "'b64' in the swap is no part of these networks" in refused(*[o for o in options if o != "--no-family"])
    assert not (tmp_path / "out").exists()


def test_names_of_networks(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        for stem in ("finetoon", folder):
            save_networks(tmp_path / folder / f"{stem}.safetensors", {"G_ema": tiny_generator(0)})
    one, two = (str(tmp_path / folder / "finetoon.safetensors") for folder in ("first", "second"))
    other = str(tmp_path / "second" / "second.safetensors")
    assert list(named_networks([one, two, other])) == ["first/finetoon", "second/finetoon", "second"]
    with pytest.raises(ToonError, match="is named twice"):
        named_networks([one, one])


def test_mistakes(tmp_path, options, checkpoint):
    assert "nope is not a face embedding" in refused(*options, "--judge", "nope")
    assert "does not exist" in refused(tmp_path / "no.safetensors", *options)
    assert not (tmp_path / "out").exists()
    taught = tmp_path / "taught.safetensors"
    save_networks(taught, {"G_ema": tiny_generator(2)}, provenance={"identity": "faceres"})
    assert "taught was trained with faceres, which cannot judge it" in refused(taught, *options)
    assert not (tmp_path / "out").exists()
    Path(tmp_path / "out").mkdir()
    (tmp_path / "out" / "likeness.png").write_bytes(b"mine")
    assert "--overwrite" in refused(*options)


def test_the_old_form_still_measures_a_network(tmp_path, checkpoint):
    """Without the name of a subcommand: the metrics of one network."""
    result = shell.run(
        main, "--network", checkpoint, "--metrics", "detection", "--samples", 2, "--out", tmp_path / "out"
    )
    assert result.exit_code == 0 and (tmp_path / "out" / "tiny.json").exists()

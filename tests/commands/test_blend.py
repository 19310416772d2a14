"""The command `blend`: a network whose file names its parents, and a picture of it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shell
import torch
from click.testing import CliRunner
from PIL import Image
from tiny import tiny_generator

from stylegan_toon import __version__, blend, load_network
from stylegan_toon.blend import main
from stylegan_toon.data.images import to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.models.swap import swap_layers
from stylegan_toon.pipelines.blend import comparison
from stylegan_toon.pipelines.generate import generate
from stylegan_toon.weights import lineage, save_delta, save_networks, sha256_of

run, refused = partial(shell.run, main), partial(shell.refused, main)


@pytest.fixture
def child(tmp_path, checkpoint) -> Path:
    """A network whose provenance has ``checkpoint`` as its parent."""
    path = tmp_path / "child.safetensors"
    save_networks(path, {"G_ema": tiny_generator(1)}, provenance={"ancestors": [sha256_of(checkpoint)]})
    return path


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_networks_names_and_paths_give_the_same(checkpoint, child, tiny_G):
    expected = swap_layers(tiny_G, tiny_generator(1), "b16-")
    for base, toon in [(tiny_G, tiny_generator(1)), (str(checkpoint), child), (checkpoint, tiny_generator(1))]:
        assert same(blend(base, toon, swap="b16-"), expected)
    assert same(blend(checkpoint, child, ""), tiny_G) and same(blend(checkpoint, child, "all"), tiny_generator(1))


def test_the_file_of_a_blend_names_its_parents(checkpoint, child):
    provenance = blend(checkpoint, child, "b8,b16=0.5", width=None).provenance
    assert provenance["verb"] == "blend" and provenance["version"] == __version__
    assert provenance["options"] == {"swap": "b8,b16=0.5", "width": None}
    assert provenance["parents"] == [{"name": path.name, "sha256": sha256_of(path)} for path in (checkpoint, child)]
    assert set(provenance["ancestors"]) == {sha256_of(checkpoint), sha256_of(child)}


def test_warning_for_unrelated_networks_only(checkpoint, toon_checkpoint, child):
    with pytest.warns(UserWarning, match=r"tiny\.safetensors and toon\.safetensors share no ancestor"):
        blend(checkpoint, toon_checkpoint, "b8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = blend(checkpoint, child, "b8")
        blend(first, checkpoint, "b8")  # a blend is related to its parents
        blend(tiny_generator(0), tiny_generator(1), "b8")  # networks without provenance give no warning


def test_the_command_writes_network_and_picture(tmp_path, checkpoint, child, tiny_G):
    out = tmp_path / "out"
    options = ["--base", checkpoint, "--toon", child, "--swap", "b16,b32", "--seeds", "0,4", "--psi", "0.5"]
    result = run(*options, "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stderr == "" and result.stdout.splitlines()[-1] == str(out)
    assert sorted(os.listdir(out)) == ["blend.png", "blend.safetensors"]

    network = load_network(out / "blend.safetensors")
    expected = swap_layers(tiny_G, tiny_generator(1), "b16,b32")
    assert same(network, expected)
    assert [parent["name"] for parent in network.provenance["parents"]] == ["tiny.safetensors", "child.safetensors"]
    assert lineage(network) == {sha256_of(out / "blend.safetensors"), sha256_of(checkpoint), sha256_of(child)}

    sheet = comparison({"base: tiny": tiny_G, "toon: child": tiny_generator(1), "blend": expected}, [0, 4], psi=0.5)
    assert np.array_equal(np.asarray(sheet), np.asarray(Image.open(out / "blend.png")))


def test_a_delta_is_added(tmp_path, checkpoint, child, tiny_G):
    """What training changed, here one bias, at half its strength; files of something else are refused."""
    start = swap_layers(tiny_G, tiny_generator(1), "b16-")
    tuned = copy.deepcopy(start)
    with torch.no_grad():
        tuned.synthesis.b8.conv1.bias += 0.5
    delta = tmp_path / "delta.safetensors"
    save_delta(delta, start, tuned)
    options = ["--base", checkpoint, "--toon", child, "--swap", "b16-", "--seeds", "0", "--device", "cpu"]
    result = run(*options, "--delta", delta, "--delta-strength", 0.5, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = load_network(tmp_path / "out" / "blend.safetensors")
    expected = start.synthesis.b8.conv1.bias + 0.25
    torch.testing.assert_close(found.synthesis.b8.conv1.bias, expected, rtol=1e-3, atol=1e-3)
    assert "is not a delta" in refused(*options, "--delta", child, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_picture_shows_base_toon_and_blend_of_every_seed():
    """Each cell of the sheet holds, pixel for pixel, what its network makes of its seed."""
    networks = {name: tiny_generator(i, resolution=128) for i, name in enumerate(["base", "toon", "blend"])}
    sheet = np.asarray(comparison(networks, [3, 8]))
    for column, G in enumerate(networks.values()):
        for row, picture in enumerate(generate(G, [3, 8])):
            cell = np.asarray(to_pil(picture))
            hits = [
                (y, x)
                for y, x in zip(*np.nonzero((sheet == cell[0, 0]).all(axis=2)))
                if y + 128 <= len(sheet) and x + 128 <= sheet.shape[1]
                and np.array_equal(sheet[y : y + 128, x : x + 128], cell)
            ]  # fmt: skip
            assert len(hits) == 1
            assert hits[0][0] // (len(sheet) / 2) == row and hits[0][1] // (sheet.shape[1] / 3) == column


def test_unrelated_networks_on_the_command_line(tmp_path, checkpoint, toon_checkpoint):
    result = run("--base", checkpoint, "--toon", toon_checkpoint, "--swap", "b8", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: tiny.safetensors and toon.safetensors share no ancestor")


def test_as_a_module(tmp_path, checkpoint, child):
    """``python -m stylegan_toon.blend`` and ``stylegan-toon blend`` write the same; ranges may look like options."""
    options = ["--base", checkpoint, "--toon", child, "--swap", "-b8", "--seeds", "0", "--device", "cpu", "--out"]
    command = [sys.executable, "-m", "stylegan_toon.blend", *map(str, options), str(tmp_path / "module")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(tmp_path / "module")
    from stylegan_toon.cli import main as group

    assert CliRunner().invoke(group, ["blend", *map(str, options), str(tmp_path / "group")]).exit_code == 0
    from_module, from_command = (load_network(tmp_path / name / "blend.safetensors") for name in ("module", "group"))
    assert same(from_module, from_command)
    assert (tmp_path / "module" / "blend.png").read_bytes() == (tmp_path / "group" / "blend.png").read_bytes()


# Mistakes


def test_no_such_block(tmp_path, checkpoint, child):
    line = refused("--base", checkpoint, "--toon", child, "--swap", "b7", "--out", tmp_path / "out")
    assert line.startswith("error: 'b7' in the swap is no part of these networks: use b4, b8, b16, b32, a range")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ToonError, match="'b64' in the swap"):
        blend(checkpoint, child)


def test_networks_of_different_sizes(tmp_path, checkpoint):
    big = tmp_path / "big.safetensors"
    save_networks(big, {"G_ema": tiny_generator(1, resolution=64)})
    line = refused("--base", checkpoint, "--toon", big, "--swap", "b8", "--out", tmp_path / "out")
    assert "tiny.safetensors and big.safetensors cannot be blended, they differ in resolution (32 and 64)" in line
    assert not (tmp_path / "out").exists()


def test_a_truncated_toon(tmp_path, checkpoint, child):
    child.write_bytes(child.read_bytes()[:5000])
    assert "cut short" in refused("--base", checkpoint, "--toon", child, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_unasked(tmp_path, checkpoint, child):
    options = ["--base", checkpoint, "--toon", child, "--seeds", "0", "--out", tmp_path]
    (tmp_path / "blend.png").write_bytes(b"mine")
    assert "--overwrite" in refused(*options, "--swap", "b8")
    assert (tmp_path / "blend.png").read_bytes() == b"mine" and not (tmp_path / "blend.safetensors").exists()
    assert run(*options, "--swap", "b8", "--overwrite").exit_code == 0
    assert run(*options, "--swap", "b16", "--overwrite").exit_code == 0
    assert load_network(tmp_path / "blend.safetensors").provenance["options"]["swap"] == "b16"


def test_a_file_in_the_way(tmp_path, checkpoint, child):
    (tmp_path / "file").touch()
    options = ["--base", checkpoint, "--toon", child, "--swap", "b8"]
    assert "is a file, not a folder" in refused(*options, "--out", tmp_path / "file")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_leaves_neither_file(tmp_path, checkpoint, child, monkeypatch):
    def full(self, data):
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    out = tmp_path / "out"
    assert "The disk is full" in refused("--base", checkpoint, "--toon", child, "--swap", "b8", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("width", ["0", "-1", "nan", "wide"])
def test_no_such_width(tmp_path, checkpoint, child, width):
    refused("--base", checkpoint, "--toon", child, "--swap", "b8", "--width", width, "--out", tmp_path / "out")


def test_the_defaults_blend_the_shipped_networks(tmp_path):
    result = run("--swap", "b64,b128", "--seeds", "0", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "warning" not in result.stderr
    network = load_network(tmp_path / "out" / "blend.safetensors")
    assert [parent["name"] for parent in network.provenance["parents"]] == ["faces", "comic"]

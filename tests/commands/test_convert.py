"""The command `convert`: any format to any other, and the differences it prints."""

from __future__ import annotations

import re

import pytest
import shell
import torch
from tiny import tiny_discriminator, tiny_generator, tiny_mobile

from stylegan_toon.convert import main
from stylegan_toon.errors import ToonError
from stylegan_toon.pipelines.convert import convert, round_trip, table
from stylegan_toon.weights import load_family, load_network, save_networks


@pytest.fixture
def family(tmp_path):
    path = tmp_path / "family.safetensors"
    save_networks(path, {"G_ema": tiny_generator(1), "D": tiny_discriminator(1)}, provenance={"licence": "L"})
    return path


@pytest.mark.parametrize("first", [".pkl", ".pt", ".safetensors"])
@pytest.mark.parametrize("second", [".pkl", ".pt", ".safetensors"])
def test_every_conversion_is_exact(family, tmp_path, first, second):
    convert(family, tmp_path / f"a{first}")
    convert(tmp_path / f"a{first}", tmp_path / f"b{second}")
    wanted, actual = load_family(family), load_family(tmp_path / f"b{second}")
    for name, network in wanted.items():
        ours, theirs = network.state_dict(), actual[name].state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_command_prints_what_it_found_and_the_difference(family, tmp_path):
    result = shell.run(main, family, "--out", tmp_path / "new" / "x.pkl")
    assert result.exit_code == 0, result.output
    assert re.search(r"resolution +32 +32\n", result.output) and re.search(r"mbstd_group_size +4", result.output)
    assert "G_ema: largest difference of pictures on 4 seeds after reading it back: 0\n" in result.output
    assert "D: largest difference of scores on 4 seeds after reading it back: 0\n" in result.output
    assert "note: there was no G" in result.output
    assert result.output.endswith("x.pkl\n")


def test_half_precision_is_measured(family, tmp_path):
    networks, _ = convert(family, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * family.stat().st_size
    assert 1e-5 < round_trip(networks, tmp_path / "half.safetensors")["G_ema"] < 0.1
    assert load_network(tmp_path / "half.safetensors").provenance["licence"] == "L"


def test_members_can_be_chosen(family, tmp_path):
    convert(family, tmp_path / "d.safetensors", only=["D"])
    assert list(load_family(tmp_path / "d.safetensors")) == ["D"]
    with pytest.raises(ToonError, match="holds no G, only G_ema, D"):
        convert(family, tmp_path / "g.safetensors", only=["G"])


def test_mistakes(family, tmp_path):
    with pytest.raises(ToonError, match="should end in"):
        convert(family, tmp_path / "x.onnx")
    with pytest.raises(ToonError, match=r"x\.pt can hold float32 only"):
        convert(family, tmp_path / "x.pt", half=True)
    with pytest.raises(ToonError, match="--overwrite"):
        convert(family, family)
    with pytest.raises(ToonError, match="does not exist"):
        convert(tmp_path / "no.pkl", tmp_path / "x.pt")
    save_networks(tmp_path / "c.safetensors", {"G_ema": tiny_generator(0, c_dim=3)})
    with pytest.raises(ToonError, match="c_dim = 3"):
        convert(tmp_path / "c.safetensors", tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


def test_conditional_networks_are_compared_with_labels(tmp_path):
    save_networks(
        tmp_path / "c.safetensors", {"G_ema": tiny_generator(0, c_dim=3), "D": tiny_discriminator(0, c_dim=3)}
    )
    networks, _ = convert(tmp_path / "c.safetensors", tmp_path / "c.pkl")
    assert round_trip(networks, tmp_path / "c.pkl") == {"G_ema": 0, "D": 0}


def test_the_table_has_a_line_for_every_field(family):
    lines = table(load_family(family)).splitlines()
    assert lines[0].split() == ["G_ema", "D"] and lines[-1].startswith("parameters")


def test_a_mobile_generator_is_cut_to_a_size(tmp_path):
    whole = tiny_mobile(0, resolution=256, channels=(16, 16, 16, 8, 8, 8))
    path = tmp_path / "whole.safetensors"
    save_networks(path, {"G_ema": whole, "D": tiny_discriminator(0)})
    result = shell.run(main, path, "--only", "G_ema", "--resolution", 128, "--out", tmp_path / "128.safetensors")
    assert result.exit_code == 0, result.output
    assert re.search(r"resolution +128\n", result.output) and re.search(r"wavelet +False\n", result.output)
    assert "after reading it back: 0\n" in result.output
    small = load_network(tmp_path / "128.safetensors")
    assert small.provenance["options"] == {"half": False, "resolution": 128}
    assert [parent["name"] for parent in small.provenance["parents"]] == ["whole.safetensors"]
    z = torch.randn(2, 24)
    wanted = whole.synthesis(whole.mapping(z), resolution=128)
    assert torch.allclose(small(z), wanted, atol=1e-5)
    with pytest.raises(ToonError, match="of the mobile family: save it as"):
        convert(path, tmp_path / "x.pt", only=["G_ema"])
    with pytest.raises(ToonError, match=r"D cannot be cut to 128 px, .* choose with --only"):
        convert(path, tmp_path / "x.safetensors", resolution=128)
    with pytest.raises(ToonError, match="only of 64, 128, 256"):
        convert(path, tmp_path / "x.safetensors", only=["G_ema"], resolution=512)
    assert not (tmp_path / "x.safetensors").exists()


def test_another_family_is_not_cut(family, tmp_path):
    with pytest.raises(ToonError, match="G_ema cannot be cut to 16 px, only mobile generators can"):
        convert(family, tmp_path / "x.safetensors", resolution=16)


def test_the_example_on_the_help_page_works(tmp_path, monkeypatch):
    """The first line of the example with another folder; a small network replaces ``comic``."""
    (tmp_path / "models.toml").write_text('[comic]\nfile = "comic.safetensors"\n')
    network = tiny_mobile(0, resolution=512, channels=(16, 16, 16, 8, 8, 8, 8))
    save_networks(tmp_path / "comic.safetensors", {"G_ema": network})
    monkeypatch.setattr("stylegan_toon.weights.zoo.pretrained_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    command, *arguments = main.example.splitlines()[0].removeprefix("python -m ").split()
    assert command == "stylegan_toon.convert" and arguments[0] == "comic"
    result = shell.run(main, *arguments)
    assert result.exit_code == 0, result.output
    assert load_network(result.stdout.splitlines()[-1]).config.resolution == 256

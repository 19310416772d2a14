"""NVIDIA's pickles: the pictures and scores their own code computed, and an exact round trip of every tensor.

The fixtures were made by the original implementations; see fixtures/make_nvlabs.py. With ``STYLEGAN_TOON_PEER`` naming
a checkout of stylegan2-ada-pytorch, more kinds of network are made with it during the test.
"""

from __future__ import annotations

import os
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_discriminator, tiny_generator

from stylegan_toon.errors import ToonError
from stylegan_toon.weights import load_network, load_networks, read_networks, save_networks
from stylegan_toon.weights.nvlabs_writer import write_networks

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ["ada-skip", "ada-resnet", "stylegan3-skip", "stylegan3-resnet"]


def refused(path: Path) -> str:
    with pytest.raises(ToonError) as caught:
        read_networks(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_scores_equal_the_original(name):
    networks, expected = read_networks(FIXTURES / f"{name}.pkl"), load_file(FIXTURES / f"{name}.safetensors")
    label = expected["label"] if "resnet" in name else None
    for which in ("G", "G_ema"):
        image = networks[which](expected["z"], label, psi=0.7)
        assert (image - expected["image"]).abs().max() < 1e-5 * expected["image"].abs().max()
    score = networks["D"](expected["image"], label)
    assert (score - expected["score"]).abs().max() < 1e-5 * expected["score"].abs().max().clamp(min=1)


@pytest.mark.parametrize("name", NAMES)
def test_inferred_config(name):
    networks = read_networks(FIXTURES / f"{name}.pkl")
    G, D = networks["G_ema"].config, networks["D"].config
    assert (G.resolution, G.z_dim, G.w_dim, G.mapping_layers, G.channel_base, G.channel_max) == (16, 16, 16, 2, 128, 8)
    assert (G.num_fp16_res, G.conv_clamp, D.num_fp16_res, D.conv_clamp) == (1, 256, 1, 256)
    assert G.architecture == name.split("-")[1] and D.architecture == "resnet"
    assert G.c_dim == D.c_dim == (3 if "resnet" in name else 0)
    assert G.w_avg_beta == (0.995 if "ada" in name else 0.998)
    assert networks["D"].provenance["dropped"] == ["training_set_kwargs"]
    assert not any(network.training for network in networks.values())


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_exact(name, tmp_path):
    """.pkl -> .safetensors -> .pkl, through both layouts."""
    original = read_networks(FIXTURES / f"{name}.pkl")
    save_networks(tmp_path / "a.safetensors", original)
    for layout in ("ada", "stylegan3"):
        path = tmp_path / f"{layout}.pkl"
        assert write_networks(path, load_networks(tmp_path / "a.safetensors"), layout=layout) == []
        for which, network in read_networks(path).items():
            assert same(network, original[which]) and network.config == original[which].config


def test_the_written_file_names_their_classes_and_holds_no_source(tmp_path):
    write_networks(tmp_path / "x.pkl", {"G_ema": tiny_generator(0), "D": tiny_discriminator(0)}, layout="stylegan3")
    names = {str(arg) for op, arg, _ in pickletools.genops((tmp_path / "x.pkl").read_bytes()) if op.name == "GLOBAL"}
    assert {name.split()[0] for name in names} == {
        "training.networks_stylegan2", "torch._utils", "torch.storage", "collections", "builtins"
    }  # fmt: skip
    assert "module_src" not in str((tmp_path / "x.pkl").read_bytes())


def test_missing_networks_are_added_with_a_note(tmp_path):
    notes = write_networks(tmp_path / "x.pkl", {"G_ema": tiny_generator(3)})
    assert len(notes) == 2 and "no G:" in notes[0] and "untrained" in notes[1]
    networks = read_networks(tmp_path / "x.pkl")
    assert same(networks["G"], networks["G_ema"]) and networks["D"].config.resolution == 32
    with pytest.raises(ToonError, match="needs a generator"):
        write_networks(tmp_path / "y.pkl", {"D": tiny_discriminator(0)})
    with pytest.raises(ToonError, match="--overwrite"):
        write_networks(tmp_path / "x.pkl", {"G_ema": tiny_generator(3)})


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_of_these_names(tmp_path, zipped):
    G, D = tiny_generator(1), tiny_discriminator(1)
    for content in (G.state_dict(), {"G_ema": G.state_dict(), "D": D.state_dict()}):
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        networks = read_networks(tmp_path / "x.pt")
        assert same(networks["G_ema"], G) and "state dict" in networks["G_ema"].provenance["notes"][0]
        assert "D" not in networks or same(networks["D"], D)


def edited(tmp_path: Path, old: bytes, new: bytes) -> Path:
    """A written file with one text in it replaced."""
    write_networks(tmp_path / "x.pkl", {"G_ema": tiny_generator(0)}, overwrite=True)
    data = (tmp_path / "x.pkl").read_bytes()
    assert old in data and len(old) == len(new)
    (tmp_path / "x.pkl").write_bytes(data.replace(old, new))
    return tmp_path / "x.pkl"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"noise_strength", b"noise_strengtx", "noise_strengtx"),
        (b"const", b"conts", "missing: synthesis.b4.const"),
        (b"fc1", b"fcx", "unknown: mapping.fcx.weight"),
        (struct.pack(">d", 2**0.5), struct.pack(">d", 3.0), "settings that this package's networks do not know"),
        (b"SynthesisLayer\n", b"SynthesisInput\n", "alias-free StyleGAN3 generator"),
        (b"training.networks", b"training.netwrong", "asks for training.netwrong.Generator"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, old, new, reason):
    """No tensor may be left at its initial value, and no setting be ignored silently."""
    assert reason in refused(edited(tmp_path, old, new))


def test_reading_leaves_random_numbers_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    load_network(FIXTURES / "ada-skip.pkl")
    assert torch.equal(before, torch.random.get_rng_state())


_PEAK = """
import sys
from stylegan_toon.weights import read_networks

def peak():  # bytes; getrusage would count the parent's, too
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

read_networks(sys.argv[1])
before = peak()
G = read_networks(sys.argv[2], which=["G_ema"])["G_ema"]
size = sum(t.nbytes for t in G.state_dict().values())
assert sum(t.sum() for t in G.state_dict().values()).isfinite()  # look at every page, without another copy
print((peak() - before) / size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_a_1024_px_network_peaks_under_twice_its_size(tmp_path, suffix):
    G = tiny_generator(0, resolution=1024, channel_base=32768, channel_max=512, z_dim=512, w_dim=512, mapping_layers=8)
    path = tmp_path / f"large{suffix}"
    if suffix == ".pkl":
        write_networks(path, {"G_ema": G, "D": tiny_discriminator(0)})
    else:
        save_networks(path, {"G_ema": G})
    command = [sys.executable, "-c", _PEAK, str(FIXTURES / "ada-skip.pkl"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.9


@torch.no_grad()
@pytest.mark.skipif(
    "STYLEGAN_TOON_PEER" not in os.environ, reason="needs STYLEGAN_TOON_PEER, a checkout to compare with"
)
def test_many_kinds_made_by_a_checkout(tmp_path):
    script = Path(__file__).parent / "published_networks.py"
    subprocess.run([sys.executable, script, os.environ["STYLEGAN_TOON_PEER"], tmp_path], check=True)
    paths = sorted(tmp_path.glob("*.pkl"))
    assert len(paths) >= 30
    for path in paths:
        networks, expected = read_networks(path), torch.load(path.with_suffix(".pt"), weights_only=True)
        for which in networks.keys() - {"D"}:
            image = networks[which](expected["z"], expected["c"], psi=0.7, cutoff=3)
            assert (image - expected[which]).abs().max() < 1e-4, path.name
        if "D" in networks:
            assert (networks["D"](expected["G_ema"], expected["c"]) - expected["D"]).abs().max() < 1e-4, path.name
        save_networks(tmp_path / "x.safetensors", networks, overwrite=True)
        write_networks(tmp_path / "x", load_networks(tmp_path / "x.safetensors"), overwrite=True)
        for which, network in read_networks(tmp_path / "x").items():
            assert which not in networks or same(network, networks[which]), path.name

"""rosinality's files: the pictures and scores its own code computed, and an exact round trip of every tensor.

The fixtures were made by the original implementation; see fixtures/make_rosinality.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_discriminator, tiny_generator

from stylegan_toon.errors import ToonError
from stylegan_toon.weights import load_networks, read_networks, save_networks, sha256_of
from stylegan_toon.weights.pickled_tensors import PickleFile
from stylegan_toon.weights.rosinality_writer import write_networks

FIXTURES = Path(__file__).parent / "fixtures"
FAMILY, OLD = FIXTURES / "rosinality.pt", FIXTURES / "rosinality-old.pt"


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / "rosinality.safetensors")


def stored(path: Path = FAMILY) -> dict[str, Any]:
    """The content of a file, unpickled; only for files that these tests wrote."""
    return torch.load(path, weights_only=False)


def changed(folder: Path, change: Callable[[dict[str, Any]], Any], path: Path = FAMILY) -> Path:
    """A copy of a fixture whose content went through ``change``, which returns the new content or None for the same."""
    content = stored(path)
    result = change(content)
    torch.save(content if result is None else result, folder / "changed.pt")
    return folder / "changed.pt"


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ToonError) as caught:
        read_networks(path, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=5e-6 * b.abs().max().item())


@torch.no_grad()
def test_pictures_and_scores_equal_the_original(expected):
    networks = read_networks(FAMILY)
    assert list(networks) == ["G_ema", "G", "D"]
    z = expected["z"]
    assert close(networks["G_ema"](z), expected["G_ema"])
    assert close(networks["G_ema"](z, psi=0.5), expected["G_ema_psi_0.5"])
    assert close(networks["G"](z), expected["G"])
    assert close(networks["D"](expected["G"]), expected["D"])
    old = read_networks(OLD)["G_ema"]
    assert close(old(z[:1]), expected["old"])


def test_inferred_config():
    networks = read_networks(FAMILY)
    G, D = networks["G_ema"].config, networks["D"].config
    assert (G.resolution, G.z_dim, G.w_dim, G.mapping_layers, D.resolution) == (16, 16, 16, 8, 16)
    old = read_networks(OLD)["G_ema"].config
    assert (old.resolution, old.mapping_layers) == (64, 2)
    assert [old.channels(res) for res in old.block_resolutions] == [8, 8, 8, 8, 4]
    for network in networks.values():
        assert not network.training
        assert all(tensor.dtype == torch.float32 and not tensor.is_meta for tensor in network.state_dict().values())


def test_provenance_lists_dropped_and_derived_tensors(expected):
    networks = read_networks(FAMILY)
    assert networks["D"].provenance == {
        "name": "rosinality.pt",
        "sha256": sha256_of(FAMILY),
        "format": "rosinality",
        "dropped": ["g_optim", "d_optim", "args", "ada_aug_p"],
        "notes": [],
    }
    assert torch.equal(networks["G"].mapping.w_avg, stored()["latent_avg"])
    old = read_networks(OLD)["G_ema"]
    assert "No latent_avg" in old.provenance["notes"][0] and old.provenance["dropped"] == []
    w = old.mapping(torch.randn(20_000, 16))[:, 0]
    spread = w.std(0) * (1 / 10_000 + 1 / 20_000) ** 0.5
    assert ((old.mapping.w_avg - w.mean(0)).abs() < 6 * spread).all()
    assert torch.equal(old.mapping.w_avg, read_networks(OLD)["G_ema"].mapping.w_avg)


def test_round_trip_is_exact(tmp_path):
    """.pt -> .safetensors -> .pt: what the original reads has its own names, shapes, types and bits again."""
    save_networks(tmp_path / "a.safetensors", read_networks(FAMILY))
    notes = write_networks(tmp_path / "b.pt", load_networks(tmp_path / "a.safetensors"))
    back, original = torch.load(tmp_path / "b.pt", weights_only=True), stored()
    for key in ("g_ema", "g", "d"):
        assert back[key].keys() == original[key].keys()
        for name, tensor in original[key].items():
            assert back[key][name].dtype == tensor.dtype and torch.equal(back[key][name], tensor), name
    assert torch.equal(back["latent_avg"], original["latent_avg"])
    for key in ("g_optim", "d_optim"):  # an optimiser of the original accepts the written one
        count = len(original[key]["param_groups"][0]["params"])
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]).load_state_dict(back[key])
        assert back[key]["state"] == {}
    assert back["g_optim"]["param_groups"][0]["lr"] == pytest.approx(0.0016)
    assert "4: 8, 8: 8, 16: 8" in notes[0] and "args.n_mlp = 8 and args.latent = 16" in notes[1] and len(notes) == 2


def test_bare_and_partial_files(tmp_path, expected):
    z = expected["z"]
    bare = changed(tmp_path, lambda content: content["g_ema"])
    networks = read_networks(bare)
    assert list(networks) == ["G_ema"] and close(networks["G_ema"](z), expected["G_ema"])
    parameters = changed(tmp_path, lambda c: {"g": {k: torch.nn.Parameter(v) for k, v in c["g"].items()}})
    alone = read_networks(parameters)
    assert list(alone) == ["G_ema"] and close(alone["G_ema"](z), expected["G"])
    assert list(read_networks(FAMILY, which=["D"])) == ["D"]
    assert "holds no G, only G_ema: ask" in refused(OLD, which=["G"])
    wide = changed(tmp_path, lambda content: content.update(latent_avg=content["latent_avg"][None]))
    assert torch.equal(read_networks(wide)["G"].mapping.w_avg, stored()["latent_avg"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    path = changed(tmp_path, lambda c: {"d": {name: tensor.to(dtype) for name, tensor in c["d"].items()}})
    D = read_networks(path)["D"]
    assert torch.equal(D.b16.conv0.weight, stored()["d"]["convs.1.conv1.0.weight"].to(dtype).float())
    assert D.provenance["notes"] == (["Stored in float64: rounded to float32."] if dtype == torch.float64 else [])


@pytest.mark.parametrize("name", ["rosinality.pt", "rosinality-old.pt", "ada-skip.pkl"])
def test_a_file_is_parsed_once(monkeypatch, name):
    opened, parse = [], PickleFile.__init__
    monkeypatch.setattr(PickleFile, "__init__", lambda self, *args: opened.append(name) or parse(self, *args))
    read_networks(FIXTURES / name)
    assert opened == [name]


def test_networks_that_share_memory_in_the_file_do_not_share_it_here(tmp_path):
    networks = read_networks(changed(tmp_path, lambda content: {"g": content["g"], "g_ema": content["g"]}))
    with torch.no_grad():
        networks["G"].synthesis.b4.const.zero_()
    assert networks["G_ema"].synthesis.b4.const.abs().sum() > 0


def test_replacing_the_file_does_not_change_the_network(tmp_path, expected):
    path = changed(tmp_path, lambda content: None)
    G = read_networks(path)["G_ema"]
    write_networks(path, {"G_ema": tiny_generator(4)}, overwrite=True)
    assert close(G(expected["z"]), expected["G_ema"])


def without(key: str, *names: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in names:
            del content[key][name]

    return change


def having(key: str, **tensors: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[key].update({name.replace("__", "."): value for name, value in tensors.items()})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("g_ema", "noises.noise_3"), r"(missing: noises.noise_3)"),
        (without("g_ema", "convs.0.conv.blur.kernel"), "(missing: convs.0.conv.blur.kernel)"),
        (without("g_ema", "style.5.bias"), "(missing: style.5.bias)"),
        (without("g_ema", "style.5.weight"), "(unknown: style.5.bias, style.6.weight, "),
        (without("g_ema", "to_rgbs.0.conv.weight"), "(unknown: "),
        (without("g", "to_rgb1.conv.weight"), "(missing: to_rgb1.conv.weight)"),
        (without("d", "convs.1.conv1.0.weight"), "(unknown: "),
        (without("d", "final_linear.1.bias"), "(missing: final_linear.1.bias)"),
        (without("d", "convs.0.0.weight"), "(missing: convs.0.0.weight)"),
        (having("g_ema", evil=torch.zeros(1)), "(unknown: evil)"),
        (having("g_ema", evil="text"), "(not tensors: evil)"),
        (having("g_ema", convs__1__noise__weight=torch.zeros(2)), "of shape [2] instead of [1]: convs.1.noise.weight"),
        (having("g_ema", noises__noise_0=torch.zeros(1, 1, 4, 5)), "of shape [1, 1, 4, 5] instead of [1, 1, 4, 4]"),
        (having("g_ema", conv1__activate__bias=torch.zeros(8, dtype=torch.int64)), "of type int64: conv1.activate"),
        (having("g_ema", input__input=torch.zeros(3)), "of shape [3]: input.input"),
        (having("g_ema", input__input=torch.zeros(1, 0, 4, 4)), "of shape [1, 0, 4, 4]: input.input"),
        (having("g_ema", style__3__weight=torch.zeros(16, 32)), "of shape [16, 32] instead of [16, 16]"),
        (having("g_ema", convs__0__conv__weight=torch.zeros(1, 6, 8, 3, 3)), "channel_max give (b4 8, b8 6, b16 8)"),
        (having("g_ema", to_rgbs__0__upsample__kernel=torch.ones(4, 4) / 4), "not the filter [1, 3, 3, 1]: to_rgbs.0"),
        (having("d", convs__1__skip__0__kernel=torch.ones(4, 4) / 16), "not the filter [1, 3, 3, 1]: convs.1.skip"),
        (lambda content: content.update(latent_avg=torch.zeros(17)), "of shape [17] instead of [16]: latent_avg"),
        (lambda content: content.update(latent_avg=[1.0] * 16), "not tensors: latent_avg"),
        (lambda content: content.update(g=[1, 2]), "should hold a state dict of tensors as g"),
        (lambda content: content.update(g={}), "should hold a state dict of tensors as g"),
        (lambda content: {"args": 1, 5: 2}, "holds no StyleGAN2 generator or discriminator"),
        (lambda content: {}, "holds no StyleGAN2 generator or discriminator"),
        (lambda content: [content], "holds no StyleGAN2 generator or discriminator"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_listed(tmp_path, change, reason):
    assert reason in refused(changed(tmp_path, change))


def test_a_network_of_three_hundred_blocks(tmp_path):
    """Sizes are powers of two: many blocks in a file must not make noise of astronomical size."""

    def tower(content: dict[str, Any]) -> None:
        for i in range(300):
            content["g_ema"][f"to_rgbs.{i}.conv.weight"] = torch.zeros(1, 3, 8, 1, 1)
            content["g_ema"][f"convs.{2 * i}.conv.weight"] = torch.zeros(1, 8, 8, 3, 3)

    assert "cannot be built" in refused(changed(tmp_path, tower))


# Writing


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"c_dim": 3}, "c_dim = 3"),
        ({"img_channels": 1}, "img_channels = 1"),
        ({"architecture": "resnet"}, "architecture = resnet"),
        ({"architecture": "orig", "img_channels": 1}, "img_channels = 1, architecture = orig"),
        ({"use_noise": False}, "use_noise = False"),
        ({"activation": "relu"}, "activation = relu"),
        ({"resample_filter": (1, 2, 1)}, "resample_filter = (1, 2, 1)"),
        ({"mapping_features": 64}, "mapping_features = 64"),
        ({"z_dim": 64}, "z_dim = 64"),
        ({"mapping_layers": 0}, "mapping_layers = 0"),
        ({"mapping_lr_multiplier": 1.0}, "mapping_lr_multiplier = 1.0"),
    ],
)
def test_a_generator_it_cannot_hold(tmp_path, changes, reason):
    with pytest.raises(ToonError, match="rosinality's networks have no") as caught:
        write_networks(tmp_path / "x.pt", {"G_ema": tiny_generator(0, **changes)})
    assert reason in str(caught.value) and os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "skip"}, "architecture = skip"),
        ({"c_dim": 2}, "c_dim = 2"),
        ({"mbstd_group_size": 8}, "mbstd_group_size = 8"),
        ({"mbstd_channels": 0}, "mbstd_channels = 0"),
    ],
)
def test_a_discriminator_it_cannot_hold(tmp_path, changes, reason):
    with pytest.raises(ToonError, match=reason):
        write_networks(tmp_path / "x.pt", {"D": tiny_discriminator(0, **changes)})
    assert os.listdir(tmp_path) == []


def test_any_width_of_the_config(tmp_path):
    """Our own networks there and back, also where channels grow narrower from the start or never."""
    for base, most in [(512, 32), (128, 64), (4096, 16), (1000, 31)]:
        family = {
            "G_ema": tiny_generator(1, channel_base=base, channel_max=most, num_fp16_res=2),
            "D": tiny_discriminator(2, channel_base=base, channel_max=most),
        }
        write_networks(tmp_path / "x.pt", family, overwrite=True)
        back = read_networks(tmp_path / "x.pt")
        for name, network in family.items():
            state = back[name].state_dict()
            assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
        assert torch.equal(back["G_ema"](torch.ones(1, 32)), family["G_ema"](torch.ones(1, 32)))


def test_notes_of_the_writer(tmp_path):
    published = dict(z_dim=512, w_dim=512, mapping_layers=8, channel_base=2048, channel_max=512)
    G = tiny_generator(0, resolution=4, **published)
    assert write_networks(tmp_path / "a.pt", {"G": G}) == [
        "train.py --ckpt needs G_ema, G and D: this file serves to generate and to project."
    ]
    two = {"G": tiny_generator(1), "G_ema": tiny_generator(2)}
    notes = write_networks(tmp_path / "b.pt", two)
    assert any("w_avg of G is left out" in note for note in notes)
    assert torch.equal(stored(tmp_path / "b.pt")["latent_avg"], two["G_ema"].mapping.w_avg)


def test_nothing_is_overwritten_nor_left_half_written(tmp_path, tiny_G, monkeypatch):
    path = tmp_path / "x.pt"
    path.write_bytes(b"mine")
    with pytest.raises(ToonError, match="--overwrite"):
        write_networks(path, {"G_ema": tiny_G})
    assert path.read_bytes() == b"mine"
    for networks in ({}, {"E": tiny_G}, {"D": tiny_G}, {"G": torch.nn.Linear(2, 2)}):
        with pytest.raises(ValueError):
            write_networks(path, networks, overwrite=True)
    with pytest.raises(ToonError, match="only networks of one size"):
        write_networks(path, {"G": tiny_G, "D": tiny_discriminator(0, resolution=16)}, overwrite=True)
    with pytest.raises(ToonError, match="cannot be written"):
        write_networks(tmp_path / "no" / "x.pt", {"G_ema": tiny_G})
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == ["x.pt"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, tiny_G):
    def full(self: Path, data: bytes) -> int:
        with open("/dev/full", "wb", buffering=0) as device:
            return device.write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ToonError, match="The disk is full"):
        write_networks(tmp_path / "x.pt", {"G_ema": tiny_G})
    assert os.listdir(tmp_path) == []


def test_a_clamp_is_left_out_with_a_note(tmp_path):
    G = tiny_generator(0, conv_clamp=256.0)
    assert any(
        "no clamp there: activations beyond +-256" in note for note in write_networks(tmp_path / "x.pt", {"G_ema": G})
    )
    assert torch.equal(read_networks(tmp_path / "x.pt")["G_ema"](torch.ones(1, 32)), G(torch.ones(1, 32)))


def test_old_files_without_noise_buffers(tmp_path, expected):
    noises = [name for name in stored()["g_ema"] if name.startswith("noises.")]
    path = changed(tmp_path, lambda c: [c["g_ema"].pop(name) for name in noises] and None)
    G, whole = read_networks(path)["G_ema"], read_networks(FAMILY)["G_ema"]
    assert "noise_const is drawn" in G.provenance["notes"][0]
    assert torch.equal(G(expected["z"], noise_mode="none"), whole(expected["z"], noise_mode="none"))
    assert torch.equal(G.synthesis.b4.conv1.noise_const, read_networks(path)["G_ema"].synthesis.b4.conv1.noise_const)


def test_a_view_is_written_without_its_base(tmp_path, tiny_G):
    """A parameter that is a view of a larger tensor is written without the rest of it."""
    state = tiny_G.state_dict()
    tiny_G.load_state_dict({k: torch.stack([v] * 50)[7] for k, v in state.items()}, assign=True)
    write_networks(tmp_path / "x.pt", {"G_ema": tiny_G})
    assert (tmp_path / "x.pt").stat().st_size < 2 * sum(tensor.nbytes for tensor in state.values())


# Memory

_PEAK = """
import sys
from pathlib import Path
from stylegan_toon.weights import read_networks

def peak():  # bytes; getrusage would count the parent's, too
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

small, large = sys.argv[1:]
read_networks(small)
before = peak()
G = read_networks(large)["G_ema"]
total = sum(tensor.sum() for tensor in G.state_dict().values())  # look at every page, without another copy
print((peak() - before) / Path(large).stat().st_size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("old_form", [False, True])
def test_reading_takes_less_than_twice_the_file(tmp_path, old_form):
    G = tiny_generator(0, resolution=16, channel_base=8192, channel_max=512, mapping_layers=1)
    write_networks(tmp_path / "large.pt", {"G_ema": G})
    torch.save(stored(tmp_path / "large.pt"), tmp_path / "large.pt", _use_new_zipfile_serialization=not old_form)
    command = [sys.executable, "-c", _PEAK, str(FAMILY), str(tmp_path / "large.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) < 1.6

"""Networks are saved and loaded bit for bit, and a damaged file is refused in one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_discriminator, tiny_generator

from stylegan_toon.errors import ToonError
from stylegan_toon.models import Generator, GeneratorConfig
from stylegan_toon.weights import load_networks, read_header, save_networks, sha256_of
from stylegan_toon.weights.checkpoint import MAX_HEADER
from stylegan_toon.weights.kinds import KINDS, classes_of, kind_of


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def tampered(path: Path, *, tensors=None, **metadata) -> Path:
    """A copy of a file with entries of its metadata (JSON or text) or its tensors replaced."""
    with safetensors.safe_open(path, "pt") as file:
        kept = {**file.metadata(), **{k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}}
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    out = path.with_name("tampered.safetensors")
    safetensors.torch.save_file(
        stored if tensors is None else tensors(stored), out, {k: v for k, v in kept.items() if v}
    )
    return out


def config_of(path: Path, **changes) -> dict:
    config = read_header(path).config
    return {**config, "G_ema": {**config["G_ema"], **changes}}


def refused(path: Path) -> str:
    with pytest.raises(ToonError) as caught:
        load_networks(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_round_trip_is_exact(tmp_path, architecture, c_dim):
    family = {
        "G": tiny_generator(1, architecture=architecture, c_dim=c_dim, num_fp16_res=2, conv_clamp=256),
        "G_ema": tiny_generator(2, architecture=architecture, c_dim=c_dim, resample_filter=(1, 2, 1)),
        "D": tiny_discriminator(3, architecture=architecture, c_dim=c_dim, mbstd_group_size=None),
    }
    path = tmp_path / "family.safetensors"
    save_networks(path, family, provenance={"verb": "test", "images_seen": 12})
    loaded = load_networks(path)
    assert list(loaded) == list(family)
    for name, network in family.items():
        assert loaded[name].config == network.config
        assert same(loaded[name], network) and not loaded[name].training
    z, c = torch.randn(2, 32), torch.eye(3)[:2] if c_dim else None
    assert torch.equal(loaded["G_ema"](z, c), family["G_ema"](z, c))
    assert loaded["D"].provenance == {
        "verb": "test", "images_seen": 12, "name": "family.safetensors",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }  # fmt: skip


def test_what_is_on_disk(checkpoint, tiny_G):
    """The documented layout, read by the plain safetensors library."""
    tensors = safetensors.torch.load_file(checkpoint)
    assert torch.equal(tensors["G_ema.synthesis.b4.const"], tiny_G.synthesis.b4.const)
    with safetensors.safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    assert metadata["format_version"] == "1"
    assert json.loads(metadata["kind"]) == {"G_ema": "generator", "D": "discriminator"}
    config = json.loads(json.dumps(dataclasses.asdict(tiny_G.config)))
    assert json.loads(metadata["config"])["G_ema"] == config == read_header(checkpoint).config["G_ema"]
    assert read_header(checkpoint).tensors["G_ema.synthesis.b4.const"] == ("F32", (32, 4, 4))


def test_float16_halves_the_file_and_rounds_once(tmp_path, checkpoint, tiny_G):
    half = tmp_path / "half.safetensors"
    save_networks(half, {"G_ema": tiny_G}, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * checkpoint.stat().st_size
    loaded = load_networks(half)["G_ema"].state_dict()
    for key, tensor in tiny_G.state_dict().items():
        assert loaded[key].dtype == torch.float32
        assert torch.equal(loaded[key], tensor.half().float())
    with torch.no_grad():
        tiny_G.mapping.w_avg.fill_(1e5)
    with pytest.raises(ToonError, match=r"mapping\.w_avg holds values too large"):
        save_networks(tmp_path / "over.safetensors", {"G_ema": tiny_G}, dtype=torch.float16)
    assert not (tmp_path / "over.safetensors").exists()


def test_which_device_and_digest(checkpoint, device):
    only = load_networks(checkpoint, which=["D"], device=device, sha256=sha256_of(checkpoint).upper())
    assert list(only) == ["D"] and next(only["D"].parameters()).device.type == device.type
    with pytest.raises(ToonError, match="holds no G, only G_ema, D"):
        load_networks(checkpoint, which=["G"])
    with pytest.raises(ToonError, match="is not the file it should be"):
        load_networks(checkpoint, sha256="0" * 64)


def test_loading_leaves_the_random_numbers_alone(checkpoint):
    state = torch.get_rng_state()
    load_networks(checkpoint)
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_is_overwritten_unasked_nor_left_half_written(tmp_path, checkpoint, tiny_toon):
    before = checkpoint.read_bytes()
    with pytest.raises(ToonError, match="--overwrite"):
        save_networks(checkpoint, {"G_ema": tiny_toon})
    assert checkpoint.read_bytes() == before
    save_networks(checkpoint, {"G_ema": tiny_toon}, overwrite=True)
    assert same(load_networks(checkpoint)["G_ema"], tiny_toon)
    with pytest.raises(ValueError, match="kind"):
        save_networks(tmp_path / "x.safetensors", {"G": torch.nn.Linear(2, 2)})
    assert sorted(os.listdir(tmp_path)) == ["tiny.safetensors"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, tiny_G):
    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        with open("/dev/full", "wb", buffering=0) as device:
            return device.write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ToonError, match="The disk is full"):
        save_networks(tmp_path / "x.safetensors", {"G_ema": tiny_G})
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_a_sentence(tmp_path, tiny_G):
    with pytest.raises(ToonError, match="cannot be written"):
        save_networks(tmp_path / "no" / "x.safetensors", {"G_ema": tiny_G})


# Files that are not ours, or incomplete


def test_not_a_file(tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing.safetensors")
    assert "is a folder" in refused(tmp_path)
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(100), b"\x80\x02ctorch._utils\n" * 9):
        (tmp_path / "x").write_bytes(content)
        assert "is not a file of networks" in refused(tmp_path / "x")


def test_every_truncation_is_refused(checkpoint):
    data = checkpoint.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for length in {0, 7, 8, 9, header // 2, header - 1, header, header + 1, len(data) // 2, len(data) - 1}:
        checkpoint.write_bytes(data[:length])
        assert "file of networks" in (message := refused(checkpoint)) or "cut short" in message
    checkpoint.write_bytes(data + b"x")
    assert "damaged" in refused(checkpoint)


def test_a_giant_header_is_refused_unread(tmp_path):
    for claim in (MAX_HEADER + 1, 2**63, 2**64 - 1):
        (tmp_path / "x").write_bytes(struct.pack("<Q", claim) + b"{" + b" " * 100)
        assert "is not a file of networks" in refused(tmp_path / "x")


def test_tensors_of_another_program(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    assert "does not say of what network" in refused(tmp_path / "x.safetensors")


# Headers that do not match the tensors


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"format_version": "3"}, "newer version"),
        ({"format_version": "one"}, "cannot be parsed"),
        ({"kind": "{"}, "cannot be parsed"),
        ({"kind": ""}, "cannot be parsed"),
        ({"provenance": "[" * 100_000}, "cannot be parsed"),
        ({"config": "9" * 10_000}, "cannot be parsed"),
        ({"kind": []}, "do not belong together"),
        ({"provenance": "3"}, "do not belong together"),
        ({"kind": {}, "config": {}}, "do not belong together"),
        ({"kind": {"G_ema": "generator"}}, "do not belong together"),
        ({"kind": {"G_ema": ["generator"], "D": "discriminator"}}, "unknown kind"),
        ({"kind": {"G_ema": "os.system", "D": "discriminator"}}, "unknown kind os.system"),
        ({"config": {"G_ema": 3, "D": {}}}, "config of G_ema is 3"),
    ],
)
def test_metadata_of_the_wrong_form(checkpoint, metadata, reason):
    assert reason in refused(tampered(checkpoint, **metadata))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"resolution": 33}, "power of two"),
        ({"resolution": "32"}, "resolution = 32"),
        ({"resolution": True}, "resolution = True"),
        ({"resolution": 32.0}, "resolution = 32.0"),
        ({"resolution": 2**70}, "cannot be built"),
        ({"resolution": 2**3000}, "cannot be built"),
        ({"mapping_layers": 10**9}, "mapping_layers = 1000000000"),
        ({"mapping_layers": 10**400}, "mapping_layers = 1000"),
        ({"mapping_layers": -1}, "unknown: G_ema.mapping.fc0"),
        ({"z_dim": -5}, "cannot be built"),
        ({"z_dim": None}, "z_dim = None"),
        ({"activation": "exec"}, "cannot be built"),
        ({"architecture": "evil"}, "architecture must be one of"),
        ({"resample_filter": [1, "3"]}, "resample_filter = "),
        ({"resample_filter": 5}, "resample_filter = 5"),
        ({"w_avg_beta": float("nan")}, "w_avg_beta = nan"),
        ({"conv_clamp": float("inf")}, "conv_clamp = inf"),
        ({"conv_clamp": "x" * 10_000}, "conv_clamp = xxx"),
        ({"__class__": "x"}, "unknown field __class__"),
        ({"use_noise": 1}, "use_noise = 1"),
        ({"resolution": 64}, "missing: G_ema.synthesis.b64.conv0"),
        ({"resolution": 16}, "unknown: G_ema.synthesis.b32"),
        ({"architecture": "resnet"}, "missing: G_ema.synthesis.b8.skip.weight"),
        ({"w_dim": 16}, "of shape"),
        ({"channel_max": 2**20, "channel_base": 2**30}, "of shape [32, 4, 4] instead of [1048576, 4, 4]"),
    ],
)
def test_a_config_that_does_not_match_the_tensors(checkpoint, changes, reason):
    assert reason in refused(tampered(checkpoint, config=config_of(checkpoint, **changes)))


def test_tensors_that_do_not_fit(checkpoint):
    key = "G_ema.synthesis.b16.conv0.noise_const"

    def without(tensors):
        return {name: tensor for name, tensor in tensors.items() if ".noise_const" not in name}

    message = refused(tampered(checkpoint, tensors=without))
    assert "missing: G_ema.synthesis.b4.conv1.noise_const" in message and "and 2 more" in message
    assert "unknown: G_ema.evil" in refused(tampered(checkpoint, tensors=lambda t: {**t, "G_ema.evil": torch.zeros(1)}))
    assert "unknown: E.weight" in refused(tampered(checkpoint, tensors=lambda t: {**t, "E.weight": torch.zeros(1)}))
    wide = tampered(checkpoint, tensors=lambda t: {**t, key: torch.zeros(16, 17)})
    assert f"of shape [16, 17] instead of [16, 16]: {key}" in refused(wide)
    whole = tampered(checkpoint, tensors=lambda t: {**t, key: torch.zeros(16, 16, dtype=torch.int32)})
    assert f"of type int32: {key}" in refused(whole)


def test_an_older_file_without_a_newer_field_still_loads(checkpoint, tiny_G):
    config = config_of(checkpoint)
    del config["G_ema"]["w_avg_beta"]
    assert same(load_networks(tampered(checkpoint, config=config))["G_ema"], tiny_G)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), byte=st.integers(0, 255))
def test_any_flipped_header_byte_is_refused_or_harmless(checkpoint, position, byte):
    """With any header byte changed, the file is refused in a sentence or every tensor is unchanged."""
    data = bytearray(checkpoint.read_bytes())
    header = struct.unpack("<Q", data[:8])[0]
    data[int(position * (header + 7))] = byte
    path = checkpoint.with_name("flipped.safetensors")
    path.write_bytes(data)
    try:
        loaded = load_networks(path)
    except ToonError as error:
        assert "\n" not in str(error)
    else:
        assert set(loaded) == {"G_ema", "D"}
        assert all(tensor.device.type == "cpu" for net in loaded.values() for tensor in net.state_dict().values())


def test_eight_bits_are_within_half_a_step(tmp_path):
    """Large matrices: each number within half of 1/127 of its row's largest. All else, the mapping too: as float16."""
    G = Generator(GeneratorConfig(resolution=8, z_dim=300, w_dim=300, mapping_layers=2, channel_base=2400))
    path = tmp_path / "eight.safetensors"
    save_networks(path, {"G_ema": G}, dtype=torch.float16, eight_bits=True)
    assert read_header(path).format_version == 2
    loaded, small = load_networks(path)["G_ema"].state_dict(), 0
    for name, tensor in G.state_dict().items():
        if name.startswith("synthesis") and tensor.numel() >= 65536:
            step = tensor.flatten(1).abs().amax(dim=1) / 127
            error = (loaded[name] - tensor).flatten(1).abs().amax(dim=1)
            assert bool((error <= 0.5001 * step).all()), name
            assert error.max() > 0, name
            small += 1
        else:
            assert torch.equal(loaded[name], tensor.half().float()), name
    assert small >= 4
    save_networks(tmp_path / "plain.safetensors", {"G_ema": G}, dtype=torch.float16)
    assert read_header(tmp_path / "plain.safetensors").format_version == 1
    assert path.stat().st_size < 0.6 * (tmp_path / "plain.safetensors").stat().st_size


def test_a_scale_without_its_numbers(tmp_path, checkpoint):
    def with_a_stray(tensors):
        return {**tensors, "G_ema.mapping.fc9.weight:scale": torch.ones(4)}

    assert "nothing to scale" in refused(tampered(checkpoint, tensors=with_a_stray))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_names_a_config_and_a_network(kind):
    config, network = classes_of(kind)
    assert dataclasses.is_dataclass(config) and issubclass(network, torch.nn.Module)
    assert kind_of(network.__new__(network)) == kind


def test_a_kind_of_a_project_that_is_not_there(tmp_path, tiny_G, monkeypatch):
    save_networks(tmp_path / "x.safetensors", {"G": tiny_G})
    monkeypatch.setitem(KINDS, "generator", "projects.nowhere.model:Config,Network")
    with pytest.raises(ToonError, match=r"kind generator need projects/nowhere/model\.py of the repository"):
        load_networks(tmp_path / "x.safetensors")

"""Deltas: what training changed comes back, on the network it started from and on one with other scales."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_generator, tiny_mobile

from stylegan_toon.errors import ToonError
from stylegan_toon.weights import add_delta, provenance_of, save_delta, sha256_of


@pytest.fixture
def tuned():
    """A mobile network, and a copy of which two tensors were changed."""
    before = tiny_mobile(0)
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.synthesis.b8.conv1.pointwise.value += 0.25
        after.synthesis.b4.const.value *= 1.5
    return before, after


def test_only_what_changed_is_stored_and_comes_back(tmp_path, tuned):
    before, after = tuned
    path = tmp_path / "delta.safetensors"
    save_delta(path, before, after)
    assert load_file(path).keys() == {"synthesis.b8.conv1.pointwise.value", "synthesis.b4.const.value"}
    again = tiny_mobile(0)
    add_delta(again, path)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, after.state_dict()[name], rtol=1e-3, atol=1e-3)
    half = tiny_mobile(0)
    add_delta(half, path, strength=0.5)
    moved = half.synthesis.b8.conv1.pointwise.value - before.synthesis.b8.conv1.pointwise.value
    torch.testing.assert_close(moved, torch.full_like(moved, 0.125), rtol=1e-2, atol=1e-3)


def test_a_network_with_other_scales(tmp_path, tuned):
    """What is added is the change of value times gain, whatever the gain of the network."""
    path = tmp_path / "delta.safetensors"
    save_delta(path, *tuned)
    other = tiny_mobile(0)
    layer = other.synthesis.b8.conv1.pointwise
    with torch.no_grad():
        layer.gain.mul_(4)
        layer.value.div_(4)
    before = layer().detach().clone()
    add_delta(other, path)
    change = tuned[1].synthesis.b8.conv1.pointwise() - tuned[0].synthesis.b8.conv1.pointwise()
    torch.testing.assert_close(layer().detach() - before, change.detach(), rtol=1e-2, atol=1e-3)


def test_eight_bits(tmp_path):
    before = tiny_mobile(0, channels=(256, 256, 8, 8))
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.synthesis.b8.conv1.pointwise.value += torch.randn(256, 256, 1, 1) * 0.01
    for name, eight_bits in (("half", False), ("eight", True)):
        save_delta(tmp_path / name, before, after, eight_bits=eight_bits)
    assert (tmp_path / "eight").stat().st_size < 0.6 * (tmp_path / "half").stat().st_size
    again = tiny_mobile(0, channels=(256, 256, 8, 8))
    add_delta(again, tmp_path / "eight")
    error = again.synthesis.b8.conv1.pointwise.value - after.synthesis.b8.conv1.pointwise.value
    assert error.abs().max() < 0.0005


def test_where_it_comes_from(tmp_path, tuned):
    path = tmp_path / "delta.safetensors"
    save_delta(path, *tuned, provenance={"identity": "dlib"})
    G = tiny_mobile(0)
    add_delta(G, path)
    known = provenance_of(G)
    assert known["identity"] == "dlib" and known["ancestors"] == [sha256_of(path)]
    assert known["delta"] == {"name": "delta.safetensors", "sha256": sha256_of(path), "strength": 1.0}


def test_files_that_do_not_fit(tmp_path, tuned):
    path = tmp_path / "delta.safetensors"
    save_delta(path, *tuned)
    G = tiny_generator(0)
    before = copy.deepcopy(G.state_dict())
    with pytest.raises(ToonError, match="does not fit this network"):
        add_delta(G, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in G.state_dict().items())
    with pytest.raises(ToonError, match="exists already"):
        save_delta(path, *tuned)
    with pytest.raises(ToonError, match="is not the file it should be"):
        add_delta(tiny_mobile(0), path, sha256="0" * 64)
    with pytest.raises(ToonError, match="different layers"):
        save_delta(tmp_path / "other", tiny_mobile(0), tiny_generator(0))


@pytest.mark.parametrize(
    ("tensor", "kind", "message"),
    [
        (torch.zeros(3, 3), "delta", "does not fit"),
        (torch.zeros(16, 16, 1, 1, dtype=torch.int64), "delta", "does not fit"),
        (torch.full((16, 16, 1, 1), float("nan")), "delta", "not finite"),
        (torch.zeros(16, 16, 1, 1), "projection", "is not a delta"),
    ],
)
def test_hostile_files(tmp_path, tensor, kind, message):
    path = tmp_path / "delta.safetensors"
    save_file({"synthesis.b8.conv1.pointwise.value": tensor}, path, {"kind": kind})
    with pytest.raises(ToonError, match=message):
        add_delta(tiny_mobile(0), path)

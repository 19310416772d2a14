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


def test_factors(tmp_path):
    """A change of rank 3 comes back from factors of rank 4 in a much smaller file; of rank 2 its nearest does."""
    before = tiny_mobile(0, channels=(256, 256, 8, 8))
    after = copy.deepcopy(before)
    random = torch.Generator().manual_seed(0)
    left, right = torch.randn(256, 3, generator=random), torch.randn(3, 256, generator=random)
    with torch.no_grad():
        layer = after.synthesis.b8.conv1.pointwise.value
        layer += 0.01 * (left @ right).view_as(layer)
        after.synthesis.b8.conv1.bias.value += 0.5
    for rank in (None, 4, 2):
        save_delta(tmp_path / f"{rank}", before, after, rank=rank)
    assert (tmp_path / "4").stat().st_size < 0.1 * (tmp_path / "None").stat().st_size
    for rank, wanted in ((4, 0.01 * left @ right), (2, None)):
        again = tiny_mobile(0, channels=(256, 256, 8, 8))
        add_delta(again, tmp_path / f"{rank}")
        change = (again.synthesis.b8.conv1.pointwise.value - before.synthesis.b8.conv1.pointwise.value).detach()
        whole = 0.01 * left @ right
        if wanted is None:  # Eckart and Young: the error is the singular value that is left out
            error = torch.linalg.matrix_norm(change.view(256, 256) - whole).item()
            assert error == pytest.approx(torch.linalg.svdvals(whole)[2].item(), rel=0.02)
        else:
            torch.testing.assert_close(change.view(256, 256), wanted, rtol=0.01, atol=2e-4)
        biases = [G.synthesis.b8.conv1.bias.value for G in (again, after)]
        torch.testing.assert_close(*biases, rtol=1e-3, atol=1e-3)  # stored in float16


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


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((16, 4), (5, 16)),
        ((16, 4), None),
        ((16, 99), (99, 16)),
        ((15, 4), (4, 16)),
        ((16, 4, 1), (4, 16)),
        ((16,), (16,)),
    ],
)
def test_hostile_factors(tmp_path, left, right):
    path, name = tmp_path / "delta.safetensors", "synthesis.b8.conv1.pointwise.value"
    sides = {f"{name}:left": left, f"{name}:right": right}
    tensors = {side: torch.zeros(shape) for side, shape in sides.items() if shape is not None}
    save_file(tensors, path, {"kind": "delta"})
    with pytest.raises(ToonError, match="does not fit"):
        add_delta(tiny_mobile(0), path)

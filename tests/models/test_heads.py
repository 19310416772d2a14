"""Heads by least squares against LAPACK's own, and networks cut to one of their sizes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_mobile

from stylegan_toon.errors import ToonError
from stylegan_toon.models import MobileConfig, MobileGenerator, heads
from stylegan_toon.models.heads import cut, fit_heads

SIZES = dict(resolution=256, channels=(16, 16, 16, 8, 8, 8))  # heads at 64, 128 and 256


@pytest.fixture
def G() -> MobileGenerator:
    return tiny_mobile(1, **SIZES)


@torch.no_grad()
def test_a_head_is_the_least_squares_solution(G, monkeypatch):
    monkeypatch.setattr(heads, "_PIXELS", 64 * 64)
    monkeypatch.setattr(heads, "_RIDGE", 0.0)
    x, y = [], []
    hook = G.synthesis.b64.register_forward_hook(lambda module, args, out: x.append(out))
    random = torch.Generator().manual_seed(3)
    for _ in range(4):
        z = torch.randn(1, 24, generator=random)
        y.append(F.interpolate(G.synthesis(G.mapping(z, psi=0.7), resolution=128), scale_factor=0.5, mode="area"))
        torch.randperm(64 * 64, generator=random)  # its choice of pixels, here all of them
    hook.remove()
    x = torch.cat(x).permute(0, 2, 3, 1).flatten(0, 2).double()
    y = torch.cat(y).permute(0, 2, 3, 1).flatten(0, 2).double()
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    wanted = torch.linalg.lstsq(x, y, driver="gelsd").solution
    fit_heads(G, pictures=4, psi=0.7, seed=3)
    head = G.synthesis.b64.torgb
    assert (head.weight()[:, :, 0, 0].T - wanted[:-1]).abs().max() < 1e-4 * wanted.abs().max()
    assert (head.bias() - wanted[-1]).abs().max() < 1e-4 * wanted.abs().max()
    z = torch.randn(1, 24, generator=torch.Generator().manual_seed(3))
    result = G.synthesis(G.mapping(z, psi=0.7), resolution=64).permute(0, 2, 3, 1).flatten(0, 2)
    assert (result - (x @ wanted)[: len(result)]).abs().max() < 1e-3


@torch.no_grad()
def test_fitting_touches_nothing_else(G):
    before, state = copy.deepcopy(G.state_dict()), torch.get_rng_state()
    again = copy.deepcopy(G)
    for network in (G, again):
        fit_heads(network, [64], pictures=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not G.synthesis.b64._forward_hooks
    changed = {name for name, tensor in G.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("synthesis.b64.torgb.") for name in changed)
    assert all(torch.equal(a, b) for a, b in zip(G.state_dict().values(), again.state_dict().values()))


def test_a_fitted_head_has_no_style_yet_and_can_learn_one(G):
    fit_heads(G, pictures=2)
    head = G.synthesis.b64.torgb
    assert torch.equal(head.affine(torch.randn(3, 20)), torch.ones(3, 8))
    fresh = MobileGenerator(MobileConfig(**SIZES, w_dim=20)).synthesis.b64.torgb
    assert torch.equal(head.affine.weight.gain, fresh.affine.weight.gain)
    G(torch.randn(2, 24))
    G.synthesis(G.mapping(torch.randn(2, 24)), resolution=64).square().mean().backward()
    assert all(parameter.grad.any() for parameter in head.parameters())


def test_heads_that_cannot_be_fitted(G):
    for size in (128, 256, 32):
        with pytest.raises(ValueError, match=rf"\[64\], not {size}"):
            fit_heads(G, [size])
    fit_heads(tiny_mobile(0), pictures=1)  # it has none


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 128, 256])
def test_a_cut_network_makes_the_same_pictures(G, size):
    before = copy.deepcopy(G.state_dict())
    small = cut(G, size)
    config = small.config
    assert config.resolution == size and config.wavelet == (size == 256) and config.head_resolutions[-1] == size
    assert config.channels == {64: (16, 16, 16, 8, 8), 128: SIZES["channels"], 256: SIZES["channels"]}[size]
    assert small.num_ws == G.config.ws_for(size) and not small.training
    z = torch.randn(3, 24)
    ws = torch.randn(3, G.num_ws, 20)
    for side in config.head_resolutions:
        wanted = G.synthesis(ws, resolution=side)
        result = small.synthesis(ws[:, : small.num_ws], resolution=side)
        assert (result - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    assert torch.equal(small.mapping(z, psi=0.5)[:, 0], G.mapping(z, psi=0.5)[:, 0])
    small.synthesis.b4.const.value.zero_()  # its memory is its own
    assert all(torch.equal(a, b) for a, b in zip(before.values(), G.state_dict().values()))


def test_a_cut_network_can_be_cut_again_and_trained(G):
    small = cut(cut(G, 128), 64)
    assert small.config == cut(G, 64).config
    small.train()(torch.randn(2, 24)).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_cutting_keeps_which_blocks_are_half():
    G = tiny_mobile(0, **SIZES, num_fp16_res=3)
    for size, count in ((256, 3), (128, 2), (64, 1)):
        small = cut(G, size)
        assert small.config.num_fp16_res == count
        there, here = (
            [block.resolution for block in network.synthesis.blocks() if not block.wavelet and block.use_half]
            for network in (G, small)
        )
        assert here == [resolution for resolution in there if resolution <= size]


def test_sizes_that_cannot_be_cut(G):
    with pytest.raises(ToonError, match="makes no pictures of 32 px, only of 64, 128, 256: choose one of these"):
        cut(G, 32)

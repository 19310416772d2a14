"""The recipe that strengthens fine detail: what it scales, against the layers' answers, and what it leaves alone."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny import tiny_mobile

from stylegan_toon.models import MobileGenerator
from stylegan_toon.weights import pretrained_folder


@pytest.fixture
def sharpen(monkeypatch):
    monkeypatch.syspath_prepend(str(pretrained_folder() / "recipes"))
    import crisp

    yield crisp.sharpen
    sys.modules.pop("crisp")


@pytest.fixture
def G() -> MobileGenerator:
    return tiny_mobile()


def last_layers(G: MobileGenerator):
    block = G.synthesis.get_submodule(f"b{G.config.feature_resolution}")
    return block.get_submodule("conv0"), block.get_submodule("conv1")


def test_factors_of_1_change_nothing(G, sharpen):
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    sharpen(G, 1.0, 1.0)
    for name, tensor in G.state_dict().items():
        assert torch.allclose(tensor, before[name], rtol=1e-6, atol=1e-7), name


def test_the_low_band_stays_and_detail_is_scaled(G, sharpen):
    """The layer's answer to detail alone, scaled by hand, is that of the network that was sharpened."""
    conv0, _ = last_layers(G)
    w = torch.randn(1, G.config.w_dim, generator=torch.Generator().manual_seed(1))
    side, channels = G.config.feature_resolution // 2, conv0.affine_up.bias.value.numel()
    x = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(2))
    low, detail = x.clone(), x.clone()
    low[:, channels // 4 :] = 0
    detail[:, : channels // 4] = 0
    with torch.no_grad():
        of_low, of_more = conv0(low, w, "none"), conv0(low + 1.5 * detail, w, "none")
        sharpen(G, 1.5, 1.0)
        assert torch.allclose(conv0(low, w, "none"), of_low, rtol=1e-5, atol=1e-6)
        assert torch.allclose(conv0(low + detail, w, "none"), of_more, rtol=1e-4, atol=1e-5)


def test_filters_blur_as_before_and_differ_more(G, sharpen):
    _, conv1 = last_layers(G)
    before = conv1.depthwise.value.detach().clone()
    sharpen(G, 1.0, 1.3)
    after = conv1.depthwise.value.detach()
    assert torch.allclose(after.sum((2, 3)), before.sum((2, 3)), atol=1e-5)
    assert torch.allclose(after.std((2, 3)), 1.3 * before.std((2, 3)), rtol=1e-4)


def test_only_the_last_two_blocks_change(G, sharpen):
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    sharpen(G, 1.5, 1.3)
    changed = {name for name, tensor in G.state_dict().items() if not torch.equal(tensor, before[name])}
    last = G.config.feature_resolution
    assert {name.split(".")[1] for name in changed} == {f"b{last // 2}", f"b{last}"}
    assert all("affine_up" in name or name.endswith(f"b{last}.conv1.depthwise.value") for name in changed)

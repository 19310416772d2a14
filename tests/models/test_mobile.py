"""The mobile family against a second implementation in float64, and its use wherever generators are used."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_generator, tiny_mobile
from torch import Tensor

from stylegan_toon.errors import ToonError
from stylegan_toon.models import MobileConfig, MobileGenerator
from stylegan_toon.models.scaled import Scaled
from stylegan_toon.models.swap import freeze_layers, layer_names, parse_swap, smooth, swap_layers
from stylegan_toon.training.losses import path_lengths
from stylegan_toon.training.optimise import update_average
from stylegan_toon.weights import load_networks, save_networks

BIG = dict(resolution=256, channels=(16, 16, 16, 8, 8, 8))  # heads at 64, 128 and 256
BASE, TOON = tiny_mobile(0), tiny_mobile(1)
NAMES = layer_names(BASE)


def ws_for(G: MobileGenerator, count: int = 2, seed: int = 3) -> Tensor:
    return torch.randn(count, G.num_ws, G.config.w_dim, generator=torch.Generator().manual_seed(seed))


def effective(G: torch.nn.Module) -> dict[str, Tensor]:
    """The effective tensors in float64: products of value and gain, and all others unchanged."""
    state = {name: tensor.double() for name, tensor in G.state_dict().items()}
    actual = {}
    for name, tensor in state.items():
        owner = name.rpartition(".")[0]
        if name.endswith(".value"):
            actual[owner] = tensor * state[f"{owner}.gain"]
        elif not name.endswith(".gain"):
            actual[name] = tensor
    return actual


# ---------------------------------------------------------------- the second implementation


def haar(x: Tensor) -> Tensor:
    """Pixel by pixel from the definition; bands: low, high from row to row, high from column to column, both."""
    count = x.shape[1] // 4
    y = x.new_zeros(x.shape[0], count, 2 * x.shape[2], 2 * x.shape[3])
    for channel in range(count):
        low, rows, columns, both = x[:, channel], *(x[:, count + 3 * channel + k] for k in range(3))
        for i, a in ((0, 1), (1, -1)):
            for j, b in ((0, 1), (1, -1)):
                y[:, channel, i::2, j::2] = (low + a * rows + b * columns + a * b * both) / 2
    return y


def reference(t: dict[str, Tensor], ws: Tensor, config: MobileConfig, noise: bool = True) -> dict[int, Tensor]:
    """Pictures by size from `effective` tensors."""

    def style(name: str, w: Tensor) -> Tensor:
        return (w @ t[f"{name}.weight"].T + t[f"{name}.bias"])[:, :, None, None]

    def layer(name: str, x: Tensor, w: Tensor) -> Tensor:
        x = x * style(f"{name}.affine", w)
        if f"{name}.weight" in t:
            x = F.conv2d(x, t[f"{name}.weight"], padding=1)
        else:
            kernels = enumerate(t[f"{name}.depthwise"])
            x = torch.cat([F.conv2d(x[:, i : i + 1], kernel[None], padding=1) for i, kernel in kernels], dim=1)
            x = torch.einsum("oi,nihw->nohw", t[f"{name}.pointwise"][:, :, 0, 0], x)
        if noise:
            x = x + t[f"{name}.noise_const"] * t[f"{name}.noise_strength"]
        x = x + t[f"{name}.bias"][:, None, None]
        return torch.where(x > 0, x, 0.2 * x)

    def head(name: str, x: Tensor, w: Tensor) -> Tensor:
        x = torch.einsum("oi,nihw->nohw", t[f"{name}.weight"][:, :, 0, 0], x * style(f"{name}.affine", w))
        return x + t[f"{name}.bias"][:, None, None]

    x = layer("synthesis.b4.conv1", t["synthesis.b4.const"].expand(len(ws), -1, -1, -1), ws[:, 0])
    pictures, row = {}, 1
    for side in config.block_resolutions[1:]:
        block = f"synthesis.b{side}"
        x = haar(x * style(f"{block}.conv0.affine_up", ws[:, row]))
        x = layer(f"{block}.conv1", layer(f"{block}.conv0", x, ws[:, row]), ws[:, row + 1])
        row += 2
        if f"{block}.torgb.weight" in t:
            pictures[side] = head(f"{block}.torgb", x, ws[:, row])
    if config.wavelet:
        bands = head(f"synthesis.b{config.resolution}.torgb", x, ws[:, row])
        pictures |= {config.feature_resolution: bands[:, :3] / 2, config.resolution: haar(bands)}
    return pictures


@pytest.mark.parametrize(
    "changes",
    [{}, BIG, {"wavelet": False, "resolution": 32}, {"wavelet": False, "resolution": 64, "channels": (8, 12, 8, 4, 4)},
     {"use_noise": False}, {"resolution": 8, "channels": (8,)}],
    ids=["64", "256", "plain 32", "plain 64", "no noise", "8"],
)  # fmt: skip
@torch.no_grad()
def test_agrees_with_the_reference(changes):
    G = tiny_mobile(4, **changes)
    config, ws = G.config, ws_for(G)
    for mode in ("const", "none"):
        wanted = reference(effective(G), ws.double(), config, noise=mode == "const" and config.use_noise)
        assert sorted(wanted) == config.head_resolutions
        for size, picture in wanted.items():
            actual = G.synthesis(ws, noise_mode=mode, resolution=size)
            assert actual.dtype == torch.float32 and actual.is_contiguous()
            assert (actual - picture).abs().max() < 2e-5 * picture.abs().max()


@torch.no_grad()
def test_the_low_band_is_the_mean_of_the_full_picture():
    G = tiny_mobile(5, **BIG)
    full, half = G.synthesis(ws_for(G)), G.synthesis(ws_for(G), resolution=128)
    assert (F.avg_pool2d(full.double(), 2) - half).abs().max() < 2e-6 * full.abs().max()


@torch.no_grad()
def test_smaller_pictures_are_those_of_the_pyramid_and_need_fewer_rows():
    G = tiny_mobile(5, **BIG)
    ws = ws_for(G)
    pyramid = G.synthesis.pyramid(ws)
    assert [picture.shape[-1] for picture in pyramid] == G.config.head_resolutions == [64, 128, 256]
    for picture in pyramid:
        size = picture.shape[-1]
        rows = G.config.ws_for(size)
        assert rows == {64: 10, 128: 12, 256: 12}[size]
        assert torch.equal(G.synthesis(ws, resolution=size), picture)
        assert torch.equal(G.synthesis(ws[:, :rows], resolution=size), picture)
        moved = ws.clone()
        moved[:, rows - 1] += 1
        assert not torch.equal(G.synthesis(moved, resolution=size), picture), "its head hangs on the last row"
        with pytest.raises(ValueError, match="ws must be"):
            G.synthesis(ws[:, : rows - 1], resolution=size)
    with pytest.raises(ValueError, match="one of"):
        G.synthesis(ws, resolution=32)
    with pytest.raises(ValueError, match="noise_mode"):
        G.synthesis(ws, noise_mode="loud")


@torch.no_grad()
def test_random_noise_has_the_strength_of_the_constant_one():
    G = tiny_mobile(6)
    for layer in (m for m in G.modules() if hasattr(m, "noise_const")):
        layer.noise_const.normal_(generator=torch.Generator().manual_seed(0))
    ws = ws_for(G, 1).repeat(64, 1, 1)
    assert torch.equal(*G.synthesis(ws[:2]))
    spread = G.synthesis(ws, noise_mode="random").std(dim=0).mean()
    assert 0.3 < spread / (G.synthesis(ws[:1]) - G.synthesis(ws[:1], noise_mode="none")).square().mean().sqrt() < 3


@torch.no_grad()
def test_the_call_is_mapping_and_synthesis():
    z = torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(BASE(z, psi=0.5), BASE.synthesis(BASE.mapping(z, psi=0.5)))
    assert BASE.mapping(z).shape == (3, BASE.num_ws, 20) == (3, 8, 20)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"channels": (16, 16)}, "must list 8 widths"), ({"resolution": 100}, "power of two"),
     ({"resolution": 16, "channels": (16, 6)}, "multiples of 4"), ({"resolution": 16, "channels": (16, 0)}, "of 4")],
)  # fmt: skip
def test_invalid_configs(fields, reason):
    with pytest.raises(ValueError, match=reason):
        MobileConfig(**fields)


def test_the_defaults_are_the_published_network():
    with torch.device("meta"):
        G = MobileGenerator(MobileConfig())
    assert (G.config.num_ws, G.config.feature_resolution) == (16, 512)
    assert G.config.head_resolutions == [64, 128, 256, 512, 1024]
    published = sum(p.numel() for name, p in G.named_parameters() if "torgb" not in name or "b1024" in name)
    assert 9.4e6 < published < 1.05e7  # the paper: 8.01 million and the mapping's 2.1


# ---------------------------------------------------------------- swapping


def test_every_layer_has_a_name():
    assert NAMES == ["mapping", "b4.const", "b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1", "b32.conv0",
                     "b32.conv1", "b64.torgb"]  # fmt: skip
    assert "b64.torgb" in layer_names(tiny_mobile(0, **BIG)) and "b32.torgb" not in layer_names(tiny_mobile(0, **BIG))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_swapping_nothing_and_everything():
    assert same(swap_layers(BASE, TOON, ""), BASE) and same(swap_layers(BASE, TOON, "all"), TOON)
    assert not same(BASE, TOON)


def check_shares(shares: dict[str, float], result: MobileGenerator) -> None:
    """The effective tensors are interpolated with these shares; gains are exchanged only with whole layers."""
    ours, theirs, actual = effective(BASE), effective(TOON), effective(result)
    for name, tensor in actual.items():
        parts = name.split(".")
        share = shares["mapping" if parts[0] == "mapping" else ".".join(parts[1:3])]
        wanted = ours[name].lerp(theirs[name], share)
        assert (tensor - wanted).abs().max() <= 1e-5 * max(1e-3, float(wanted.abs().max())), name
        if share in (0, 1):
            assert torch.equal(tensor, wanted), name


@pytest.mark.parametrize("swap", ["b8.conv1,b64.torgb,b4.const", "b16-", "-b8,mapping", "toonify", "b32.conv0=1"])
def test_layers_by_name(swap):
    check_shares(parse_swap(swap, NAMES), swap_layers(BASE, TOON, swap))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 0.25, 0.5, 0.9]), min_size=len(NAMES), max_size=len(NAMES)))
def test_fractional_shares_interpolate_the_effective_tensors(levels):
    gains = [(a, b) for (n, a), b in zip(BASE.state_dict().items(), TOON.state_dict().values()) if n.endswith(".gain")]
    assert sum(float(a / b) > 1.1 or float(a / b) < 0.9 for a, b in gains) > 10, "the gains differ"
    shares = dict(zip(NAMES, levels))
    check_shares(shares, swap_layers(BASE, TOON, ",".join(f"{name}={share}" for name, share in shares.items())))


def test_a_smooth_swap():
    soft = smooth(parse_swap("b16-", NAMES), 1.0)
    assert soft["b64.torgb"] == pytest.approx(1 / (1 + math.exp(-2.5)))
    check_shares(soft, swap_layers(BASE, TOON, "b16-", 1.0))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda: tiny_generator(0, z_dim=24, w_dim=20, resolution=64), "of different families (mobile and skip)"),
        (lambda: tiny_mobile(0, **BIG), "differ in resolution (64 and 256)"),
        (lambda: tiny_mobile(0, w_dim=24), "differ in w_dim (20 and 24)"),
        (lambda: tiny_mobile(0, channels=(16, 16, 8, 12)), "differ in width or number"),
        (lambda: tiny_mobile(0, wavelet=False, channels=(16, 16, 8, 8, 8)), "differ in wavelet (True and False)"),
    ],
)
def test_networks_that_do_not_fit_together(other, reason):
    for pair in ((BASE, other()), (other(), BASE)):
        with pytest.raises(ToonError) as caught:
            swap_layers(*pair, "all", names=("ours", "theirs"))
        message = str(caught.value)
        turned = re.sub(r"\((\w+) and (\w+)\)", r"(\2 and \1)", reason)
        assert reason in message or turned in message
        assert "\n" not in message and message.endswith(".")


# ---------------------------------------------------------------- training


@torch.no_grad()
def test_silence_switches_noise_off():
    G = tiny_mobile(2)
    quiet = G.synthesis(ws_for(G), noise_mode="none")
    assert not torch.equal(G.synthesis(ws_for(G)), quiet)
    G.silence()
    for mode in ("const", "random"):
        assert torch.allclose(G.synthesis(ws_for(G), noise_mode=mode), quiet, atol=1e-6)
    strengths = [p for name, p in G.named_parameters() if "noise_strength" in name]
    assert len(strengths) == 7 and not any(p.requires_grad for p in strengths)


def test_freeze_layers():
    G = tiny_mobile(2)
    frozen = freeze_layers(G, "mapping,-b8,b64.torgb")
    assert frozen == {"mapping", "b4.const", "b4.conv1", "b8.conv0", "b8.conv1", "b64.torgb"}
    free = {name.split(".")[1] for name, p in G.named_parameters() if p.requires_grad}
    assert free == {"b16", "b32"}
    with pytest.raises(ToonError, match="among the layers to freeze"):
        freeze_layers(G, "b128")


def test_every_parameter_learns():
    G = tiny_mobile(2, **BIG)
    sum(picture.square().mean() for picture in G.synthesis.pyramid(G.mapping(torch.randn(2, 24)))).backward()
    assert [name for name, p in G.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_one_rate_moves_every_tensor_by_the_same_share():
    tensor = torch.randn(40, 30) * 1e-3
    scaled = Scaled(torch.zeros(40, 30))
    scaled.adopt(tensor)
    assert torch.allclose(scaled(), tensor, rtol=1e-6)
    assert float(scaled.value.detach().square().mean()) == pytest.approx(1, abs=1e-5)
    scaled().sum().backward()
    assert torch.allclose(scaled.value.grad, scaled.gain.expand(40, 30))
    scaled.adopt(torch.zeros(40, 30))
    assert not scaled().any() and float(scaled.gain) == pytest.approx(1e-4)


def test_the_gradient_of_path_lengths_equals_the_reference(monkeypatch):
    """Second-order gradients of all parameters, as path length regularisation needs them, against float64."""
    G = tiny_mobile(3)
    ws = ws_for(G).requires_grad_()
    direction = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "randn_like", lambda img: direction)
    path_lengths(G.synthesis(ws), ws).square().sum().backward()

    exact = {name: tensor.double().requires_grad_() for name, tensor in G.state_dict().items()}
    tensors = {n.removesuffix(".value"): t for n, t in exact.items() if not n.endswith(".gain")}
    for name, tensor in exact.items():
        if name.endswith(".gain"):
            tensors[name.removesuffix(".gain")] = exact[name.removesuffix("gain") + "value"] * tensor
    ws = ws.detach().double().requires_grad_()
    picture = reference(tensors, ws, G.config)[64]
    (by_w,) = torch.autograd.grad((picture * direction / 64).sum(), ws, create_graph=True)
    by_w.square().sum(dim=2).mean(dim=1).sum().backward()
    for name, parameter in G.synthesis.named_parameters():
        wanted = exact[f"synthesis.{name}"].grad
        if wanted is None:  # biases of the head move no picture in w
            assert parameter.grad is None or not parameter.grad.any()
            continue
        assert (parameter.grad - wanted).abs().max() <= 2e-4 * max(wanted.abs().max(), 1e-6), name


def test_the_average_follows_the_effective_tensors():
    current = tiny_mobile(3)
    average = copy.deepcopy(current)
    before = effective(average)
    with torch.no_grad():
        for parameter in current.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    parameters = {name.removesuffix(".value") for name, _ in current.named_parameters()}
    for average_buffers in (False, True):
        update_average(average, current, 0.75, average_buffers=average_buffers)
        wanted, after = effective(current), effective(average)
        for name in parameters:
            mean = 0.75 * before[name] + 0.25 * wanted[name]
            assert (after[name] - mean).abs().max() <= 1e-6 * max(1.0, float(mean.abs().max())), name
        before = after


# ---------------------------------------------------------------- on disk


def test_a_file_gives_the_same_network(tmp_path):
    G = tiny_mobile(7, **BIG, num_fp16_res=2, mapping_features=16, use_noise=False)
    save_networks(tmp_path / "m.safetensors", {"G_ema": G})
    again = load_networks(tmp_path / "m.safetensors")["G_ema"]
    assert type(again) is MobileGenerator and again.config == G.config and type(again.config.channels) is tuple
    assert list(again.state_dict()) == list(G.state_dict()) and same(again, G)
    z = torch.randn(2, 24)
    assert torch.equal(again(z), G(z))
    save_networks(tmp_path / "h.safetensors", {"G_ema": G}, dtype=torch.float16)
    half = load_networks(tmp_path / "h.safetensors")["G_ema"]
    assert (half(z) - G(z)).abs().max() < 0.02 * G(z).abs().max()


def test_bfloat16_on_request(monkeypatch):
    """Where a processor multiplies bfloat16, the highest blocks compute in it: near, and not equal, to float32."""
    monkeypatch.setattr("stylegan_toon.models.layers.cpu_multiplies", lambda dtype: True)
    G = tiny_mobile(0)
    ws = G.mapping(torch.randn(2, G.config.z_dim, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        full, half = (G.synthesis(ws, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert 0 < (full - half).abs().mean() < 0.05 * full.std()

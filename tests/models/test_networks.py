"""The networks against a second, independent implementation (reference.py), and against published facts."""

from __future__ import annotations

import pytest
import reference
import torch

from stylegan_toon.errors import ToonError
from stylegan_toon.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, layers, preset


def randomized(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Give every tensor, also those that start at zero, a random value; returns the state in float64."""
    for name, tensor in network.state_dict().items():
        if name.endswith(("bias", "noise_strength", "w_avg")):
            tensor.normal_(std=0.5)
    return {name: tensor.double() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize(
    ("c_dim", "taps", "clamp", "width"),
    [(0, (1, 3, 3, 1), None, 24), (3, (1, 3, 3, 1), 1.0, 32), (0, (1, 3, 3, 1), None, 32), (0, (1, 2, 1), None, 32)],
)
def test_generator_agrees_with_the_reference(architecture, c_dim, taps, clamp, width):
    torch.manual_seed(1)
    config = GeneratorConfig(
        resolution=32, z_dim=24, w_dim=20, c_dim=c_dim, mapping_layers=3, channel_base=512, channel_max=width,
        architecture=architecture, resample_filter=taps, conv_clamp=clamp,
    )  # fmt: skip
    G = Generator(config).eval()
    state = randomized(G)
    z = torch.randn(3, 24)
    c = torch.randn(3, c_dim) if c_dim else None
    w = reference.mapping(state, "mapping", z.double(), None if c is None else c.double(), layers=3)
    psi, cutoff = 0.6, 5
    ws = w[:, None].repeat(1, config.num_ws, 1)
    ws[:, :cutoff] = state["mapping.w_avg"] + psi * (ws[:, :cutoff] - state["mapping.w_avg"])
    with torch.no_grad():
        assert torch.allclose(G.mapping(z, c, psi=psi, cutoff=cutoff).double(), ws, atol=1e-5)
        result = G(z, c, psi=psi, cutoff=cutoff)
        without = G.synthesis(ws.float(), noise_mode="none")
    wanted = reference.synthesis(state, ws, 32, architecture, taps, clamp=clamp)
    assert result.shape == (3, 3, 32, 32)
    assert (result - wanted).abs().max() < 1e-4 * wanted.abs().max()
    wanted = reference.synthesis(state, ws, 32, architecture, taps, noise=False, clamp=clamp)
    assert (without - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize(
    ("c_dim", "clamp", "batch", "width"), [(0, None, 8, 24), (3, 0.5, 4, 24), (0, None, 2, 32), (0, 0.5, 4, 32)]
)
def test_discriminator_agrees_with_the_reference(architecture, c_dim, clamp, batch, width):
    torch.manual_seed(2)
    config = DiscriminatorConfig(
        resolution=32, c_dim=c_dim, channel_base=512, channel_max=width, architecture=architecture, conv_clamp=clamp,
        mapping_layers=2,
    )  # fmt: skip
    D = Discriminator(config).eval()
    state = randomized(D)
    img = torch.randn(batch, 3, 32, 32)
    c = torch.randn(batch, c_dim) if c_dim else None
    with torch.no_grad():
        result = D(img, c)
    wanted = reference.discriminator(
        state, img.double(), None if c is None else c.double(), 32, architecture, clamp=clamp, layers=2
    )
    assert result.shape == (batch, 1)
    assert (result - wanted).abs().max() < 1e-4 * max(1, wanted.abs().max())


@pytest.mark.parametrize("able", [True, False])
def test_half_precision_stays_close(able, monkeypatch):
    """bfloat16 is used where the processor has instructions for it, otherwise float32."""
    monkeypatch.setattr(layers, "cpu_multiplies", lambda dtype: able)
    torch.manual_seed(3)
    G = Generator(GeneratorConfig(resolution=64, z_dim=32, w_dim=32, channel_base=1024, channel_max=32, conv_clamp=256))
    ws = torch.randn(2, G.num_ws, 32)
    with torch.no_grad():
        full = G.synthesis(ws)
        half = G.synthesis(ws, dtype=torch.bfloat16)
    assert half.dtype == torch.float32
    error = (full - half).abs().max() / full.abs().max()
    assert 0 < error < 0.05 if able else error == 0


def test_noise_modes():
    torch.manual_seed(4)
    G = Generator(GeneratorConfig(resolution=16, z_dim=8, w_dim=8, channel_base=64, channel_max=8))
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.5)
    ws = torch.randn(1, G.num_ws, 8)
    with torch.no_grad():
        assert torch.equal(G.synthesis(ws, "const"), G.synthesis(ws, "const"))
        assert not torch.equal(G.synthesis(ws, "random"), G.synthesis(ws, "random"))
        assert not torch.equal(G.synthesis(ws, "const"), G.synthesis(ws, "none"))
    with pytest.raises(ValueError, match="noise_mode"):
        G.synthesis(ws, "loud")
    with pytest.raises(ValueError, match="ws must be"):
        G.synthesis(ws[:, 1:])


@pytest.mark.parametrize(("resolution", "num_ws"), [(32, 8), (256, 14), (1024, 18)])
def test_number_of_ws(resolution, num_ws):
    assert GeneratorConfig(resolution=resolution).num_ws == num_ws


def test_torgb_shares_its_w_with_the_next_block():
    """Row 1 feeds b4.torgb and b8.conv0, and nothing else: the published order of ws."""
    G = Generator(GeneratorConfig(resolution=16, z_dim=8, w_dim=8, channel_base=64, channel_max=8))
    seen: dict[str, int] = {}
    rows = torch.arange(6.0)[None, :, None].expand(1, 6, 8)
    for name, module in G.synthesis.named_modules():
        if name.endswith("affine"):
            module.register_forward_pre_hook(lambda _m, args, n=name: seen.__setitem__(n, int(args[0][0, 0])))
    G.synthesis(rows)
    assert seen == {
        "b4.conv1.affine": 0, "b4.torgb.affine": 1, "b8.conv0.affine": 1, "b8.conv1.affine": 2, "b8.torgb.affine": 3,
        "b16.conv0.affine": 3, "b16.conv1.affine": 4, "b16.torgb.affine": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "resolution", "batch", "gamma", "base", "mapping"),
    [
        ("stylegan2", 1024, 32, 10, 32768, 8),
        ("paper256", 256, 64, 1, 16384, 8),
        ("paper512", 512, 64, 0.5, 32768, 8),
        ("paper1024", 1024, 32, 2, 32768, 8),
        ("cifar", 32, 64, 0.01, 32768, 2),
        ("auto", 256, 16, 0.8192, 16384, 2),  # one GPU: batch 4096 / 256, gamma 0.0002 * 256^2 / 16
    ],
)
def test_presets_are_the_published_ones(name, resolution, batch, gamma, base, mapping):
    row = preset(name, resolution)
    assert (row.batch, row.gamma) == (batch, pytest.approx(gamma))
    config = row.generator(resolution)
    assert (config.channel_base, config.mapping_layers, config.num_fp16_res) == (base, mapping, 4)
    assert row.discriminator(resolution).architecture == ("orig" if name == "cifar" else "resnet")


def test_which_blocks_are_half():
    """Four highest resolutions: from 32 px at 256, from 128 px at 1024."""
    for resolution, first in ((256, 32), (1024, 128)):
        config = GeneratorConfig(resolution=resolution, channel_base=resolution, channel_max=2, num_fp16_res=4)
        blocks = Generator(config).synthesis.blocks()
        assert next(b.resolution for b in blocks if b.use_half) == first


def test_freeze_layers_counts_from_the_highest_resolution():
    D = Discriminator(DiscriminatorConfig(resolution=16, channel_base=64, channel_max=8))
    D.freeze_layers(5)
    frozen = {name for name, p in D.named_parameters() if not p.requires_grad}
    assert frozen == {
        "b16.fromrgb.weight", "b16.fromrgb.bias", "b16.conv0.weight", "b16.conv0.bias", "b16.conv1.weight",
        "b16.conv1.bias", "b16.skip.weight", "b8.conv0.weight", "b8.conv0.bias",
    }  # fmt: skip
    with pytest.raises(ToonError, match="it has 7"):
        D.freeze_layers(8)


def test_batch_must_fit_the_deviation_group():
    D = Discriminator(DiscriminatorConfig(resolution=16, channel_base=64, channel_max=8, mbstd_group_size=4))
    with pytest.raises(ValueError, match="multiple"):
        D(torch.zeros(6, 3, 16, 16))
    with pytest.raises(ValueError, match="pictures must be"):
        D(torch.zeros(4, 3, 8, 8))

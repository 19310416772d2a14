"""The projector's schedules and regularisers against closed forms, and the search on pictures with a known answer."""

import copy
import math

import numpy as np
import pytest
import torch

from stylegan_toon.features.perceptual import DiscriminatorFeatures
from stylegan_toon.inversion.config import InversionConfig
from stylegan_toon.inversion.optimise import (
    invert,
    latent_prior,
    learning_rate,
    noise_maps,
    noise_regularization,
    normalize_,
    pixel_distance,
    w_noise_scale,
)
from stylegan_toon.inversion.tuning import tune
from stylegan_toon.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

SMALL = dict(resolution=32, channel_base=512, channel_max=32)


@pytest.fixture
def G():
    torch.manual_seed(0)
    network = Generator(GeneratorConfig(z_dim=32, w_dim=32, mapping_layers=2, **SMALL)).eval().requires_grad_(False)
    for name, p in network.named_parameters():
        if name.endswith("noise_strength"):
            p.fill_(0.02)
    network.mapping.w_avg.copy_(network.mapping(torch.randn(2000, 32))[:, 0].mean(0))
    return network


@pytest.fixture
def measure():
    torch.manual_seed(1)
    return DiscriminatorFeatures(Discriminator(DiscriminatorConfig(**SMALL)).eval().requires_grad_(False))


def test_learning_rate_is_the_published_curve():
    """Up over 5 %, flat, down as a half cosine over 25 %: values read off the curve of appendix D."""
    at = {0: 0, 10: 0.02, 25: 0.05, 50: 0.1, 400: 0.1, 750: 0.1, 875: 0.05, 1000: 0}
    for step, truth in at.items():
        assert learning_rate(step, 1000, 0.1) == pytest.approx(truth, abs=1e-12)
    tail = 0.1 * (1 + np.cos(np.pi * (np.arange(750, 1000) - 750) / 250)) / 2
    np.testing.assert_allclose([learning_rate(s, 1000, 0.1) for s in range(750, 1000)], tail, atol=1e-12)


def test_w_noise_falls_to_nothing_at_three_quarters():
    assert w_noise_scale(0, 1000, 8.0) == pytest.approx(0.4)
    assert w_noise_scale(375, 1000, 8.0) == pytest.approx(0.1)  # half way: a quarter
    assert [w_noise_scale(s, 1000, 8.0) for s in (750, 900)] == [0, 0]


def test_noise_regularization_is_the_formula():
    maps = [torch.randn(4, 4), torch.randn(8, 8), torch.randn(32, 32)]
    truth = 0.0
    for noise in maps:
        x = noise.double().numpy()
        while True:
            n = len(x)
            truth += (sum(x[i, j] * x[i, j - 1] for i in range(n) for j in range(n)) / n**2) ** 2
            truth += (sum(x[i, j] * x[i - 1, j] for i in range(n) for j in range(n)) / n**2) ** 2
            if n <= 8:
                break
            x = x.reshape(n // 2, 2, n // 2, 2).mean((1, 3))
    assert float(noise_regularization(maps)) == pytest.approx(truth, rel=1e-4)


def test_noise_regularization_sees_pictures_not_noise():
    ramp = torch.linspace(-1, 1, 64).expand(64, 64).clone()
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    normalize_([ramp])
    assert float(ramp.mean()) == pytest.approx(0, abs=1e-6)
    assert float(ramp.square().mean()) == pytest.approx(1, rel=1e-5)
    assert noise_regularization([ramp]) > 100 * noise_regularization([noise])


def test_prior_is_that_of_the_projectors_samples(G):
    prior = latent_prior(G, samples=2000)
    z = torch.from_numpy(np.random.RandomState(123).randn(2000, 32)).float()
    w = G.mapping(z)[:, 0].double().numpy()
    np.testing.assert_allclose(prior.mean, w.mean(0), atol=1e-5)
    assert prior.std == pytest.approx(math.sqrt(w.var(0).sum()), rel=1e-4)
    np.testing.assert_allclose(prior.axes.T @ prior.axes, np.cov(w.T, bias=True), atol=1e-5)
    v = prior.whiten(torch.from_numpy(w).float())
    np.testing.assert_allclose(np.cov(v.numpy().T, bias=True), np.eye(32), atol=1e-3)
    np.testing.assert_allclose(prior.color(v), w, atol=1e-4)


def test_the_prior_is_kept_while_the_mapping_network_is_the_same(G):
    first = latent_prior(G, samples=500)
    assert latent_prior(copy.deepcopy(G), samples=500) is first
    assert latent_prior(G, samples=400) is not first
    other = copy.deepcopy(G)
    next(other.mapping.parameters()).mul_(1.5)
    assert not torch.allclose(latent_prior(other, samples=500).axes, first.axes)


def test_pixel_distance_sees_every_scale():
    a = torch.zeros(1, 3, 16, 16)
    checks = a.clone()
    checks[..., ::2, ::2] = checks[..., 1::2, 1::2] = 1
    assert float(pixel_distance(a, a + 0.5, levels=3)) == pytest.approx(0.5)
    assert float(pixel_distance(a, checks, levels=3)) == pytest.approx(0.5)
    assert float(pixel_distance(a + 0.5, checks, levels=3)) == pytest.approx(0.5 / 3)  # gone after one halving


def test_noise_maps_are_named_as_in_the_network(G):
    names = noise_maps(G)
    assert len(names) == 7 and names["b32.conv1.noise_const"].shape == (32, 32)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_picture_of_the_generator_is_found_again(G, measure, space):
    w = G.mapping(torch.randn(2, 32, generator=torch.Generator().manual_seed(7)))
    target, average = G.synthesis(w[:1]), G.synthesis(G.mapping.w_avg.expand(1, G.num_ws, -1))
    result = invert(G, target, measure, InversionConfig(space=space, steps=120))
    shown = G.synthesis(result.ws)
    assert len(result.history) == 120 and not result.interrupted
    assert measure.distance(shown, target) < 0.05 * measure.distance(average, target)
    assert (shown - target).abs().mean() < 0.25 * (average - target).abs().mean()
    rows = result.ws.var(dim=1).sum()
    assert (rows == 0) if space == "w" else (rows > 0)


def test_noise_maps_are_optimised_and_stay_normalised(G, measure):
    target = G.synthesis(G.mapping(torch.randn(1, 32)))
    before = {name: n.clone() for name, n in noise_maps(G).items()}
    invert(G, target, measure, InversionConfig(steps=30))
    for name, n in noise_maps(G).items():
        assert not torch.equal(n, before[name]) and not n.requires_grad
        assert float(n.mean()) == pytest.approx(0, abs=1e-5)
        assert float(n.square().mean()) == pytest.approx(1, rel=1e-4)


def test_the_result_depends_on_the_seed(G, measure):
    target = G.synthesis(G.mapping(torch.randn(1, 32)))
    a, b, c = (invert(G, target, measure, InversionConfig(steps=8, seed=seed)).ws for seed in (303, 303, 304))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_interrupt_keeps_the_result_so_far(G, measure):
    def stop(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    result = invert(G, torch.zeros(1, 3, 32, 32), measure, InversionConfig(steps=50), callback=stop)
    assert result.interrupted and len(result.history) == 5
    assert torch.isfinite(result.ws).all()
    assert not any(n.requires_grad for n in noise_maps(G).values())


def test_progress_names_the_stage(G, measure):
    seen = []
    config = InversionConfig(steps=9)
    invert(G, torch.zeros(1, 3, 32, 32), measure, config, callback=lambda p: seen.append((p.stage, p.step, p.steps)))
    assert seen == [("w" if i < 3 else "w+", i + 1, 9) for i in range(9)]


def test_tuning_comes_closer_and_leaves_the_latent(G, measure):
    torch.manual_seed(3)
    target, ws = torch.rand(1, 3, 32, 32) * 2 - 1, G.mapping(torch.randn(1, 32))
    state = {k: v.clone() for k, v in G.state_dict().items()}
    result = tune(G, ws, target, measure, steps=40, lr=1e-2, stop=0)
    assert torch.equal(result.ws, ws)
    assert result.history[-1] < 0.5 * result.history[0]
    changed = {k for k, v in G.state_dict().items() if not torch.equal(v, state[k])}
    assert changed and not any(k.startswith("mapping") or "noise_const" in k for k in changed)
    assert not any(p.requires_grad for p in G.parameters())


def test_tuning_stops_early(G, measure):
    ws = G.mapping(torch.randn(1, 32))
    assert len(tune(G, ws, G.synthesis(ws), measure, steps=40, stop=1e-9).history) == 1


def test_coarse_tuning_moves_the_latent_and_the_coarse_blocks_only(measure):
    torch.manual_seed(5)
    config = GeneratorConfig(z_dim=32, w_dim=32, mapping_layers=2, resolution=128, channel_base=512, channel_max=32)
    G = Generator(config).eval().requires_grad_(False)
    wide = DiscriminatorFeatures(
        Discriminator(DiscriminatorConfig(resolution=128, channel_base=512, channel_max=32))
        .eval()
        .requires_grad_(False)
    )
    target, ws = torch.rand(1, 3, 128, 128) * 2 - 1, G.mapping(torch.randn(1, 32))
    state = {k: v.clone() for k, v in G.state_dict().items()}
    found = tune(G, ws, target, wide, steps=20, lr=1e-2, stop=0, coarse=True)
    assert found.history[-1] < 0.8 * found.history[0]
    changed = {k for k, v in G.state_dict().items() if not torch.equal(v, state[k])}
    assert {k.split(".")[1] for k in changed} == {"b4", "b8", "b16", "b32", "b64"}
    assert not any(word in k for k in changed for word in ("torgb", "noise", "mapping"))
    assert not torch.equal(found.ws, ws)
    # The latent moves by at most a step of Adam at a time, in standard deviations of w along its principal axes.
    moved = latent_prior(G, 2000).whiten(found.ws + G.mapping.w_avg) - latent_prior(G, 2000).whiten(
        ws + G.mapping.w_avg
    )
    assert moved.abs().max() <= 20 * 0.02 * 1.5
    assert not any(p.requires_grad for p in G.parameters())

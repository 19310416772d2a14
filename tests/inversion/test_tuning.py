"""Tuning of one picture by the biases of affine layers, against tuning of all their weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny import tiny_discriminator, tiny_mobile

from stylegan_toon.features.perceptual import DiscriminatorFeatures
from stylegan_toon.inversion.optimise import pixel_distance
from stylegan_toon.inversion.tuning import PIXEL_WEIGHT, falling, tune


def test_biases_move_the_styles_as_far_as_all_weights_do():
    """The reference is PyTorch's Adam on every weight. Without noise in w the two differ by rounding and by ``|w|``."""
    G = tiny_mobile(1, w_dim=64).requires_grad_(False)
    measure = DiscriminatorFeatures(tiny_discriminator(0, resolution=64).requires_grad_(False))
    torch.manual_seed(0)
    w, other = torch.randn(2, 1, 1, 64)
    ws, target = w.expand(-1, G.num_ws, -1), G.synthesis(other.expand(-1, G.num_ws, -1)).clamp(-1, 1)
    theirs, ours = copy.deepcopy(G), copy.deepcopy(G)
    parameters = [p.requires_grad_() for _, p in theirs.synthesis.named_parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    history, goal = [], measure(target)
    for _ in range(12):
        image = theirs.synthesis(ws, noise_mode="const", resolution=64)
        distance = (measure(image) - goal).square().sum()
        history.append(float(distance.detach()))
        optimizer.zero_grad()
        (distance + (image - target).square().mean()
         + PIXEL_WEIGHT * pixel_distance(image, target, levels=3)).backward()  # fmt: skip
        optimizer.step()
    found = tune(ours, ws, target, measure, steps=12)
    assert history[-1] < 0.95 * history[0]
    assert found.history == pytest.approx(history, rel=0.01)
    layer = "synthesis.b16.conv1.affine"
    before, reference, styles = (network.get_submodule(layer)(w[:, 0]).detach() for network in (G, theirs, ours))
    moved = float((reference - before).abs().max())
    np.testing.assert_allclose(styles - before, reference - before, atol=0.02 * moved)
    assert torch.equal(ours.get_submodule(layer).weight.value, G.get_submodule(layer).weight.value)


def test_several_pictures_tune_the_weights():
    G = tiny_mobile(1).requires_grad_(False)
    before = G.get_submodule("synthesis.b16.conv1.affine").weight.value.clone()
    measure = DiscriminatorFeatures(tiny_discriminator(0, resolution=64).requires_grad_(False))
    ws = torch.randn(2, 1, 20).expand(-1, G.num_ws, -1)
    tune(G, ws, torch.zeros(2, 3, 64, 64), measure, steps=1)
    assert not torch.equal(G.get_submodule("synthesis.b16.conv1.affine").weight.value, before)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_plateau_or_the_budget_ends_tuning(steps):
    """A latent that shows the target cannot get nearer; and a budget of almost nothing takes one step."""
    G = tiny_mobile(1).requires_grad_(False)
    measure = DiscriminatorFeatures(tiny_discriminator(0, resolution=64).requires_grad_(False))
    ws = torch.randn(1, 1, 20).expand(-1, G.num_ws, -1)
    target = torch.rand(1, 3, 64, 64) * 2 - 1
    found = tune(copy.deepcopy(G), ws, target, measure, steps=steps, seconds=1e-9)
    assert len(found.history) == 1
    flat = tune(copy.deepcopy(G), ws, target, measure, steps=60, lr=0.0, plateau=0.01)
    assert len(flat.history) == 20


@pytest.mark.parametrize("pictures", [1, 3])  # a photo; a person in a film
def test_coarse_tuning_of_the_mobile_family(pictures):
    """It comes nearer; only the coarse blocks move, and neither heads, noise nor the mapping network."""
    G = tiny_mobile(1, resolution=256, channels=(16, 16, 16, 16, 16, 8)).requires_grad_(False)
    measure = DiscriminatorFeatures(tiny_discriminator(0, resolution=64).requires_grad_(False))
    w, other = torch.randn(2, pictures, 1, 20, generator=torch.Generator().manual_seed(0))
    ws, target = w.expand(-1, G.num_ws, -1), G.synthesis(other.expand(-1, G.num_ws, -1)).clamp(-1, 1)
    quick = copy.deepcopy(G)
    sizes = []
    found = tune(
        quick, ws, target, measure, steps=20, coarse=True, muon=True, heads_stay=True, sizes=[(0.5, 64), (0.7, 128)],
        callback=lambda at: sizes.append(at.image.shape[-1]),
    )  # fmt: skip
    assert sizes == [64] * 10 + [128] * 4 + [256] * 6
    changed = {name for name, tensor in quick.state_dict().items() if not torch.equal(tensor, G.state_dict()[name])}
    assert {name.split(".")[1] for name in changed} == {"b4", "b8", "b16", "b32", "b64"}
    assert not any(word in name for name in changed for word in ("torgb", "noise", "mapping"))
    weight = "synthesis.b32.conv1.pointwise.value"
    moved = quick.get_parameter(weight) - G.get_parameter(weight)
    assert moved.abs().max() > 0.01
    with torch.no_grad():
        before, after = (
            measure.distance(N.synthesis(at, noise_mode="const"), target) for N, at in ((G, ws), (quick, found.ws))
        )
    assert after.sum() < 0.9 * before.sum()


def test_the_learning_rates_fall_at_the_end():
    shares = [i / 20 for i in range(20)]
    scales = [falling(share, i) for i, share in enumerate(shares)]
    assert scales[0] == 0.5 and scales[1:13] == [1.0] * 12
    assert np.allclose(np.diff(scales[12:]), -0.9 / 8) and falling(1.0, 20) == pytest.approx(0.1)

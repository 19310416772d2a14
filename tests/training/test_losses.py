"""Losses against closed forms."""

from __future__ import annotations

import math

import torch
from tiny import tiny_generator

from stylegan_toon.training.losses import PathLength, discriminator_loss, generator_loss, mixed_ws, r1_penalty


def test_logistic_losses():
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [3.0]])
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    wanted = -(math.log(sigmoid(0.5)) + math.log(sigmoid(3))) / 2
    assert math.isclose(generator_loss(fake).item(), wanted, rel_tol=1e-6)
    wanted = -sum(math.log(sigmoid(x)) for x in (2, -1)) / 2 - sum(math.log(1 - sigmoid(x)) for x in (0.5, 3)) / 2
    assert math.isclose(discriminator_loss(real, fake).item(), wanted, rel_tol=1e-5)


def test_r1_of_a_quadratic_score():
    """D(x) = sum a x^2 has gradient 2 a x, so the penalty is sum (2 a x)^2 and its gradient 8 a^2 x."""
    a = torch.randn(3, 4, 4, dtype=torch.float64)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty((a * x**2).sum((1, 2, 3), keepdim=True)[:, :, 0, 0], x)
    assert torch.allclose(penalty, ((2 * a * x) ** 2).sum((1, 2, 3)))
    (grad,) = torch.autograd.grad(penalty.sum(), x)
    assert torch.allclose(grad, 8 * a**2 * x)


def test_path_length_of_a_linear_generator():
    """img = w A: the length of J^T y is |A y|; the mean moves by the decay towards the batch's mean."""
    torch.manual_seed(0)
    A = torch.randn(5, 3 * 4 * 4, dtype=torch.float64)
    ws = torch.randn(6, 1, 5, dtype=torch.float64, requires_grad=True)
    img = (ws[:, 0] @ A).reshape(6, 3, 4, 4)
    pl = PathLength(decay=0.25)
    pl.state = pl.state.double()
    torch.manual_seed(7)
    found = pl(img, ws)
    torch.manual_seed(7)
    y = torch.randn_like(img).flatten(1) / 4  # sqrt(4 * 4) pixels
    lengths = (y @ A.T).norm(dim=1)
    mean = 0.25 * lengths.mean()
    assert torch.allclose(pl.state, mean)
    assert torch.allclose(found, (lengths - mean) ** 2)


def test_style_mixing_takes_the_later_layers_from_another_latent():
    G = tiny_generator().train()
    torch.manual_seed(1)
    z = torch.randn(2, 32)
    own = G.mapping(z)
    assert torch.equal(mixed_ws(G, z, None, 0.0), own)
    for seed in range(5):
        torch.manual_seed(seed)
        mixed = mixed_ws(G, z, None, 1.0)
        same = (mixed == own).all(dim=2).all(dim=0).tolist()
        cut = same.index(False)
        assert cut >= 1 and all(same[:cut]) and not any(same[cut:])


def test_style_mixing_moves_w_avg_by_the_published_decay():
    G = tiny_generator()
    before, z = G.mapping.w_avg.clone(), torch.randn(4, 32)
    mean = G.mapping(z)[:, 0].mean(0)
    mixed_ws(G, z, None, 0.0)
    assert torch.allclose(G.mapping.w_avg, 0.995 * before + 0.005 * mean, atol=1e-6)

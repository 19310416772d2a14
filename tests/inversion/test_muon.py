"""Muon's orthogonal matrices against the singular value decomposition."""

from __future__ import annotations

import pytest
import torch

from stylegan_toon.inversion.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(12, 12), (8, 30), (30, 8)])
def test_the_directions_are_those_of_the_svd(shape):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -1.5, min(shape), dtype=torch.float64)  # 0.03 at the least
    result = orthogonalize(u * values @ v)
    found = u.T @ result @ v.T
    diagonal = found.diagonal()
    assert torch.allclose(found, torch.diag(diagonal), atol=1e-9)  # the same singular vectors
    assert diagonal.min() > 0.38 and diagonal.max() < 1.25


def test_a_step_is_as_long_in_all_directions():
    """Whatever the size of the gradient, and longer by the square root of the longer side."""
    torch.manual_seed(0)
    for scale in (1e-6, 1e6):
        tensor = torch.zeros(16, 4, 1, 1, requires_grad=True)
        optimizer = Muon([tensor], 0.01)
        (scale * tensor * torch.randn(16, 4, 1, 1)).sum().backward()
        optimizer.step(0.5)
        values = torch.linalg.svdvals(tensor.detach().flatten(1)) / (0.5 * 0.01 * 4)
        assert values.min() > 0.38 and values.max() < 1.25 and tensor.grad is None


def test_it_goes_downhill_where_directions_differ_in_size():
    torch.manual_seed(0)
    sizes = torch.logspace(0, -2, 8)[:, None]
    goal = torch.randn(8, 8)
    tensor = torch.zeros(8, 8, requires_grad=True)
    optimizer, history = Muon([tensor], 0.05), []
    for step in range(60):
        loss = (sizes * (tensor - goal)).square().sum()
        history.append(float(loss.detach()))
        loss.backward()
        optimizer.step(1 - step / 60)
    assert history[-1] < 0.01 * history[0]


def test_a_missing_gradient_is_reported():
    with pytest.raises(ValueError, match="no gradient"):
        Muon([torch.zeros(2, 2, requires_grad=True)], 0.1).step()

"""Our Adam against PyTorch's."""

from __future__ import annotations

import pytest
import torch

from stylegan_toon.inversion.adam import Adam


def test_it_is_the_adam_of_pytorch():
    torch.manual_seed(0)
    start, goal = [torch.randn(5, 3), torch.randn(4)], [torch.randn(5, 3), torch.randn(4)]
    results = []
    for ours in (True, False):
        tensors = [t.double().clone().requires_grad_() for t in start]
        pairs = [(tensors[0], 0.03), (tensors[1], 0.2)]
        optimizer = Adam(pairs) if ours else torch.optim.Adam([{"params": [t], "lr": lr} for t, lr in pairs])
        for _ in range(25):
            sum((t - g).abs().pow(1.5).sum() for t, g in zip(tensors, goal)).backward()
            optimizer.step()
            if isinstance(optimizer, torch.optim.Adam):
                optimizer.zero_grad()
        results.append(tensors)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(*results))
    assert all(t.grad is None for t in results[0])


def test_the_scale_is_that_of_the_learning_rate():
    full, half = (torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for tensor, lr, scale in ((full, 0.1, 1.0), (half, 0.2, 0.5)):
        optimizer = Adam([(tensor, lr)])
        for _ in range(3):
            (tensor - torch.tensor([1.0, -2.0, 3.0])).square().sum().backward()
            optimizer.step(scale)
    assert torch.allclose(full, half, rtol=1e-12)


def test_a_missing_gradient_is_reported():
    with pytest.raises(ValueError, match="no gradient"):
        Adam([(torch.zeros(2, requires_grad=True), 0.1)]).step()

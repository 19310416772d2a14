"""The ops inside torch.compile: one graph, no break, the same numbers forwards and backwards."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from stylegan_toon import ops


def layer(x: torch.Tensor, b: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    y = ops.upfirdn2d(x, f, up=2, padding=[2, 1, 2, 1], gain=4)
    return ops.bias_act(y, b, act="lrelu", clamp=1.5)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph(backend, device):
    if backend == "inductor" and device.type == "cpu" and not shutil.which(os.environ.get("CXX") or "g++"):
        pytest.skip("there is no C++ compiler for inductor")
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    f = ops.setup_filter([1, 3, 3, 1], device=device)
    b = torch.randn(3, generator=generator).to(device).requires_grad_()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for size in (5, 8):  # the second one makes shapes symbolic
        x = torch.randn([2, 3, size, size + 1], generator=generator).to(device).requires_grad_()
        expected, got = layer(x, b, f), compiled(x, b, f)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        weight = torch.randn(expected.shape, generator=generator).to(device)
        for dx, true in zip(*(torch.autograd.grad((y * weight).sum(), [x, b]) for y in (got, expected))):
            torch.testing.assert_close(dx, true, rtol=1e-5, atol=1e-5)

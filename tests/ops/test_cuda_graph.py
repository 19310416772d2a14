"""The ops inside a CUDA graph: launches neither allocate nor wait, which a capture would refuse."""

from __future__ import annotations

import pytest
import torch

from stylegan_toon import ops


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_replay_equals_call(layout):
    f = ops.setup_filter([1, 3, 3, 1], device="cuda")
    b, scale, noise = (torch.randn(size, device="cuda") for size in ((16,), (2, 16), (2, 1, 31, 31)))

    def layer(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = ops.epilogue(x, b, scale=scale, noise=noise, f=f, padding=1, act="lrelu", clamp=2)
        img = ops.upfirdn2d(ops.bias_act(y, act="swish"), f, up=2, padding=[2, 1, 2, 1])
        return y, img, *torch.autograd.grad(img.square().sum(), [x])

    x, other = (torch.randn([2, 16, 32, 32], device="cuda").contiguous(memory_format=layout) for _ in range(2))
    x.requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # first calls load the kernels
        layer(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer(x)
    with torch.no_grad():
        x.copy_(other)
    graph.replay()
    for got, expected in zip(captured, layer(other.requires_grad_()), strict=True):
        assert torch.equal(got, expected)

"""The colour head: a modulated 1x1 convolution and the inverse Haar transform, against these two in float64."""

from __future__ import annotations

import pytest
import test_haar
import torch
from accuracy import TOLERANCE, relative_error

from stylegan_toon import ops
from stylegan_toon.ops import haar_rgb

LAYOUTS = (torch.contiguous_format, torch.channels_last)
# (n, c, colours, height, width)
SIZES = [(2, 16, 3, 5, 7), (1, 48, 1, 1, 1), (1, 64, 4, 3, 130), (3, 32, 3, 2, 2)]


def definition(x, style, weight, bias):
    y = torch.einsum("nchw,oc->nohw", x * style[:, :, None, None], weight[:, :, 0, 0])
    return test_haar.definition(y + bias[:, None, None])


def operands(size=SIZES[0], layout=torch.channels_last, dtype=torch.float32):
    n, c, k, height, width = size
    generator = torch.Generator().manual_seed(0)
    shapes = [(n, c, height, width), (n, c), (4 * k, c, 1, 1), (4 * k,)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensors[0].contiguous(memory_format=layout), *tensors[1:]]


def derivatives(function, tensors):
    """Value, gradients without and with a graph, and gradients of the gradients' squares."""
    tensors = [t.clone().requires_grad_() for t in tensors]
    y = function(*tensors)
    first = torch.autograd.grad(y.square().sum(), tensors, retain_graph=True)
    recorded = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
    return y, *first, *recorded, *torch.autograd.grad(sum(g.square().sum() for g in recorded), tensors)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_value_and_derivatives(isa, size, layout):
    tensors = operands(size, layout)
    actual, wanted = derivatives(haar_rgb, tensors), derivatives(definition, [t.double() for t in tensors])
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    for result, right in zip(actual, wanted, strict=True):
        assert relative_error(result, right) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_without_a_kernel(dtype):
    tensors = operands((2, 5, 5, 3, 4), dtype=dtype)
    wanted = derivatives(definition, [t.double() for t in tensors])
    for result, right in zip(derivatives(haar_rgb, tensors), wanted, strict=True):
        assert relative_error(result, right) < TOLERANCE[dtype]
    with ops.reference():
        for result, right in zip(derivatives(haar_rgb, tensors), wanted, strict=True):
            assert relative_error(result, right) < TOLERANCE[dtype]


def test_unused_gradients_are_not_computed():
    tensors = [t.requires_grad_() for t in operands()]
    everything = torch.autograd.grad(haar_rgb(*tensors).square().sum(), tensors)
    for chosen in ([0], [1], [2], [3], [0, 1], [2, 3]):
        some = [t.detach().requires_grad_(i in chosen) for i, t in enumerate(tensors)]
        actual = torch.autograd.grad(haar_rgb(*some).square().sum(), [some[i] for i in chosen])
        for i, gradient in zip(chosen, actual):
            assert relative_error(gradient, everything[i].double()) < TOLERANCE[torch.float32]


def test_registration_and_second_derivatives():
    small = [t.requires_grad_() for t in operands((2, 3, 2, 2, 3), dtype=torch.float64)]
    assert torch.autograd.gradcheck(haar_rgb, small) and torch.autograd.gradgradcheck(haar_rgb, small)
    for layout in LAYOUTS:
        for c, k in ((16, 3), (5, 3), (16, 5)):
            x = torch.randn(2, c, 4, 6).contiguous(memory_format=layout).requires_grad_()
            w, b = torch.randn(2, 4, k, c).requires_grad_(), torch.randn(4, k).requires_grad_()
            torch.library.opcheck(torch.ops.stylegan_toon.corners.default, (x, w, b))
            dy = torch.randn(2, k, 8, 12)
            for wanted in ([True] * 3, [False, True, False]):
                sample = (dy, x.detach(), w.detach(), wanted)
                torch.library.opcheck(torch.ops.stylegan_toon.corners_grad.default, sample)


def test_fullgraph():
    torch._dynamo.reset()
    tensors = [t.requires_grad_() for t in operands()]
    expected, got = haar_rgb(*tensors), torch.compile(haar_rgb, fullgraph=True, backend="aot_eager")(*tensors)
    torch.testing.assert_close(got, expected)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), tensors) for y in (got, expected))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_invalid_arguments():
    x, style, weight, bias = operands()
    with pytest.raises(ValueError, match="weight"):
        haar_rgb(x, style, weight[:3], bias)
    with pytest.raises(ValueError, match="style"):
        haar_rgb(x, style[:1], weight, bias)
    with pytest.raises(ValueError, match="float64"):
        haar_rgb(x, style, weight, bias.double())

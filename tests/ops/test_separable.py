"""Separable layers against their definition in float64, through second order."""

from __future__ import annotations

import os
import shutil

import pytest
import test_haar
import torch
import torch.nn.functional as F
from accuracy import relative_error

from stylegan_toon import ops
from stylegan_toon.ops import separable_layer, separable_up_layer

TOLERANCE = 1e-5
NAMES = ("x", "style", "depthwise", "pointwise", "bias", "noise", "up_style")
# (n, c_in, c_out, height, width) of the layer; several bands, bands that a row does not fill, pixels at every edge.
SIZES = [(2, 32, 48, 10, 14), (1, 16, 16, 2, 2), (3, 48, 80, 6, 4), (1, 16, 32, 4, 130), (1, 64, 128, 16, 16)]


def definition(x, style, depthwise, pointwise, bias, noise, up_style):
    if up_style is not None:
        x = test_haar.definition(x * up_style[:, :, None, None])
    x = F.conv2d(x * style[:, :, None, None], depthwise, padding=1, groups=x.shape[1])
    u = F.conv2d(x, pointwise) + bias[:, None, None]
    return F.leaky_relu(u if noise is None else u + noise, 0.3)


def layer(x, style, depthwise, pointwise, bias, noise, up_style, **more):
    rest = (style, depthwise, pointwise, bias, noise)
    if up_style is None:
        return separable_layer(x, *rest, slope=0.3, **more)
    return separable_up_layer(x, up_style, *rest, slope=0.3, **more)


def operands(size=SIZES[0], *, up=False, noise="shared", layout=torch.channels_last, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    n, c, o, height, width = size
    shape = (n, 4 * c, height // 2, width // 2) if up else (n, c, height, width)
    return [
        randn(*shape).contiguous(memory_format=layout),
        randn(n, c),
        randn(c, 1, 3, 3) / 3,
        randn(o, c, 1, 1) / c**0.5,
        randn(o),
        {"none": None, "shared": randn(height, width), "each": randn(n, 1, height, width)}[noise],
        randn(n, 4 * c) if up else None,
    ]


def derivatives(function, tensors, again=True):
    """Value, gradients without and with a graph, and gradients of the gradients' squares."""
    tensors = [None if t is None else t.clone().requires_grad_() for t in tensors]
    leaves = [t for t in tensors if t is not None]
    y = function(*tensors)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    first = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    recorded = torch.autograd.grad((y.square() * dy).sum(), leaves, create_graph=True)
    return y, *first, *recorded, *torch.autograd.grad(sum(g.square().sum() for g in recorded), leaves)


def exact(tensors):
    return [None if t is None else t.double() for t in tensors]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("up", [False, True])
def test_value_and_derivatives(isa, size, up):
    for noise, layout in (("shared", torch.channels_last), ("each", torch.contiguous_format)):
        tensors = operands(size, up=up, noise=noise, layout=layout)
        actual, wanted = derivatives(layer, tensors), derivatives(definition, exact(tensors))
        assert actual[0].is_contiguous(memory_format=torch.channels_last)
        for result, right in zip(actual, wanted, strict=True):
            assert result.shape == right.shape and relative_error(result, right) < TOLERANCE


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads, up):
    tensors = operands((2, 16, 32, 26, 10), up=up, noise="none")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = derivatives(layer, tensors)
    finally:
        torch.set_num_threads(before)
    for result, right in zip(actual, derivatives(definition, exact(tensors)), strict=True):
        assert relative_error(result, right) < TOLERANCE


@pytest.mark.parametrize("up", [False, True])
def test_unused_gradients_are_not_computed(up):
    """Any choice of them gives the same numbers as all of them."""
    tensors = operands(up=up)
    present = [i for i, t in enumerate(tensors) if t is not None]
    y = layer(*(None if t is None else t.requires_grad_() for t in tensors))
    everything = dict(zip(present, torch.autograd.grad(y.sum(), [tensors[i] for i in present])))
    for chosen in (*([i] for i in present), [0, 1, 5] + [6] * up, [2, 3, 4], [1, 2], [0, 3]):
        some = [None if t is None else t.detach().requires_grad_(i in chosen) for i, t in enumerate(tensors)]
        actual = torch.autograd.grad(layer(*some).sum(), [some[i] for i in chosen])
        for i, gradient in zip(chosen, actual):
            assert relative_error(gradient, everything[i].double()) < TOLERANCE, NAMES[i]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("up", [False, True])
def test_fallback(up, dtype, monkeypatch):
    """Channel counts and dtypes that the kernels do not take, and the reference."""
    tensors = operands((2, 5, 7, 4, 6), up=up, dtype=dtype, layout=torch.contiguous_format)
    wanted = derivatives(definition, exact(tensors))
    tolerance = TOLERANCE if dtype == torch.float32 else 1e-12
    for result, right in zip(derivatives(layer, tensors), wanted, strict=True):
        assert relative_error(result, right) < tolerance
    with ops.reference():
        for result, right in zip(derivatives(layer, tensors), wanted, strict=True):
            assert relative_error(result, right) < tolerance


@pytest.mark.parametrize("up", [False, True])
def test_gradcheck(up):
    tensors = operands((1, 2, 3, 4, 2), up=up, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in tensors if t is not None]

    def function(*given):
        return layer(*given[:6], given[6] if up else None)

    assert torch.autograd.gradcheck(function, leaves) and torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("up", [False, True])
def test_kept_weights_are_noticed_when_they_change(up):
    tensors = operands(up=up)
    with torch.no_grad():
        for factor in (1, 2):
            tensors[3].mul_(factor)
            wanted = definition(*exact(tensors))
            for keep in (True, True, False):
                assert relative_error(layer(*tensors, keep=keep), wanted) < TOLERANCE


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("up", [False, True])
def test_opcheck(up, layout):
    for size in ((1, 16, 32, 4, 6), (2, 5, 7, 4, 4)):
        tensors = [None if t is None else t.requires_grad_() for t in operands(size, up=up, layout=layout)]
        tensors[5] = tensors[5].detach()[None, None].requires_grad_()
        torch.library.opcheck(torch.ops.stylegan_toon.separable.default, (*tensors, 0.2, False, True))
        y = layer(*tensors).detach()
        x, style, depthwise, pointwise, _, noise, up_style = (None if t is None else t.detach() for t in tensors)
        for wanted in ([True] * 6 + [up], [True] + [False] * 6, [False, True, False, True, False, True, up]):
            sample = (y, y, x, style, depthwise, pointwise, noise, up_style, 0.2, False, wanted)
            torch.library.opcheck(torch.ops.stylegan_toon.separable_grad.default, sample)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph(backend):
    if backend == "inductor" and not shutil.which(os.environ.get("CXX") or "g++"):
        pytest.skip("there is no C++ compiler for inductor")
    torch._dynamo.reset()
    for up in (False, True):
        tensors = [None if t is None else t.requires_grad_() for t in operands(up=up)]
        leaves = [t for t in tensors if t is not None]
        expected, got = layer(*tensors), torch.compile(layer, fullgraph=True, backend=backend)(*tensors)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        for a, b in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (got, expected))):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_invalid_arguments():
    tensors = operands(up=True)
    for i, shape in ((1, (2, 16)), (2, (32, 1, 1, 1)), (5, (4, 4)), (6, (2, 32))):
        with pytest.raises(ValueError, match=NAMES[i]):
            layer(*tensors[:i], torch.ones(shape), *tensors[i + 1 :])
    with pytest.raises(ValueError, match="float64"):
        layer(*tensors[:4], tensors[4].double(), *tensors[5:])
    with pytest.raises(ValueError, match="slope"):
        separable_layer(torch.zeros(1, 16, 2, 2), *tensors[1:6], slope=-0.1)

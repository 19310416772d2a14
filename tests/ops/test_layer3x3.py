"""Whole layers against their definition in float64, through second order; small layers."""

from __future__ import annotations

import pytest
import reference
import torch
import torch.nn.functional as F
from accuracy import relative_error

from stylegan_toon import ops
from stylegan_toon.ops import library
from stylegan_toon.ops.conv2d import conv_layer
from stylegan_toon.ops.conv3x3 import no_weight_gradients
from stylegan_toon.ops.layer3x3 import layer3x3, weight_energy

pytestmark = pytest.mark.skipif(not library.available("cpu"), reason=f"compiled kernels: {library.why_not('cpu')}")

FILTER = ops.setup_filter([1, 3, 3, 1])
TOLERANCE = 1e-5
KINDS = ("plain", "up", "down")
POINTWISE = dict(alpha=0.2, gain=1.3, clamp=2.0)


def definition(x, w, styles, noise, b, kind):
    """The layer with weights modulated and demodulated for each picture (StyleGAN2, equations 1 and 3)."""
    pictures = []
    for i in range(len(x)):
        own = w * 0.7
        if styles is not None:
            own = w * styles[i][:, None, None]
            own = own * (own.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        pictures.append(reference.conv3x3(x[i : i + 1], own, kind))
    u = torch.cat(pictures)
    u = u if noise is None else u + noise
    u = u if b is None else u + b[:, None, None]
    return (F.leaky_relu(u, 0.2) * 1.3).clamp(-2, 2)


def layer(x, w, styles, noise, b, kind, **more):
    return layer3x3(x, w, kind, styles=styles, weight_gain=0.7, noise=noise, b=b, **POINTWISE, **more)


def operands(kind, size=(2, 32, 48, 10, 14), *, styled=True, noise="shared", biased=True):
    torch.manual_seed(0)
    n, c_in, c_out, height, width = size
    times = {"plain": 1, "up": 2, "down": 0.5}[kind]
    shape = (int(height * times), int(width * times))
    return [
        torch.randn(n, c_in, height, width),
        torch.randn(c_out, c_in, 3, 3) / (9 * c_in) ** 0.5,
        torch.rand(n, c_in) + 0.5 if styled else None,
        {"none": None, "shared": torch.randn(shape), "each": torch.randn(n, 1, *shape)}[noise],
        torch.randn(c_out) if biased else None,
    ]


def derivatives(function, tensors, kind, again=True):
    """Value, gradients without and with a graph, and gradients of the gradients' squares."""
    tensors = [None if t is None else t.clone().requires_grad_() for t in tensors]
    leaves = [t for t in tensors if t is not None]
    y = function(*tensors, kind)
    first = torch.autograd.grad(y.square().sum(), leaves, retain_graph=True)
    recorded = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    return y, *first, *recorded, *torch.autograd.grad(sum(g.square().sum() for g in recorded), leaves)


@pytest.mark.parametrize(
    "how",
    [{}, {"styled": False}, {"noise": "each", "biased": False}, {"noise": "none", "size": (1, 16, 16, 2, 6)}],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_derivatives(isa, kind, how):
    tensors = operands(kind, **how)
    actual = derivatives(layer, tensors, kind)
    wanted = derivatives(definition, [None if t is None else t.double() for t in tensors], kind)
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    for result, right in zip(actual, wanted, strict=True):
        assert relative_error(result, right) < TOLERANCE


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_kept_weights_and_no_gradients(kind, keep):
    tensors = operands(kind)
    with torch.no_grad():
        for factor in (1, 2):  # demodulation undoes the factor, if it sees it
            y = layer(tensors[0], tensors[1].mul_(factor), *tensors[2:], kind, keep=keep)
            assert relative_error(y, definition(*(t.double() for t in tensors), kind)) < TOLERANCE
    actual = derivatives(lambda *args: layer(*args, keep=keep), tensors, kind)
    for result, right in zip(actual, derivatives(layer, tensors, kind), strict=True):
        assert relative_error(result, right) < TOLERANCE  # the energy is summed in another order


def test_from_kept_weights_to_training_and_back():
    tensors = operands("plain")
    with torch.no_grad():
        kept, new, again = (layer(*tensors, "plain", keep=keep) for keep in (True, False, True))
    assert torch.equal(kept, again) and relative_error(new, kept.double()) < TOLERANCE


@pytest.mark.parametrize("styled", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_unused_gradients_are_not_computed(kind, styled):
    x, w, styles, noise, b = operands(kind, styled=styled)
    x.requires_grad_(), w.requires_grad_()
    y = layer(x, w, styles, noise, b, kind)
    dx, dw = torch.autograd.grad(y.sum(), [x, w], retain_graph=True)
    assert torch.equal(torch.autograd.grad(y.sum(), x, retain_graph=True)[0], dx)
    assert torch.equal(torch.autograd.grad(y.sum(), w, retain_graph=True)[0], dw)
    with no_weight_gradients():
        again, none = torch.autograd.grad(y.sum(), [x, w], allow_unused=True, create_graph=True)
    assert relative_error(again, dx.double()) < TOLERANCE and none is None
    assert torch.autograd.grad(again.square().sum(), w)[0].isfinite().all()  # the second derivative is wanted


@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind):
    for how in ({}, {"styled": False, "noise": "none"}):
        tensors = [None if t is None else t.requires_grad_() for t in operands(kind, (1, 16, 16, 8, 8), **how)]
        options = (kind, 0.7, 0.2, 1.3, 2.0, False, True)
        torch.library.opcheck(torch.ops.stylegan_toon.layer3x3.default, (*tensors, *options))
    w = torch.randn(4, 3, 3, 3).requires_grad_()
    torch.library.opcheck(torch.ops.stylegan_toon.weight_energy.default, (w, False))
    assert torch.equal(weight_energy(w, False), w.square().sum((2, 3)).t())


def test_invalid_arguments():
    x, w, *_ = operands("plain", (2, 16, 32, 8, 8))
    wrong = {"styles": torch.ones(2, 32), "noise": torch.ones(4, 4), "b": torch.ones(16)}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            layer3x3(x, w, "plain", **{name: value})
    with pytest.raises(ValueError, match="float64"):
        layer3x3(x, w, "plain", b=torch.ones(32, dtype=torch.float64))


@pytest.mark.parametrize(("size", "up"), [(4, 1), (8, 1), (4, 2), (8, 2), (9, 2)])  # 9: not by a matrix product
def test_small_layers(size, up):
    torch.manual_seed(0)
    tensors = [
        torch.randn(2, 20, size, size),
        torch.randn(24, 20, 3, 3),
        torch.rand(2, 20) + 0.5,
        None,
        torch.randn(24),
    ]

    def small(x, w, styles, noise, b, kind):
        return conv_layer(x, w, b, styles=styles, f=FILTER, up=up, act="lrelu", gain=1.3, clamp=2.0)

    kind = "up" if up == 2 else "plain"
    actual = derivatives(small, tensors, kind)
    wanted = derivatives(definition, [None if t is None else t.double() for t in tensors], kind)
    for result, right in zip(actual, wanted, strict=True):
        assert relative_error(result, right) < TOLERANCE

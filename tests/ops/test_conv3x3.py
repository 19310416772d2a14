"""conv3x3 against its definition in float64, through second order, and against what torch asks of an op."""

from __future__ import annotations

import gc

import pytest
import reference
import torch
import torch.nn.functional as F
from accuracy import relative_error

from stylegan_toon import ops
from stylegan_toon.ops import conv3x3 as module
from stylegan_toon.ops import library
from stylegan_toon.ops.conv2d import conv2d_resample, conv_layer, modulated_1x1
from stylegan_toon.ops.conv3x3 import cached, conv3x3, kind_of, no_weight_gradients

pytestmark = pytest.mark.skipif(not library.available("cpu"), reason=f"compiled kernels: {library.why_not('cpu')}")

FILTER = ops.setup_filter([1, 3, 3, 1])
TOLERANCE = 1e-5  # largest error as a part of the largest value
# picture count, input and output channels, height, width: tiles that are whole, cut off, and fewer than rows at once
SIZES = [(2, 32, 48, 10, 14), (1, 16, 16, 2, 6), (3, 48, 16, 8, 8), (1, 64, 80, 22, 34)]


def make(size, seed=0):
    n, c_in, c_out, height, width = size
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c_in, height, width, generator=generator)
    w = torch.randn(c_out, c_in, 3, 3, generator=generator) / (9 * c_in) ** 0.5
    return x, w


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["plain", "up", "down"])
def test_value_and_derivatives(isa, kind, size):
    x, w = make(size)
    inputs = [t.requires_grad_() for t in (x, w)]
    doubles = [t.detach().double().requires_grad_() for t in (x, w)]
    actual, wanted = [], []
    for leaves, results, function in ((inputs, actual, conv3x3), (doubles, wanted, reference.conv3x3)):
        y = function(*leaves, kind)
        loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() + (y**3).sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), leaves)
        results += [y, *first, *second]
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    for result, right in zip(actual, wanted, strict=True):
        assert relative_error(result, right) < TOLERANCE


@pytest.mark.parametrize("kind", ["plain", "up", "down"])
def test_error_with_512_channels(kind):
    """512 channels add up 4608 products, and the error stays within what is allowed of every size.

    torch's own error is no reference: on some processors it sums in blocks, which is more exact than a plain sum.
    """
    x, w = make((1, 512, 32, 16, 16))
    exact = reference.conv3x3(x.double(), w.double(), kind)
    assert relative_error(conv3x3(x, w, kind), exact) < TOLERANCE


@pytest.mark.parametrize("kind", ["plain", "up", "down"])
def test_unused_gradients_are_not_computed(kind):
    x, w = (t.requires_grad_() for t in make(SIZES[0]))
    y = conv3x3(x, w, kind)
    wanted = torch.autograd.grad(y.sum(), [x, w], retain_graph=True)
    with no_weight_gradients():
        dx, dw = torch.autograd.grad(y.sum(), [x, w], allow_unused=True, create_graph=True)
    assert torch.equal(dx, wanted[0]) and dw is None
    assert torch.autograd.grad(dx.square().sum(), w)[0].isfinite().all()  # the second derivative is not


@pytest.mark.parametrize("kind", ["plain", "up", "down"])
def test_threads_change_nothing(kind):
    x, w = make(SIZES[3])
    before, actual = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            w.grad = None
            y = conv3x3(x.requires_grad_(), w.requires_grad_(), kind)
            actual.append([y, *torch.autograd.grad(y.square().sum(), [x, w])])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*actual, strict=True))


@pytest.mark.parametrize("styled", [True, False])
@pytest.mark.parametrize("channels", [32, 24])  # the compiled convolution takes 32
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("act", ["lrelu", "linear", "tanh"])
def test_conv_layer_is_the_same_either_way(act, up, down, channels, styled):
    """With and without gradients, by the compiled convolution and by torch's."""
    if styled and down == 2:
        pytest.skip("no network has such a layer")
    torch.manual_seed(0)
    x, w = make((2, channels, channels, 12, 12))
    b, noise = torch.randn(channels), torch.randn(12 * up // down, 12 * up // down)
    styles = torch.rand(2, channels) + 0.5 if styled else None
    options = dict(act=act, gain=1.2, clamp=0.8)

    def layer(x, w, styles, b, noise):
        return conv_layer(
            x, w, b, styles=styles, noise=noise if styled else None, weight_gain=1 if styled else 0.7, f=FILTER,
            up=up, down=down, **options,
        )  # fmt: skip

    def definition(x, w, styles, b, noise):
        kind = "up" if up == 2 else "down" if down == 2 else "plain"
        if not styled:
            u = reference.conv3x3(x, w * 0.7, kind)
        else:
            per_sample = w * styles[:, None, :, None, None]
            d = (per_sample.square().sum(dim=(2, 3, 4)) + 1e-8).rsqrt()
            u = reference.conv3x3(x * styles[:, :, None, None], w, kind) * d[:, :, None, None] + noise
        u = u + b[:, None, None]
        u = {"lrelu": lambda: F.leaky_relu(u, 0.2), "linear": lambda: u, "tanh": lambda: u.tanh()}[act]()
        return (u * 1.2).clamp(-0.8, 0.8)

    leaves = [t for t in (x, w, styles, b, noise) if t is not None]
    doubles = [None if t is None else t.double().requires_grad_() for t in (x, w, styles, b, noise)]
    wanted = definition(*doubles)
    with torch.no_grad():
        assert relative_error(layer(x, w, styles, b, noise), wanted) < TOLERANCE
        with ops.reference():
            assert relative_error(layer(x, w, styles, b, noise), wanted) < TOLERANCE
    for leaf in leaves:
        leaf.requires_grad_()
    y = layer(x, w, styles, b, noise)
    assert relative_error(y, wanted) < TOLERANCE
    used = [t for t in (x, w, styles, b) if t is not None]
    actual = torch.autograd.grad(y.square().sum(), used)
    right = torch.autograd.grad(wanted.square().sum(), [t for t in doubles[:4] if t is not None])
    for a, b in zip(actual, right, strict=True):
        # A value within rounding of the clamp may fall on either side of it.
        assert relative_error(a, b) < 20 * TOLERANCE


def test_modulated_1x1():
    x, styles, w = torch.randn(2, 32, 5, 7), torch.randn(2, 32), torch.randn(3, 32, 1, 1)
    wanted = F.conv2d((x * styles[:, :, None, None]).double(), w.double())
    for layout in (torch.contiguous_format, torch.channels_last):
        assert relative_error(modulated_1x1(x.contiguous(memory_format=layout), w, styles), wanted) < TOLERANCE


def test_which_convolutions_it_supports():
    x, w = make((1, 32, 32, 96, 96))
    assert [kind_of(x, w, FILTER, *r, 1) for r in ((1, 1), (2, 1), (1, 2))] == ["plain", "up", "down"]
    assert kind_of(x, w, None, 1, 1, 1) == "plain"
    assert kind_of(x.double(), w.double(), FILTER, 1, 1, 1) is None
    assert kind_of(x, w[:24], FILTER, 1, 1, 1) is None
    assert kind_of(x, w[..., :1, :1], FILTER, 1, 1, 0) is None
    assert kind_of(x, w, FILTER, 1, 1, 0) is None
    assert kind_of(x, w, ops.setup_filter([1, 2, 1]), 2, 1, 1) is None
    assert kind_of(x, w, None, 2, 1, 1) is None
    assert kind_of(x[:, :, :95], w, FILTER, 1, 2, 1) is None
    assert kind_of(x[:, :, :8, :8], w, FILTER, 1, 1, 1) is None
    assert kind_of(x[:, :, :8, :8], w, FILTER, 1, 1, 1, True) == "plain"  # packed once, used often
    with ops.reference():
        assert kind_of(x, w, FILTER, 1, 1, 1) is None


def test_kept_weights_follow_the_weights():
    x, w = make((1, 16, 16, 8, 8))
    with torch.no_grad():
        first = conv3x3(x, w, "plain", keep=True)
        assert w in module._cache and torch.equal(conv3x3(x, w, "plain", keep=True), first)
        w.mul_(2)
        assert relative_error(conv3x3(x, w, "plain", keep=True), 2 * first.double()) < TOLERANCE
        w.data = w.data / 2  # new memory under the same name
        assert relative_error(conv3x3(x, w, "plain", keep=True), first.double()) < TOLERANCE
    entries = len(module._cache)
    del w
    gc.collect()
    assert len(module._cache) == entries - 1
    w = torch.ones(16, 16, 3, 3)
    assert cached(w, "sum", w.sum, False) == 2304 and w not in module._cache


def test_packed_weights_are_kept_per_instruction_set(isa):
    x, w = make((1, 16, 16, 8, 8))
    with torch.no_grad():
        before = conv3x3(x, w, "plain", keep=True)
        handle = library.kernels()
        assert not handle.toon_choose_cpu_isa(b"baseline")
        try:
            assert relative_error(conv3x3(x, w, "plain", keep=True), before.double()) < TOLERANCE
        finally:
            assert not handle.toon_choose_cpu_isa(isa.encode())


@pytest.mark.parametrize("kind", ["plain", "up", "down"])
def test_opcheck(kind):
    x, w = (t.requires_grad_() for t in make((1, 16, 16, 16, 16)))
    torch.library.opcheck(torch.ops.stylegan_toon.conv3x3.default, (x, w, kind, False, False, 1.0, False))
    if kind != "up":
        dy = reference.conv3x3(x, w, kind).detach().requires_grad_()
        torch.library.opcheck(torch.ops.stylegan_toon.conv3x3_weight.default, (dy, x, kind, False, False))


def test_resampled_convolution_goes_through_it():
    x, w = make((1, 16, 16, 96, 96))
    for up, down, kind in ((1, 1, "plain"), (2, 1, "up"), (1, 2, "down")):
        assert torch.equal(conv2d_resample(x, w, FILTER, up=up, down=down, padding=1), conv3x3(x, w, kind))

"""bias_act against a float64 truth, through second order, and against what torch asks of an op."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from accuracy import DTYPES, TOLERANCE, relative_error
from torch.autograd import gradcheck, gradgradcheck

from stylegan_toon import ops
from stylegan_toon.ops.bias_act import ACTIVATIONS

TRUTH = {
    "linear": (lambda u, a: u, 1.0),
    "relu": (lambda u, a: F.relu(u), 2**0.5),
    "lrelu": (lambda u, a: F.leaky_relu(u, a), 2**0.5),
    "tanh": (lambda u, a: torch.tanh(u), 1.0),
    "sigmoid": (lambda u, a: torch.sigmoid(u), 1.0),
    "elu": (lambda u, a: F.elu(u), 1.0),
    "selu": (lambda u, a: F.selu(u), 1.0),
    "softplus": (lambda u, a: torch.logaddexp(u, torch.zeros_like(u)), 1.0),
    "swish": (lambda u, a: F.silu(u), 2**0.5),
}

# name: shape, biased dimension, strides other than contiguous
LAYOUTS = {
    "image": ([2, 6, 5, 7], 1, None),
    "channels_last": ([2, 6, 5, 7], 1, torch.channels_last),
    "many_pixels": ([1, 3, 130, 131], 1, None),  # more than one piece of work
    "features": ([5, 33], 1, None),
    "vector_width": ([2, 16, 4, 4], 1, torch.channels_last),
    "many_features": ([2, 1100], 1, None),  # more than one piece of a row
    "last_dimension": ([2, 3, 4, 5], -1, None),
    "one_channel": ([2, 1, 4, 3], 1, None),
    "sliced": ([2, 6, 5, 7], 1, "sliced"),
}
OPTIONS = [{}, {"gain": 0.7, "clamp": 0.6}, {"alpha": 0.05, "gain": -1.5}, {"clamp": 0.1}, {"gain": 0.0}]
CASES = [
    (act, dtype, layout, options)
    for (act, dtype, layout), options in zip(itertools.product(ACTIVATIONS, DTYPES, LAYOUTS), itertools.cycle(OPTIONS))
]


def truth(x, b, dim, act, alpha=None, gain=None, clamp=None):
    func, default_gain = TRUTH[act]
    shape = [1] * x.ndim
    shape[dim] = -1
    y = func(x + b.reshape(shape), 0.2 if alpha is None else alpha)
    y = y * (default_gain if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


def make(dtype, layout, device, seed=0):
    """(x, b, dim): x rounded to dtype and laid out, b in the dtype it is added in."""
    shape, dim, memory = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).mul(2).to(device, dtype)
    if memory == "sliced":
        x = torch.stack([x, x], dim=-1)[..., 0]
    elif memory is not None:
        x = x.contiguous(memory_format=memory)
    b = torch.randn(shape[dim], generator=generator)
    return x, b.to(device, torch.float64 if dtype == torch.float64 else torch.float32), dim


@pytest.mark.parametrize(("act", "dtype", "layout", "options"), CASES)
def test_forward(act, dtype, layout, options, device, implementation):
    for each in (torch.float32, dtype):  # every case in float32, and every dtype in a quarter of the cases
        x, b, dim = make(each, layout, device)
        y = ops.bias_act(x, b, dim=dim, act=act, **options)
        assert y.dtype == each and y.shape == x.shape
        if layout != "sliced":
            assert y.stride() == x.stride()
        assert relative_error(y, truth(x.double(), b.double(), dim, act, **options)) < TOLERANCE[each]


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_instruction_set(act, isa):
    for layout, dtype in itertools.product(LAYOUTS, DTYPES):
        x, b, dim = make(dtype, layout, "cpu")
        y = ops.bias_act(x, b, dim=dim, act=act, clamp=1.5)
        assert relative_error(y, truth(x.double(), b.double(), dim, act, clamp=1.5)) < TOLERANCE[dtype]


@pytest.mark.parametrize("options", [{}, {"clamp": 0.6}, {"gain": -0.7, "alpha": 0.05}], ids=["", "clamp", "gain"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gradients(act, dtype, options, device, implementation):
    """First order, and the second order of R1: the gradient of the squared norm of a gradient."""
    for layout in ("image", "channels_last", "features"):
        x, b, dim = make(dtype, layout, device)
        # The slope of a clamped value is 0, that of the next half-type value is not: leave values near the clamp out.
        y = truth(x.double(), b.double(), dim, act, **{**options, "clamp": None})
        near = (y.abs() - options["clamp"]).abs() < 0.02 if "clamp" in options else torch.zeros_like(y, dtype=bool)
        x = torch.where(near, torch.zeros_like(x), x).requires_grad_()
        b.requires_grad_()
        weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)

        def derivatives(x, b, f, weight=weight, dim=dim):
            y = f(x, b, dim=dim, act=act, **options)
            dx, db = torch.autograd.grad((y * weight.to(y.dtype)).sum(), [x, b], create_graph=True)
            if not dx.requires_grad:  # piecewise linear: the slope does not depend on x
                return dx, db, None
            return dx, db, torch.autograd.grad(dx.double().square().sum() + db.double().square().sum(), x)[0]

        x64, b64 = (t.detach().double().requires_grad_() for t in (x, b))
        results = derivatives(x, b, ops.bias_act)
        truths = derivatives(x64, b64, lambda x, b, *, dim, act, **o: truth(x, b, dim, act, **o))
        for result, true in zip(results, truths):
            if result is None or true is None:
                assert result is None or result.abs().max() == 0
                assert true is None or true.abs().max() == 0
            else:
                # Half types: the slope is read off a rounded y, and second order multiplies such factors.
                slack = 1 if dtype.itemsize > 2 else 8
                assert relative_error(result, true) < TOLERANCE[dtype] * slack


@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gradcheck(act, clamp, device):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn([2, 3, 3, 2], dtype=torch.float64, generator=generator).to(device).requires_grad_()
    b = torch.randn([3], dtype=torch.float64, generator=generator).to(device).requires_grad_()

    def f(x, b):
        return ops.bias_act(x, b, act=act, clamp=clamp, gain=1.3)

    assert gradcheck(f, (x, b))
    assert gradgradcheck(f, (x, b))


def test_third_order_is_refused(device):
    if not ops.library.available(device.type):
        pytest.skip(f"compiled kernels: {ops.library.why_not(device.type)}")
    x = torch.randn(4, 3, device=device, requires_grad=True)
    (first,) = torch.autograd.grad(ops.bias_act(x, act="tanh").sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice"):
        torch.autograd.grad(second.sum(), x)


@pytest.mark.parametrize("act", ["linear", "lrelu", "softplus", "swish"])
@pytest.mark.parametrize("layout", ["image", "channels_last", "sliced"])
def test_opcheck(act, layout, device):
    x, b, _ = make(torch.float32, layout, device)
    options = (1, act, 0.2, 1.3, 0.8)
    torch.library.opcheck(torch.ops.stylegan_toon.bias_act.default, (x.requires_grad_(), b.requires_grad_(), *options))
    torch.library.opcheck(torch.ops.stylegan_toon.bias_act.default, (x, None, *options))
    dy, ddx = torch.randn_like(x), torch.randn_like(x)
    torch.library.opcheck(torch.ops.stylegan_toon.bias_act_grad.default, (dy, x.detach(), b.detach(), *options))
    torch.library.opcheck(torch.ops.stylegan_toon.bias_act_grad2.default, (ddx, dy, x.detach(), b.detach(), *options))


def test_nothing_to_do_returns_x(device):
    x = torch.randn(2, 3, device=device)
    assert ops.bias_act(x) is x


def test_nan_passes_through(device, implementation):
    x = torch.tensor([[float("nan"), float("inf"), -float("inf")]], device=device)
    for act in ("linear", "relu", "lrelu"):
        y = ops.bias_act(x, act=act, gain=1.0, alpha=0.5, clamp=3.0)
        assert y[0, 0].isnan() and y[0, 1] == 3 and y[0, 2] == (0 if act == "relu" else -3)
        y = ops.bias_act(x, act=act, gain=2.0)
        assert y[0, 0].isnan() and y[0, 1] == float("inf")


def test_bias_is_added_in_float32(device, implementation):
    """A float32 bias is not rounded to the dtype of x first: 1 + 2^-9 would be lost in bfloat16."""
    x = torch.full([1, 1], -1.0, dtype=torch.bfloat16, device=device)
    b = torch.tensor([1 + 2**-9], device=device)
    assert ops.bias_act(x, b).item() == 2**-9


def test_empty(device, implementation):
    x = torch.zeros([0, 3, 4, 4], device=device, requires_grad=True)
    y = ops.bias_act(x, torch.zeros(3, device=device), act="lrelu")
    assert y.shape == x.shape
    y.sum().backward()


@pytest.mark.parametrize(
    ("b", "options", "match"),
    [
        (None, {"act": "gelu"}, "unknown activation"),
        (None, {"act": "lrelu", "alpha": -0.1}, "alpha"),
        (torch.zeros(4), {}, "does not fit"),
        (torch.zeros(3, 1), {}, "does not fit"),
        (torch.zeros(3), {"dim": 4}, "does not fit"),
    ],
)
def test_mistakes(b, options, match):
    with pytest.raises(ValueError, match=match):
        ops.bias_act(torch.zeros(2, 3, 4, 4), b, **options)
    with pytest.raises(ValueError, match="floating"):
        ops.bias_act(torch.zeros(2, 3, dtype=torch.int32))

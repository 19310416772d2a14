"""epilogue against its parts in float64, through second order, and against what torch asks of an op."""

from __future__ import annotations

import itertools

import pytest
import test_upfirdn2d
import torch
import torch.nn.functional as F
from accuracy import DTYPES, TOLERANCE, relative_error
from torch.autograd import gradcheck, gradgradcheck

from stylegan_toon import ops
from stylegan_toon.ops import library

# name: filter, padding
FIRS = {
    "none": (None, [0, 0, 0, 0]),
    "1331": (test_upfirdn2d.FILTERS["1331"], [1, 1, 1, 1]),  # the networks'
    "full": (test_upfirdn2d.FILTERS["full"], [2, 1, 3, 0]),
    "oblong": (test_upfirdn2d.FILTERS["oblong"], [-1, 8, 2, -2]),
    "taps12": (test_upfirdn2d.FILTERS["taps12"], [7, 6, 5, 9]),
    "high_pass": (torch.tensor([[1.0, -1.0], [-2.0, 2.0]]), [1, 0, 0, 1]),  # adds up to 0
}
ACTS = {"linear": 1.0, "relu": 2**0.5, "lrelu": 2**0.5}  # default gains
OPTIONS = [{}, {"gain": 0.7, "clamp": 0.6}, {"gain": -1.5, "fir_gain": 4.0}, {"clamp": 1.5}]
OPERANDS = ["bsn", "bsN", "bN", "bs", "s", "n", "b", ""]  # bias, scale, noise for each image, Noise for all


def make(fir, operands, dtype, channels_last=False, device="cpu", size=(2, 5, 9, 13)):
    """(x, {b, scale, noise}, {f, padding}): x rounded to dtype, the others in the dtype they are used in."""
    f, padding = FIRS[fir]
    n, c, h, w = size
    generator = torch.Generator().manual_seed(len(fir) + len(operands))
    x = torch.randn(size, generator=generator).mul(2).to(device, dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    taps = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    h, w = h + padding[2] + padding[3] - taps[0] + 1, w + padding[0] + padding[1] - taps[1] + 1
    small = {}
    if "b" in operands:
        small["b"] = torch.randn(c, generator=generator)
    if "s" in operands:
        small["scale"] = 0.5 + torch.rand(n, c, generator=generator)
    if "n" in operands.lower():
        small["noise"] = torch.randn(n if "n" in operands else 1, 1, h, w, generator=generator)
    small = {k: t.to(device, library.compute_dtype(dtype)) for k, t in small.items()}
    return x, small, {"f": None if f is None else f.to(device), "padding": padding}


def truth(x, small, fir, act="linear", gain=None, clamp=None, fir_gain=1.0, flip_filter=False):
    """The definition, in torch's own differentiable functions."""
    f = fir["f"]
    if f is not None:
        x0, x1, y0, y1 = fir["padding"]
        f = f.to(x.dtype)
        f = (f.outer(f) if f.ndim == 1 else f) * fir_gain
        f = f if flip_filter else f.flip([0, 1])
        c = x.shape[1]
        x = F.conv2d(F.pad(x, [x0, x1, y0, y1]), f.expand(c, 1, *f.shape), groups=c)
    if "scale" in small:
        x = x * small["scale"][:, :, None, None]
    x = x + small.get("noise", 0.0)
    if "b" in small:
        x = x + small["b"][None, :, None, None]
    x = {"linear": lambda u: u, "relu": F.relu, "lrelu": lambda u: F.leaky_relu(u, 0.2)}[act](x)
    x = x * (ACTS[act] if gain is None else gain)
    return x if clamp is None else x.clamp(-clamp, clamp)


def run(x, small, fir, **options):
    rest = {k: t for k, t in small.items() if k != "b"}
    return ops.epilogue(x, small.get("b"), **rest, **fir, **options)


def check_forward(fir, operands, act, dtype, channels_last, options, device="cpu", **sizes):
    x, small, filters = make(fir, operands, dtype, channels_last, device, **sizes)
    y = run(x, small, filters, act=act, **options)
    true = truth(x.double(), {k: t.double() for k, t in small.items()}, filters, act, **options)
    assert y.dtype == dtype and y.shape == true.shape
    assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert relative_error(y, true) < TOLERANCE[dtype]


@pytest.mark.parametrize(("fir", "operands"), list(itertools.product(FIRS, OPERANDS)))
def test_forward(fir, operands, device, implementation):
    first = OPERANDS.index(operands)  # dtypes, options and flipping go round
    for case, (act, channels_last) in enumerate(itertools.product(ACTS, (False, True)), first):
        options = OPTIONS[case % 4] | ({"flip_filter": bool(case // 2 % 2)} if fir != "none" else {})
        for dtype in (torch.float32, DTYPES[case // 3 % 4]):
            check_forward(fir, operands, act, dtype, channels_last, options, device)


@pytest.mark.parametrize("fir", FIRS)
def test_every_instruction_set(fir, isa):
    for dtype, channels_last in itertools.product(DTYPES, (False, True)):
        check_forward(fir, "bsn", "lrelu", dtype, channels_last, {"clamp": 1.5}, size=(2, 20, 19, 37))


def test_long_lines(device, implementation):
    """More pixels, and more channels, than the inner loops take at a time."""
    for size, channels_last in (((1, 2, 60, 70), False), ((1, 2500, 2, 3), True), ((1, 2500, 2, 3), False)):
        for operands in ("", "bsn"):
            check_forward("none", operands, "lrelu", torch.float32, channels_last, {}, device, size=size)
            check_forward("1331", operands, "lrelu", torch.float32, channels_last, {}, device, size=size)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTS)
def test_gradients(act, dtype, channels_last, device, implementation):
    """First order, and the gradient of the squared gradient by every input, as path length regularisation takes it."""
    for fir, operands, options in (("none", "bsn", {}), ("1331", "bsN", {"clamp": 0.9}), ("full", "s", {"gain": -0.7})):
        x, small, filters = make(fir, operands, dtype, channels_last, device, size=(2, 5, 6, 7))
        x64, small64 = x.double(), {k: t.double() for k, t in small.items()}
        if "clamp" in options:  # near the clamp, rounding to a half type decides the slope: clamp nothing
            options |= {"clamp": 1000.0}
        results = derivatives(x, small, lambda *a: run(*a, filters, act=act, **options))  # noqa: B023
        truths = derivatives(x64, small64, lambda *a: truth(*a, filters, act, **options))  # noqa: B023
        for result, true in zip(results, truths, strict=True):
            # Half types: what the scale's gradient needs is read off a rounded y.
            slack = 1 if dtype.itemsize > 2 else 8
            assert relative_error(result, true) < TOLERANCE[dtype] * slack


def test_without_library_to_second_order(monkeypatch):
    """Our backward passes over the reference agree with torch's autograd through it."""
    x, small, filters = make("1331", "bsn", torch.float64)
    truths = derivatives(x, small, lambda *a: truth(*a, filters, "lrelu", clamp=1.1))
    monkeypatch.setattr(library, "usable", lambda x: False)
    fallback = derivatives(x, small, lambda *a: run(*a, filters, act="lrelu", clamp=1.1))
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(fallback, truths, strict=True))


def derivatives(x, small, f) -> list[torch.Tensor]:
    leaves = [t.detach().requires_grad_() for t in (x, *small.values())]
    y = f(leaves[0], dict(zip(small, leaves[1:])))
    generator = torch.Generator().manual_seed(1)
    first = torch.autograd.grad((y * torch.randn(y.shape, generator=generator).to(y)).sum(), leaves, create_graph=True)
    # By the scale, which all the first derivatives but the scale's depend on.
    penalty = sum(g.to(torch.promote_types(g.dtype, torch.float32)).square().sum() for g in first if g.requires_grad)
    return [*first, *torch.autograd.grad(penalty, [leaves[list(small).index("scale") + 1]])]


@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("operands", ["bsn", "bsN", "s", ""])
@pytest.mark.parametrize("act", ACTS)
def test_gradcheck(act, operands, clamp, device):
    for fir, channels_last in (("none", True), ("1331", False)):
        x, small, filters = make(fir, operands, torch.float64, channels_last, device, size=(2, 2, 3, 3))
        names = list(small)

        def f(x, *small):
            return run(x, dict(zip(names, small)), filters, act=act, clamp=clamp, gain=1.3)  # noqa: B023

        inputs = [t.requires_grad_() for t in (x, *small.values())]
        assert gradcheck(f, inputs)
        assert gradgradcheck(f, inputs)


@pytest.mark.parametrize("act", ["swish", "tanh"])
def test_other_activations_are_composed(act, device, implementation):
    x, small, filters = make("1331", "bsn", torch.float16, device=device)
    y = run(x, small, filters, act=act, clamp=0.8)
    u = truth(x.double(), {k: t.double() for k, t in small.items()}, filters)
    true = F.silu(u) * 2**0.5 if act == "swish" else u.tanh()
    assert y.dtype == torch.float16 and relative_error(y, true.clamp(-0.8, 0.8)) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("fir", ["none", "1331", "taps12"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(fir, channels_last, device):
    x, small, filters = make(fir, "bsn", torch.float32, channels_last, device)
    b, scale, noise = (small[k].requires_grad_() for k in ("b", "scale", "noise"))
    x, f, padding = x.requires_grad_(), filters["f"], filters["padding"]
    forward, backward = torch.ops.stylegan_toon.epilogue.default, torch.ops.stylegan_toon.epilogue_grad.default
    torch.library.opcheck(forward, (x, f, scale, noise, b, padding, True, 2.0, 0.2, 1.3, 0.8))
    torch.library.opcheck(forward, (x, f, None, None, None, padding, True, 2.0, 0.2, 1.3, -1.0))
    y = forward(x, f, scale, noise, b, padding, True, 2.0, 0.2, 1.3, 0.8).detach()
    torch.library.opcheck(backward, (torch.randn_like(y).requires_grad_(), y, scale, noise, 0.2, 1.3, 0.8))
    torch.library.opcheck(backward, (torch.randn_like(y), y, None, None, 0.2, 1.3, -1.0))
    x, scale, noise, b = (t.detach() for t in (x, scale, noise, b))
    into = torch.ops.stylegan_toon.epilogue_out.default
    torch.library.opcheck(
        into, (x, f, scale, noise, b, padding, True, 2.0, 0.2, 1.3, 0.8), {"out": torch.zeros_like(y)}
    )


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fullgraph(backend, device):
    torch._dynamo.reset()
    compiled = torch.compile(lambda *a, **k: run(*a, **k), fullgraph=True, backend=backend)
    for size in ((2, 5, 6, 7), (2, 5, 8, 9)):  # the second one makes shapes symbolic
        x, small, filters = make("1331", "bsn", torch.float32, True, device, size=size)
        leaves = [t.requires_grad_() for t in (x, *small.values())]
        expected, got = (f(x, small, filters, act="lrelu", clamp=0.9) for f in (run, compiled))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        for ours, true in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (got, expected))):
            torch.testing.assert_close(ours, true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("fir", ["none", "1331"])
def test_out(fir, channels_last, device, implementation):
    """Into a ready buffer, or in place; the same to the last bit."""
    for act in ("lrelu", "swish"):
        x, small, filters = make(fir, "bsn", torch.float32, channels_last, device, size=(2, 5, 9, 37))
        expected = run(x, small, filters, act=act, clamp=0.9)
        out = torch.full_like(expected, float("nan"))
        assert run(x, small, filters, act=act, clamp=0.9, out=out) is out and torch.equal(out, expected)
        if fir == "none":
            assert run(x, small, filters, act=act, clamp=0.9, out=x) is x and torch.equal(x, expected)
        with pytest.raises(ValueError, match="gradient"):
            run(out.detach().requires_grad_(), {}, {}, act=act, out=torch.empty_like(out))
        with pytest.raises(ValueError, match="out is"):
            run(x, small, filters, act=act, out=out[:1])
        with pytest.raises(ValueError, match="strides"):
            run(x, small, filters, act=act, out=torch.empty_like(out).transpose(2, 3).contiguous().transpose(2, 3))


def test_out_may_not_overlap(device):
    if not library.available(device.type):
        pytest.skip(f"compiled kernels: {library.why_not(device.type)}")
    memory = torch.zeros([3, 5, 4, 4], device=device)
    with pytest.raises(ValueError, match="shares memory"):
        ops.epilogue(memory[:2], out=memory[1:])
    with pytest.raises(ValueError, match="shares memory"):
        ops.epilogue(memory[:2], f=FIRS["1331"][0].to(device), padding=[2, 1, 2, 1], out=memory[:2])


def test_infinity_and_nan(device, implementation):
    x = torch.tensor([float("nan"), float("inf"), -float("inf")], device=device).reshape(1, 3, 1, 1)
    for act in ACTS:
        y = ops.epilogue(x, act=act, gain=1.0).flatten()
        assert y[0].isnan() and y[1] == float("inf") and y[2] == (0 if act == "relu" else -float("inf"))
        y = ops.epilogue(x, act=act, gain=2.0, clamp=3.0).flatten()
        assert y[0].isnan() and y[1] == 3 and y[2] == (0 if act == "relu" else -3)


def test_only_the_result_is_saved_for_backward(device):
    """Neither x nor the filtered x is saved for the backward pass: only y, the filter and the small operands."""
    x, small, filters = make("1331", "bsn", torch.float32, device=device)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = run(x.requires_grad_(), small, filters, act="lrelu")
    assert [t.data_ptr() for t in kept if t.numel() >= y.numel()] == [y.data_ptr()]


def test_empty(device, implementation):
    x = torch.zeros([0, 3, 4, 4], device=device, requires_grad=True)
    y = ops.epilogue(x, torch.zeros(3, device=device), scale=torch.zeros([0, 3], device=device), act="lrelu")
    assert y.shape == x.shape
    y.sum().backward()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"act": "gelu"}, "unknown activation"),
        ({"act": "lrelu", "alpha": -0.1}, "alpha"),
        ({"b": torch.zeros(4)}, "b is"),
        ({"scale": torch.zeros(3)}, "scale is"),
        ({"noise": torch.zeros(4, 5)}, "noise is"),
        ({"padding": 1}, "no filter"),
        ({"f": torch.ones(5)}, "smaller than the filter"),
        ({"f": torch.ones(33)}, "32 taps"),
        ({"f": torch.ones(2, requires_grad=True)}, "constant"),
    ],
)
def test_mistakes(options, match, implementation):
    with pytest.raises(ValueError, match=match):
        ops.epilogue(torch.zeros(2, 3, 4, 4), **options)
    with pytest.raises(ValueError, match="N, C, H, W"):
        ops.epilogue(torch.zeros(3, 4, 4))


def test_kernels_refuse_invalid_arguments():
    """Called below the public function: no pointer is passed on unchecked."""
    if not library.available("cpu"):
        pytest.skip(f"compiled kernels: {library.why_not('cpu')}")
    x, rest = torch.randn(1, 2, 4, 4), ([0] * 4, False, 1.0, 0.2, 1.0, -1.0)
    op = torch.ops.stylegan_toon.epilogue
    for small, match in (
        ((torch.ones(1, 1).double(), None, None, None), "f is"),
        ((None, torch.ones(1, 3), None, None), "scale is"),
        ((None, None, torch.ones(2, 1, 4, 4), None), "noise is"),
        ((None, None, None, torch.ones(2).half()), "b is"),
    ):
        with pytest.raises(ValueError, match=match):
            op(x, *small, *rest)
    with pytest.raises(ValueError, match="dy is"):
        torch.ops.stylegan_toon.epilogue_grad(x.double(), x, None, None, 0.2, 1.0, -1.0)

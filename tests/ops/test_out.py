"""out=: both ops into existing memory, in place where possible; what is refused; autograd and torch.compile."""

from __future__ import annotations

import itertools
import mmap
import sys
from pathlib import Path

import pytest
import test_bias_act
import test_upfirdn2d
import torch
from accuracy import DTYPES, TOLERANCE, relative_error

from stylegan_toon import ops
from stylegan_toon.ops import library
from stylegan_toon.ops.bias_act import ACTIVATIONS

ADD = (1, "lrelu", 0.2, 1.3, 0.8)  # dim, act, alpha, gain, clamp
TWICE = ([2, 2], [1, 1], [2, 1, 2, 1], False, 4.0)


@pytest.mark.parametrize("layout", test_bias_act.LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_act_into(dtype, layout, device, implementation):
    for act in ACTIVATIONS:
        x, b, dim = test_bias_act.make(dtype, layout, device)
        true = test_bias_act.truth(x.double(), b.double(), dim, act, clamp=1.5)
        ready = torch.full_like(x, float("nan"), memory_format=torch.preserve_format)
        for out in (ready, x) if layout != "sliced" else (ready.contiguous(),):
            assert ops.bias_act(x, b, dim=dim, act=act, clamp=1.5, out=out) is out
            assert relative_error(out, true) < TOLERANCE[dtype]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_upfirdn2d_into(dtype, channels_last, device, implementation):
    memory = torch.channels_last if channels_last else torch.contiguous_format
    for name, resampling in itertools.product(["1331", "taps12", "full"], [(1, 1), (2, 1), (1, 2), (3, 2)]):
        x, f, options = test_upfirdn2d.make(name, resampling, "uneven", dtype, device, channels_last=channels_last)
        true = test_upfirdn2d.truth(x, f, **options)
        out = torch.full(true.shape, float("nan"), dtype=dtype, device=device).contiguous(memory_format=memory)
        assert ops.upfirdn2d(x, f, **options, out=out) is out
        slack = 2 if device.type == "cuda" and f.ndim == 1 else 1
        assert relative_error(out, true) < TOLERANCE[dtype] * slack


def test_nothing_to_do_is_a_copy(device, implementation):
    x = torch.randn(2, 3, device=device)
    out = torch.empty_like(x)
    assert ops.bias_act(x, out=out) is out and torch.equal(out, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_larger_than_the_cache(dtype):
    """Outputs above 64 MiB are stored past the cache: the same bits as smaller ones, at any alignment."""
    if not library.available("cpu"):
        pytest.skip(f"compiled kernels: {library.why_not('cpu')}")
    h, w = 4097, 4099 * 4 // dtype.itemsize
    out = torch.empty(h * w + 1, dtype=dtype)[1:].view(1, 1, h, w)
    assert out.nbytes > 64 << 20
    x = torch.randn(1, 1, h, 64).to(dtype).repeat(1, 1, 1, w // 64 + 1)[..., :w].contiguous()
    below = [ops.bias_act(x[:, :, rows], act="lrelu") for rows in (slice(0, 2000), slice(2000, None))]
    assert torch.equal(ops.bias_act(x, act="lrelu", out=out), torch.cat(below, 2))
    f = ops.setup_filter([1, 2, 1])
    below = [
        ops.upfirdn2d(x[:, :, max(r - 1, 0) : r + 1001], f, padding=[1, 1, r == 0, r + 1001 > h])
        for r in range(0, h, 1000)
    ]
    assert torch.equal(ops.upfirdn2d(x, f, padding=1, out=out), torch.cat(below, 2))


def test_only_without_gradient(device, implementation):
    x, f = torch.randn(1, 2, 4, 4, device=device), ops.setup_filter([1, 2, 1], device=device)
    out = torch.empty_like(x)
    for needs in (x, out):
        needs.requires_grad_()
        with pytest.raises(ValueError, match="no_grad"):
            ops.bias_act(x, act="relu", out=out)
        with pytest.raises(ValueError, match="no_grad"):
            ops.upfirdn2d(x, f, padding=1, out=out)
        with torch.no_grad():
            assert ops.bias_act(x, act="relu", out=out).min() == 0
        needs.requires_grad_(False)
    with pytest.raises(ValueError, match="no_grad"):
        ops.bias_act(x, torch.zeros(2, device=device, requires_grad=True), out=out)
    with torch.inference_mode():
        assert torch.equal(ops.bias_act(x, act="relu", out=torch.empty_like(x)), x.relu() * 2**0.5)


def test_autograd_notices(device):
    """What is overwritten cannot be used by a backward pass that had saved it."""
    x = torch.randn(1, 2, 4, 4, device=device, requires_grad=True)
    y = x.exp()
    ops.bias_act(y.detach(), act="relu", out=y.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda x: torch.empty(1, 2, 4, 5), "result is"),
        (lambda x: torch.empty(1, 2, 4, 4, dtype=torch.float64), "expected"),
        (lambda x: torch.empty(1, 4, 4, 2).permute(0, 3, 1, 2), "strides"),
        (lambda x: torch.empty(1, 2, 4, 8)[..., ::2], "strides"),
        (lambda x: torch.as_strided(x, [1, 2, 4, 4], [32, 16, 4, 1], 4), "shares memory"),
    ],
)
def test_mistakes(spoil, match):
    x = torch.randn(40)[:32].view(1, 2, 4, 4)
    f = ops.setup_filter([1, 2, 1])
    with pytest.raises(ValueError, match=match):
        ops.bias_act(x, act="lrelu", out=spoil(x))
    with pytest.raises(ValueError, match=match):
        ops.upfirdn2d(x, f, padding=1, out=spoil(x))
    with pytest.raises(ValueError, match="shares memory"):
        ops.upfirdn2d(x, f, padding=1, out=x)


@pytest.mark.parametrize("layout", ["image", "channels_last", "sliced"])
def test_opcheck(layout, device):
    x, b, _ = test_bias_act.make(torch.float32, layout, device)
    out = torch.empty_like(x, memory_format=torch.preserve_format if layout != "sliced" else torch.contiguous_format)
    torch.library.opcheck(torch.ops.stylegan_toon.bias_act_out.default, (x, b, *ADD), {"out": out})
    if layout != "sliced":
        torch.library.opcheck(torch.ops.stylegan_toon.bias_act_out.default, (x, None, *ADD), {"out": x})
    f = ops.setup_filter([1, 3, 3, 1], device=device)
    out = torch.empty_like(ops.upfirdn2d(x, f, up=2, padding=[2, 1, 2, 1]))
    torch.library.opcheck(torch.ops.stylegan_toon.upfirdn2d_out.default, (x, f, *TWICE), {"out": out})


def test_fullgraph(device):
    """torch.compile knows that out is written, also where the input changes afterwards."""

    def layer(x, b, f):
        y = x.new_empty(1, 3, 16, 16)
        ops.upfirdn2d(x, f, up=2, padding=[2, 1, 2, 1], out=y)
        x.zero_()
        return ops.bias_act(y, b, act="lrelu", clamp=1.0, out=y)

    x, b = torch.randn(1, 3, 8, 8, device=device), torch.randn(3, device=device)
    f = ops.setup_filter([1, 3, 3, 1], device=device)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    true = ops.bias_act(ops.upfirdn2d(x, f, up=2, padding=[2, 1, 2, 1]), b, act="lrelu", clamp=1.0)
    assert torch.equal(layer(x.clone(), b, f), true) and torch.equal(compiled(x.clone(), b, f), true)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_huge_pages():
    """The kernel has been asked to back a large tensor with huge pages, and a small one has been left alone."""
    if not Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        pytest.skip("this Linux has no transparent huge pages")

    def asked(x: torch.Tensor) -> bool:
        middle, inside = x.data_ptr() + x.nbytes // 2, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if line.startswith("VmFlags:") and inside:
                return "hg" in line.split()
            if "-" in line.split()[0]:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                inside = start <= middle < end
        raise AssertionError("the tensor lies nowhere")

    fresh = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    large = torch.frombuffer(fresh, dtype=torch.uint8)
    assert not asked(large)
    assert library.on_huge_pages(large) is large and asked(large)
    y = ops.bias_act(torch.zeros(1, 1, 2048, 2048), act="relu")
    assert asked(y) or not library.available("cpu")

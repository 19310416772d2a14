"""upfirdn2d against a float64 truth written with scipy, through second order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.signal
import torch
from accuracy import DTYPES, TOLERANCE, relative_error
from torch.autograd import gradcheck, gradgradcheck

from stylegan_toon import ops

RNG = np.random.default_rng(0)
FILTERS = {
    "1331": ops.setup_filter([1, 3, 3, 1]),  # every StyleGAN2 network
    "identity": None,
    "binomial": ops.setup_filter([1, 2, 1]),  # odd: phases of unequal length
    "taps12": torch.tensor(RNG.normal(size=12), dtype=torch.float32),  # separable, as ADA's wavelets
    "taps32": torch.tensor(RNG.normal(size=32), dtype=torch.float32),
    "outer": torch.tensor(np.outer(RNG.normal(size=3), RNG.normal(size=6)), dtype=torch.float32),
    "full": torch.tensor(RNG.normal(size=[4, 4]), dtype=torch.float32),  # not an outer product
    "oblong": torch.tensor(RNG.normal(size=[2, 7]), dtype=torch.float32),
    "full32": torch.tensor(RNG.normal(size=[32, 32]), dtype=torch.float32),
}
RESAMPLINGS = [(1, 1), (2, 1), (1, 2), (4, 1), (1, 4), (2, 2), (3, 2), (2, 3), ([2, 1], [1, 3])]
PADDINGS = {
    "none": [0, 0, 0, 0],
    "uneven": [2, 1, 3, 0],
    "wide": [17, 16, 15, 18],
    "crop": [-1, -2, -3, 1],
    "beyond": [-9, 21, 20, -8],  # crops more than there is on one side
}
CASES = list(itertools.product(FILTERS, RESAMPLINGS, PADDINGS))


def pair(value) -> list[int]:
    return [value, value] if isinstance(value, int) else value


def truth(x, f, up=1, down=1, padding=(0, 0, 0, 0), flip_filter=False, gain=1.0) -> torch.Tensor:
    """The definition: zeros between samples, zeros around them, crop, convolve, drop samples."""
    (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1) = pair(up), pair(down), padding
    kernel = np.ones([1, 1]) if f is None else f.detach().cpu().numpy().astype(np.float64)
    if kernel.ndim == 1:
        kernel = np.outer(kernel, kernel)
    if flip_filter:
        kernel = kernel[::-1, ::-1]
    n, c, h, w = x.shape
    images = []
    for image in x.detach().cpu().double().numpy().reshape(-1, h, w):
        sparse = np.zeros([h * up_y, w * up_x])
        sparse[::up_y, ::up_x] = image
        sparse = np.pad(sparse, [(max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))])
        sparse = sparse[max(-y0, 0) : sparse.shape[0] - max(-y1, 0), max(-x0, 0) : sparse.shape[1] - max(-x1, 0)]
        images.append(scipy.signal.convolve2d(sparse, kernel, mode="valid")[::down_y, ::down_x] * gain)
    return torch.tensor(np.stack(images)).reshape(n, c, *images[0].shape)


def make(name, resampling, padding, dtype=torch.float32, device="cpu", size=(9, 13), channels_last=False):
    """(x, f, options), the image enlarged where the filter would not fit."""
    f = FILTERS[name]
    up, down = resampling
    taps = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    h, w = size
    while h * pair(up)[1] + sum(PADDINGS[padding][2:]) < taps[0]:
        h += 1
    while w * pair(up)[0] + sum(PADDINGS[padding][:2]) < taps[1]:
        w += 1
    x = torch.randn([2, 3, h, w], generator=torch.Generator().manual_seed(len(name))).to(device, dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, None if f is None else f.to(device), dict(up=up, down=down, padding=PADDINGS[padding])


@pytest.mark.parametrize(("name", "resampling", "padding"), CASES)
def test_forward(name, resampling, padding, device, implementation):
    case = CASES.index((name, resampling, padding))
    # Dtype and layout go round so that every filter and resampling meets each; the truth is cheap, the grid is not.
    for dtype, channels_last in [(torch.float32, bool(case % 2)), (DTYPES[case % 4], bool(case // 4 % 2))]:
        x, f, options = make(name, resampling, padding, dtype, device, channels_last=channels_last)
        options |= {"flip_filter": bool(case // 2 % 2), "gain": [1.0, 4.0, -0.5][case % 3]}
        y = ops.upfirdn2d(x, f, **options)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        true = truth(x, f, **options)
        assert y.shape == true.shape
        # 1-D filters take two passes on CUDA, and round half types twice.
        slack = 2 if device.type == "cuda" and f is not None and f.ndim == 1 else 1
        assert relative_error(y, true) < TOLERANCE[dtype] * slack


def test_every_instruction_set(isa):
    for name, resampling in itertools.product(FILTERS, RESAMPLINGS):
        for dtype, channels_last in itertools.product(DTYPES, (False, True)):
            x, f, options = make(name, resampling, "uneven", dtype, size=(5, 21), channels_last=channels_last)
            assert relative_error(ops.upfirdn2d(x, f, **options), truth(x, f, **options)) < TOLERANCE[dtype]


@pytest.mark.parametrize("shape", [[1, 1, 1, 1], [1, 8, 1, 1], [3, 1, 40, 50], [1, 64, 4, 4], [0, 3, 4, 4]])
def test_shapes(shape, device, implementation):
    """One pixel, one channel, more rows than one thread is given, nothing at all."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    f = FILTERS["1331"].to(device)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = ops.upfirdn2d(x.contiguous(memory_format=layout), f, up=2, padding=[2, 1, 2, 1], gain=4)
        assert list(y.shape) == [*shape[:2], 2 * shape[2], 2 * shape[3]]
        if x.numel():
            assert relative_error(y, truth(x, f, up=2, padding=[2, 1, 2, 1], gain=4)) < 1e-5


def test_threads_agree(device):
    """Rows are shared among threads; how many there are changes nothing, not even the last bit."""
    x = torch.randn([2, 16, 64, 64], device=device)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(ops.upfirdn2d(x, FILTERS["1331"].to(device), down=2, padding=1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("name", ["1331", "oblong", "taps12"])
def test_gradcheck(name, resampling, device, implementation):
    for padding in ("uneven", "crop"):
        x, f, options = make(name, resampling, padding, torch.float64, device, size=(4, 5))
        x = x[:1, :2].requires_grad_()
        options |= {"gain": 1.5}
        assert gradcheck(lambda x: ops.upfirdn2d(x, f, **options), x)  # noqa: B023
        assert gradgradcheck(lambda x: ops.upfirdn2d(x, f, **options).square(), x)  # noqa: B023


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("name", "resampling", "padding"), [
    ("1331", (2, 1), "uneven"), ("1331", (1, 2), "uneven"),
    ("oblong", ([2, 1], [1, 3]), "crop"), ("taps12", (3, 2), "wide"),
])  # fmt: skip
def test_opcheck(name, resampling, padding, channels_last, device):
    x, f, options = make(name, resampling, padding, device=device, channels_last=channels_last)
    arguments = (pair(options["up"]), pair(options["down"]), options["padding"], True, 2.0)
    torch.library.opcheck(torch.ops.stylegan_toon.upfirdn2d.default, (x.requires_grad_(), f, *arguments))


def test_scalar_and_pair_padding(device, implementation):
    x, f = torch.randn([1, 2, 6, 5], device=device), FILTERS["full"].to(device)
    assert torch.equal(ops.upfirdn2d(x, f, padding=2), ops.upfirdn2d(x, f, padding=[2, 2, 2, 2]))
    assert torch.equal(ops.upfirdn2d(x, f, padding=[1, 3]), ops.upfirdn2d(x, f, padding=[1, 1, 3, 3]))


@pytest.mark.parametrize(
    ("f", "options", "match"),
    [
        (FILTERS["1331"], {"up": 0}, "up"),
        (FILTERS["1331"], {"down": [1, 2, 3]}, "down"),
        (FILTERS["1331"], {"padding": [1, 2, 3]}, "padding"),
        (FILTERS["1331"], {"padding": -2}, "smaller than the filter"),
        (torch.ones(33), {}, "32 taps"),
        (torch.ones(2, 2, 2), {}, "must be"),
        (torch.ones(2, 2, requires_grad=True), {}, "constant"),
    ],
)
def test_mistakes(f, options, match, implementation):
    with pytest.raises(ValueError, match=match):
        ops.upfirdn2d(torch.zeros(1, 2, 4, 4), f, **options)
    with pytest.raises(ValueError, match="N, C, H, W"):
        ops.upfirdn2d(torch.zeros(2, 4, 4), f)


def test_setup_filter():
    f = ops.setup_filter([1, 3, 3, 1])
    assert f.shape == (4, 4) and f.dtype == torch.float32 and f.sum() == 1 and f[1, 2] == 9 / 64
    assert ops.setup_filter(list(range(1, 9))).shape == (8,)  # long enough to stay separable
    assert ops.setup_filter([1, 2], separable=True).shape == (2,)
    assert ops.setup_filter(None).tolist() == [[1.0]]
    assert ops.setup_filter([1, 2, 3], normalize=False, gain=2.0)[2, 2] == 18
    assert torch.equal(ops.setup_filter([1, 2], flip_filter=True), ops.setup_filter([2, 1]))
    x = torch.ones(1, 1, 40, 40)
    for separable in (False, True):  # the gain is on the signal, once
        f = ops.setup_filter(list(range(1, 10)), gain=4.0, separable=separable)
        assert ops.upfirdn2d(x, f).mean().item() == pytest.approx(4, rel=1e-5)
    for mistake in ([], torch.ones(1, 1, 1)):
        with pytest.raises(ValueError, match="shape"):
            ops.setup_filter(mistake)
    with pytest.raises(ValueError, match="separable"):
        ops.setup_filter(torch.ones(2, 2), separable=True)

"""The CUDA kernels, compiled as plain C++ with the replacement of CUDA in cuda_on_cpu/, against the same references.

They run thread after thread on CPU tensors, so that indices, tails and dispatch are tested without a GPU.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_bias_act
import test_epilogue
import test_haar
import test_upfirdn2d
import torch
from accuracy import DTYPES, TOLERANCE, relative_error

from stylegan_toon import ops
from stylegan_toon.ops import haar, library, structs
from stylegan_toon.ops.bias_act import ACTIVATIONS

SOURCES = Path(__file__).parents[2] / "csrc"
CUDA_SOURCES = ("cuda", "bias_act", "upfirdn2d", "epilogue", "epilogue_grad", "haar")
SHIM = Path(__file__).parent / "cuda_on_cpu"


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CXX") or "g++")
    if not shutil.which(compiler[0]):
        pytest.skip(f"there is no C++ compiler ({compiler[0]})")
    out = tmp_path_factory.mktemp("cuda_on_cpu") / "kernels.so"
    sources = [str(SOURCES / f"{name}.cu") for name in CUDA_SOURCES]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wno-unknown-pragmas", "-DTOON_ISA=cuda"]
    command = [*compiler, *flags, f"-I{SHIM}", f"-I{SOURCES}", "-x", "c++", *sources, "-o", str(out)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(out))


@pytest.fixture
def launches(emulated, monkeypatch) -> list[str]:
    """Sends the ops on CPU tensors to the CUDA kernels, and notes each launch."""
    done = []

    def launch(op: str, out: torch.Tensor, params: structs.Parameters) -> None:
        function = getattr(emulated, f"toon_{op}_cuda")
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        error = function(ctypes.byref(params), 0, None)
        if error:
            raise RuntimeError(error.decode())
        done.append(op)

    monkeypatch.setattr(library, "launch", launch)
    monkeypatch.setattr(library, "usable", lambda x: True)
    return done


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_matches(act, dtype, launches):
    for layout in test_bias_act.LAYOUTS:
        x, b, dim = test_bias_act.make(dtype, layout, "cpu")
        for bias, options in ((b, {"clamp": 1.5}), (None, {"gain": -0.7})):
            y = ops.bias_act(x, bias, dim=dim, act=act, **options)
            zero = torch.zeros_like(b) if bias is None else b
            true = test_bias_act.truth(x.double(), zero.double(), dim, act, **options)
            assert relative_error(y, true) < TOLERANCE[dtype]
    assert len(launches) == 2 * len(test_bias_act.LAYOUTS)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_gradients_match(act, launches):
    x, b, _ = test_bias_act.make(torch.float64, "image", "cpu")
    x, b = x[:1, :3, :2].contiguous().requires_grad_(), b[:3].requires_grad_()

    def f(x, b):
        return ops.bias_act(x, b, act=act, clamp=2.1, gain=1.3)

    assert torch.autograd.gradcheck(f, (x, b)) and torch.autograd.gradgradcheck(f, (x, b))
    assert launches


@pytest.mark.parametrize("name", test_upfirdn2d.FILTERS)
def test_upfirdn2d_matches(name, launches):
    cases = list(itertools.product(test_upfirdn2d.RESAMPLINGS, test_upfirdn2d.PADDINGS, (False, True)))
    for case, (resampling, padding, channels_last) in enumerate(cases):
        dtype = DTYPES[case % 3 and case % 4]  # float32 above all
        x, f, options = test_upfirdn2d.make(name, resampling, padding, dtype, channels_last=channels_last)
        f = f.outer(f) if f is not None and f.ndim == 1 else f  # the op makes two launches of 1-D filters
        options |= {"flip_filter": bool(case // 2 % 2), "gain": [1.0, 4.0, -0.5][case % 3]}
        assert relative_error(ops.upfirdn2d(x, f, **options), test_upfirdn2d.truth(x, f, **options)) < TOLERANCE[dtype]
    assert len(launches) == len(cases)


# The networks' resamplings, at sizes of several tiles and of parts of one; up and down, padding.
NETWORK = {"up": (2, 1, [2, 1, 2, 1]), "down": (1, 2, [1, 1, 1, 1]), "none": (1, 1, [2, 1, 1, 2])}


@pytest.mark.parametrize("name", ["1331", "full"])
@pytest.mark.parametrize("resampling", NETWORK)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tiles_match(dtype, resampling, name, launches):
    """Aligned to 16 bytes and not, several tiles wide and high, with a filter that is an outer product and one not."""
    up, down, padding = NETWORK[resampling]
    options = {"up": up, "down": down, "padding": padding, "gain": 3.0}
    f = test_upfirdn2d.FILTERS[name]
    for size, channels_last in (
        ((1, 2, 24, 160), False), ((2, 1, 70, 67), False), ((1, 2, 20, 20), False), ((1, 24, 9, 11), True)
    ):  # fmt: skip
        x = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        elsewhere = torch.empty(x.numel() + 1, dtype=dtype)[1:].as_strided(x.shape, x.stride())  # not aligned
        for each in (x, elsewhere.copy_(x)):
            y = ops.upfirdn2d(each, f, **options)
            assert relative_error(y, test_upfirdn2d.truth(x, f, **options)) < TOLERANCE[dtype]
    assert len(launches) == 8


@pytest.mark.parametrize("fir", test_epilogue.FIRS)
def test_epilogue_matches(fir, launches, monkeypatch):
    f, padding = test_epilogue.FIRS[fir]
    if f is not None and f.ndim == 1:  # as the op prepares it for CUDA
        monkeypatch.setitem(test_epilogue.FIRS, fir, (f.outer(f), padding))
    cases = list(itertools.product(test_epilogue.OPERANDS, DTYPES, (False, True)))
    sizes = itertools.cycle([(2, 5, 9, 13), (2, 16, 8, 24), (1, 3, 40, 131)])
    for case, ((operands, dtype, channels_last), size) in enumerate(zip(cases, sizes)):
        act, options = list(test_epilogue.ACTS)[case % 3], test_epilogue.OPTIONS[case % 4]
        test_epilogue.check_forward(fir, operands, act, dtype, channels_last, options, size=size)
    assert launches == ["epilogue"] * len(cases)


@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogue_grad_matches(dtype, launches, monkeypatch):
    """Sums included, in the parts that the CUDA kernels make; sizes that fill warps and that do not."""
    module = sys.modules["stylegan_toon.ops.epilogue"]  # of the same name in the package is the function
    parts = module._parts
    monkeypatch.setattr(module, "_parts", lambda y, cuda: parts(y, True))
    for size, channels_last in itertools.product(
        [(2, 5, 9, 13), (1, 40, 16, 16), (2, 3, 20, 20), (1, 300, 12, 12)], (False, True)
    ):
        _, small, _ = test_epilogue.make("none", "bsn", dtype, channels_last, size=size)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        dy, y = (torch.randn(size).to(dtype).contiguous(memory_format=layout) for _ in range(2))
        for scale, noise in ((small["scale"], small["noise"]), (None, small["noise"][:1]), (None, None)):
            options = (0.2, 1.3, 1.1)
            results = torch.ops.stylegan_toon.epilogue_grad(dy, y, scale, noise, *options)
            scale, noise = (None if t is None else t.double() for t in (scale, noise))
            limit = torch.tensor(1.1, dtype=dtype).item()  # as y was rounded
            truths = module._reference_grad(dy.double(), y.double(), scale, noise, 0.2, 1.3, limit)
            for result, true in zip(results, truths):
                assert relative_error(result, true) < TOLERANCE[result.dtype]
    assert len(launches) == 8 * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_haar_matches(dtype, launches, monkeypatch):
    monkeypatch.setattr(haar, "_taken", lambda x: True)
    for size, layout in itertools.product([(2, 12, 5, 9), (1, 64, 3, 1), (3, 20, 16, 33)], test_haar.LAYOUTS):
        x = torch.randn(size).to(dtype).contiguous(memory_format=layout)
        y = ops.haar_up(x)
        assert relative_error(y, test_haar.definition(x.double())) < TOLERANCE[dtype]
        assert relative_error(ops.haar_down(y), x) < 2 * TOLERANCE[dtype]
    assert launches == ["haar"] * 12


def test_indices_beyond_32_bits(launches):
    """Sample 1 of a row lies at 2^30 after upsampling; the crop keeps its surroundings."""
    far = 2**30
    f = torch.tensor([[1.0, 2.0, 3.0]])
    x = torch.tensor([[[[5.0, 7.0]]]])
    y = ops.upfirdn2d(x, f, up=[far, 1], padding=[-far + 3, -far + 4, 0, 0])
    assert y.flatten().tolist() == [0.0, 7.0, 14.0, 21.0, 0.0] and launches


def test_another_device_is_refused(emulated):
    emulated.toon_cuda_check.restype = ctypes.c_char_p
    assert emulated.toon_cuda_check(0) is None
    assert emulated.toon_cuda_check(1) == b"invalid device"

"""Implementations and instruction sets the ops are tested on."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from stylegan_toon.ops import library, reference


@pytest.fixture(params=["compiled", "reference"])
def implementation(request, device):
    """Runs the test with the compiled kernels, then with the plain PyTorch reference."""
    if request.param == "compiled" and not library.available(device.type):
        pytest.skip(f"compiled kernels: {library.why_not(device.type)}")
    with reference() if request.param == "reference" else nullcontext():
        yield request.param


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request):
    """Runs the test once per instruction set of this processor."""
    if not library.available("cpu"):
        pytest.skip(f"compiled kernels: {library.why_not('cpu')}")
    handle = library._kernels().handle
    before = handle.toon_cpu_isa()
    if handle.toon_choose_cpu_isa(request.param.encode()):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    assert not handle.toon_choose_cpu_isa(before)

"""The registered ops without the compiled library, and the plain PyTorch of ops.reference()."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from accuracy import relative_error
from torch.fx.experimental.proxy_tensor import make_fx

from stylegan_toon import ops
from stylegan_toon.ops import library
from stylegan_toon.ops.bias_act import ACTIVATIONS


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="there is no C++ compiler")
@pytest.mark.skipif(library.VARIABLE in os.environ, reason=f"{library.VARIABLE} is set")
def test_kernels_are_there_where_there_is_a_compiler():
    """Otherwise every test of the compiled kernels would skip, and nobody would notice."""
    hint = "install the package, or run: python setup.py build_ext --inplace"
    assert library.available("cpu"), f"{library.why_not('cpu')} ({hint})"


def derivatives(act: str) -> tuple[torch.Tensor, ...]:
    """Both ops in a row: value, gradients, and the gradient of a gradient's norm."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn([2, 3, 4, 5], dtype=torch.float64, generator=generator).requires_grad_()
    b = torch.randn([3], dtype=torch.float64, generator=generator).requires_grad_()
    f = torch.randn([3, 4], generator=generator)
    y = ops.bias_act(x, b, act=act, gain=1.3, clamp=1.0)
    y = ops.upfirdn2d(y, f, up=[2, 1], down=[1, 2], padding=[2, 1, 3, 0])
    first = torch.autograd.grad(y.square().sum(), [x, b], create_graph=True)
    return y, *first, torch.autograd.grad(first[0].square().sum(), x)[0]


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_without_library_to_second_order(act, monkeypatch):
    """Our backward passes over the reference agree with torch's autograd through it."""
    monkeypatch.setattr(library, "usable", lambda x: False)
    fallback = derivatives(act)
    with ops.reference():
        recorded = derivatives(act)
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(fallback, recorded))


def test_reference_context_is_plain_pytorch():
    """What is traced within ops.reference() has no op of ours in it, so that it can be exported."""

    def layer(x: torch.Tensor) -> torch.Tensor:
        return ops.upfirdn2d(ops.bias_act(x, act="lrelu"), None, up=2)

    def traced() -> list[str]:
        return [str(node.target) for node in make_fx(layer)(torch.randn(1, 3, 4, 4)).graph.nodes]

    assert any("stylegan_toon" in name for name in traced())
    with ops.reference():
        assert not any("stylegan_toon" in name for name in traced())


def test_kernels_refuse_invalid_arguments():
    """The registered ops, called directly, check their arguments before they pass pointers on."""
    if not library.available("cpu"):
        pytest.skip(f"compiled kernels: {library.why_not('cpu')}")
    x = torch.randn(1, 2, 4, 4)
    options = (1, "lrelu", 0.2, 1.0, -1.0)
    with pytest.raises(ValueError, match="b is"):
        torch.ops.stylegan_toon.bias_act(x, torch.zeros(2, dtype=torch.float64), *options)
    with pytest.raises(ValueError, match="dy is"):
        torch.ops.stylegan_toon.bias_act_grad(x.double(), x, None, *options)
    with pytest.raises(ValueError, match="f is"):
        torch.ops.stylegan_toon.upfirdn2d(x, torch.ones(1, 1).double(), [1, 1], [1, 1], [0] * 4, False, 1.0)

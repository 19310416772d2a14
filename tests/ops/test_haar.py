"""The Haar transform against its matrix in float64, its properties and its derivatives."""

from __future__ import annotations

import pytest
import torch
from accuracy import TOLERANCE, relative_error

from stylegan_toon.ops import haar_down, haar_up

LAYOUTS = (torch.contiguous_format, torch.channels_last)
# Rows of corners (0,0), (0,1), (1,0), (1,1); columns lo, lh, hl, hh.
MATRIX = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], dtype=torch.float64) / 2


def definition(x: torch.Tensor) -> torch.Tensor:
    """The inverse transform, channel by channel."""
    n, channels, height, width = x.shape
    c = channels // 4
    y = x.new_zeros(n, c, 2 * height, 2 * width)
    for i in range(c):
        bands = [x[:, i], *(x[:, c + 3 * i + k] for k in range(3))]
        for corner in range(4):
            row, column = divmod(corner, 2)
            y[:, i, row::2, column::2] = sum(m * band for m, band in zip(MATRIX[corner].tolist(), bands))
    return y


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(2, 12, 5, 9), (1, 64, 3, 1), (2, 128, 1, 17), (1, 76, 4, 40)], ids=str)
def test_value_and_inverse(isa, size, layout):
    torch.manual_seed(0)
    x = torch.randn(size).contiguous(memory_format=layout)
    y = haar_up(x)
    assert y.is_contiguous(memory_format=layout)
    assert relative_error(y, definition(x.double())) < TOLERANCE[torch.float32]
    back = haar_down(y)
    assert back.is_contiguous(memory_format=layout) and relative_error(back, x) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes(dtype, device, implementation):
    x = torch.randn(2, 8, 3, 5).to(device, dtype)
    assert relative_error(haar_up(x), definition(x.double())) < TOLERANCE[dtype]
    assert relative_error(haar_down(haar_up(x)), x) < 2 * TOLERANCE[dtype]
    assert haar_up(x).dtype == dtype


def test_each_is_the_gradient_of_the_other():
    x, dy = torch.randn(2, 16, 4, 6).requires_grad_(), torch.randn(2, 4, 8, 12)
    assert torch.equal(torch.autograd.grad(haar_up(x), x, dy)[0], haar_down(dy))
    wide, dx = torch.randn(2, 4, 8, 12).requires_grad_(), torch.randn(2, 16, 4, 6)
    assert torch.equal(torch.autograd.grad(haar_down(wide), wide, dx)[0], haar_up(dx))


def test_derivatives_and_registration():
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64).requires_grad_()
    for function, argument in ((haar_up, x), (haar_down, haar_up(x).detach().requires_grad_())):
        assert torch.autograd.gradcheck(function, argument) and torch.autograd.gradgradcheck(function, argument)
    for layout in LAYOUTS:
        sample = torch.randn(2, 8, 4, 6).contiguous(memory_format=layout).requires_grad_()
        for up in (True, False):
            torch.library.opcheck(torch.ops.stylegan_toon.haar.default, (sample, up))


def test_invalid_arguments():
    with pytest.raises(ValueError, match="4 C"):
        haar_up(torch.zeros(1, 6, 2, 2))
    with pytest.raises(ValueError, match="2 H"):
        haar_down(torch.zeros(1, 4, 3, 2))

"""Perceptual path length, where it has a closed form."""

from __future__ import annotations

import math

import pytest
import torch

from stylegan_toon.metrics import path_distances, path_length
from stylegan_toon.models.latents import slerp


class Linear:
    """A generator in float64 whose picture is ``A w``, and whose mapping changes nothing."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def mapping(self, z, c=None, psi=1.0):
        return psi * z.double()[:, None, :].expand(-1, 4, -1)

    def synthesis(self, ws, noise_mode, dtype):
        assert noise_mode == "const" and dtype == torch.float32
        return (ws[:, 0] @ self.matrix.T).reshape(len(ws), 3, 2, 2)


def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().sum(dim=(1, 2, 3))


@pytest.fixture
def ends() -> torch.Tensor:
    return torch.randn(2, 50, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("t", [torch.zeros(50), torch.linspace(0, 1, 50)], ids=["end", "full"])
def test_path_length_of_a_linear_network_in_w(ends, t):
    """Along a straight line the value is |A (w1 - w0)|^2 at every point."""
    matrix = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double()
    result = path_distances(Linear(matrix), ends, t, None, squared, space="w", psi=0.5)
    truth = (0.5 * (ends.double()[1] - ends.double()[0]) @ matrix.T).square().sum(dim=1)
    torch.testing.assert_close(result, truth, rtol=1e-9, atol=0)


@pytest.mark.parametrize("t", [torch.zeros(50), torch.linspace(0, 1, 50)], ids=["end", "full"])
def test_path_length_of_a_linear_network_in_z(ends, t):
    """Along a great circle of unit radius the speed is the angle between its ends."""
    result = path_distances(Linear(torch.eye(12).double()), ends, t, None, squared, space="z")
    a, b = (x / x.norm(dim=1, keepdim=True) for x in ends.double())
    angle = (a * b).sum(dim=1).acos()
    torch.testing.assert_close(result, angle.square(), rtol=1e-6, atol=0)


def test_path_length_of_a_network_is_the_squared_derivative(tiny_G, ends):
    """The derivative along the path, by automatic differentiation."""
    z, t = ends.repeat(1, 1, 3)[:, :6, :32], torch.linspace(0, 0.9, 6)
    result = path_distances(tiny_G, z, t, None, squared, space="w")
    with torch.no_grad():
        start, end = tiny_G.mapping(z.flatten(0, 1)).chunk(2)
    at = start.lerp(end, t[:, None, None])
    for i in range(6):
        _, moved = torch.autograd.functional.jvp(tiny_G.synthesis, at[i : i + 1], (end - start)[i : i + 1])
        assert float(result[i]) == pytest.approx(float(moved.square().sum()), rel=0.02)


def test_labels_reach_both_ends(ends):
    class Labelled(Linear):
        def mapping(self, z, c=None, psi=1.0):
            return super().mapping(z * c[:, :1])

    c = torch.arange(1.0, 51)[:, None]
    eye = torch.eye(12).double()
    plain = path_distances(Linear(eye), ends, torch.zeros(50), None, squared)
    result = path_distances(Labelled(eye), ends, torch.zeros(50), c, squared)
    torch.testing.assert_close(result, plain * c[:, 0].double().square(), rtol=1e-6, atol=0)


def test_slerp_on_a_quarter_circle():
    a, b = torch.tensor([[2.0, 0]]), torch.tensor([[0, 5.0]])
    thirty = slerp(a, b, torch.tensor([[1 / 3]]))
    torch.testing.assert_close(thirty, torch.tensor([[math.cos(math.pi / 6), 0.5]]))


def test_the_outermost_percent_is_left_out():
    assert path_length(torch.arange(200.0)) == 99.5  # 1 to 198
    assert path_length(torch.cat([torch.tensor([-1e9, 1e9]), torch.full((198,), 7.0)])) == 7

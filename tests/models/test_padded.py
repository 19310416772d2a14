from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stylegan_toon.models.padded import ReflectConv3x3, reflect_conv3x3, zero_conv3x3


def plainly(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
    return F.conv2d(F.pad(x, [1, 1, 1, 1], mode="reflect"), w, b)


@pytest.mark.parametrize("channels", [(16, 32), (5, 3)])  # of the kernel, and not
@pytest.mark.parametrize("bias", [True, False])
def test_equals_padding_and_convolution(channels, bias):
    torch.manual_seed(0)
    x, w = torch.randn(2, channels[0], 15, 22), torch.randn(channels[1], channels[0], 3, 3)
    b = torch.randn(channels[1]) if bias else None
    exact = [x.double(), w.double(), b.double() if bias else None]
    for function, wanted in ((reflect_conv3x3, plainly(*exact)), (zero_conv3x3, F.conv2d(*exact, padding=1))):
        for keep in (False, True):
            torch.testing.assert_close(function(x, w, b, keep=keep).double(), wanted, rtol=1e-4, atol=1e-4)


def test_gradients_equal_those_of_padding_and_convolution():
    torch.manual_seed(1)
    layer = ReflectConv3x3(16, 16)
    x = torch.randn(2, 16, 16, 16, requires_grad=True)
    weigh = torch.randn(2, 16, 16, 16)
    result = torch.autograd.grad((layer(x) * weigh).sum(), [x, layer.weight, layer.bias])
    xd = x.detach().double().requires_grad_()
    parameters = [p.detach().double().requires_grad_() for p in (layer.weight, layer.bias)]
    wanted = torch.autograd.grad((plainly(xd, *parameters) * weigh).sum(), [xd, *parameters])
    for a, b in zip(result, wanted):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)


def test_kept_weights_follow_a_change():
    layer = ReflectConv3x3(16, 16).eval()
    x = torch.randn(1, 16, 32, 32)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x), plainly(x, layer.weight, layer.bias), rtol=1e-4, atol=1e-4)


def test_autocast_is_respected():
    x, w = torch.randn(1, 16, 32, 32), torch.randn(16, 16, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert reflect_conv3x3(x, w).dtype == zero_conv3x3(x, w).dtype == torch.bfloat16

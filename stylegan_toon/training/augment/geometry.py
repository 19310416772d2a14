"""Geometric augmentations: blits as exact permutations, all others resampled without aliasing (ADA, appendix B)."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import setup_filter, upfirdn2d

# Symlet-6 low-pass (12 taps), the wavelet ADA resamples with; coefficients as tabulated for sym6.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
SUPPORT = len(SYM6) // 4  # pixels on either side that the filter covers at twice the resolution


@functools.lru_cache(maxsize=8)
def _filter(device: torch.device) -> Tensor:
    return setup_filter(SYM6, device=device)


def affine(n: int, size: int, entries: dict[tuple[int, int], Tensor]) -> Tensor:
    """Batch of identity matrices ``[n, size, size]``, float64, with the given ``(row, column)`` entries ``[n]``."""
    m = torch.eye(size, dtype=torch.float64).repeat(n, 1, 1)
    for (row, column), value in entries.items():
        m[:, row, column] = value
    return m


def scale(x: Tensor, y: Tensor) -> Tensor:
    return affine(len(x), 3, {(0, 0): x, (1, 1): y})


def rotate(angle: Tensor) -> Tensor:
    s, c = angle.sin(), angle.cos()
    return affine(len(angle), 3, {(0, 0): c, (0, 1): -s, (1, 0): s, (1, 1): c})


def translate(xy: Tensor) -> Tensor:
    """``[n, 2] -> [n, 3, 3]``."""
    return affine(len(xy), 3, {(0, 2): xy[:, 0], (1, 2): xy[:, 1]})


def fold(index: Tensor, size: int) -> Tensor:
    """Reflect integer positions into ``0 .. size - 1``, edges not repeated, as often as it takes."""
    period = max(2 * (size - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def permute(images: Tensor, inverse: Tensor) -> Tensor:
    """Flips, quarter turns and shifts by whole pixels, without resampling; outside, pictures are reflected.

    Args:
        images: ``[N, C, H, W]``; square if there are quarter turns.
        inverse: ``[N, 3, 3]``, output pixel -> input pixel about the centre, of such moves only.
    """
    n, channels, height, width = images.shape
    # Each input coordinate depends on one output coordinate only; with an odd quarter turn on that of the other axis.
    source = []
    for axis, size in enumerate((width, height)):
        position = torch.arange(size, device=images.device) - (size - 1) / 2
        moved = inverse[:, axis, :2].sum(dim=1, keepdim=True) * position + inverse[:, axis, 2:]
        source.append(fold((moved + (size - 1) / 2).round().long(), size))
    x, y = source
    straight, turned = y[:, :, None] * width + x[:, None, :], y[:, None, :] * width + x[:, :, None]
    index = torch.where((inverse[:, 0, 0] == 0)[:, None, None], turned, straight) if height == width else straight
    return images.flatten(2).gather(2, index.view(n, 1, -1).expand(-1, channels, -1)).view_as(images)


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Resample pictures through an affine map without aliasing: double them, sample bilinearly, halve.

    Doubling and halving use the sym6 low-pass (ADA, appendix B). Outside, the pictures are reflected, by the sampler
    rather than by padding, which would enlarge the doubled pictures.

    Args:
        images: ``[N, C, H, W]``, at least 4 px a side.
        inverse: ``[N, 3, 3]``, output pixel -> input pixel, about the centre.

    Returns:
        ``[N, C, H, W]``.
    """
    n, channels, height, width = images.shape
    f = _filter(images.device)
    # Of the doubled picture keep the samples from the first to the last pixel: reflection is about these two.
    images = F.pad(images, [SUPPORT] * 4, mode="reflect")
    images = upfirdn2d(images, f, up=2, padding=[0, 1 - 2 * SUPPORT + 3] * 2, gain=4)
    # theta maps affine_grid's [-1, 1] over the output (doubled, with a margin for the halving filter) to pixels about
    # the centre, then applies the inverse, then maps to grid_sample's [-1, 1] between the first and the last sample.
    # The offset 0.25 is there because the margin is half a doubled sample wider on the left.
    out_h, out_w = (2 * height + len(SYM6) - 2, 2 * width + len(SYM6) - 2)
    before = inverse.new_tensor([[out_w / 4, 0, 0.25], [0, out_h / 4, 0.25], [0, 0, 1]])
    after = inverse.new_tensor([2 / (width - 1), 2 / (height - 1)])[:, None]
    theta = after * (inverse @ before)[:, :2]
    grid = F.affine_grid(theta, [n, channels, out_h, out_w], align_corners=False)
    return upfirdn2d(Sample.apply(images, grid), f, down=2, flip_filter=True)


class Sample(torch.autograd.Function):
    """Bilinear ``grid_sample``, reflecting about the outermost samples, differentiable any number of times.

    ``[N, C, H, W], [N, h, w, 2] -> [N, C, h, w]``. It is linear in the picture, so its gradient is its adjoint and the
    gradient of that is itself again; torch has no second derivative for it. The grid gets no gradient.
    """

    @staticmethod
    def forward(ctx, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=True)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        (grid,) = ctx.saved_tensors
        return _SampleAdjoint.apply(grad, grid, ctx.shape), None


class _SampleAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        like = grad.new_zeros(()).expand(shape)  # only its shape is used
        bilinear, reflection = 0, 2
        backward = torch.ops.aten.grid_sampler_2d_backward
        return backward(grad.contiguous(), like, grid, bilinear, reflection, True, [True, False])[0]

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        (grid,) = ctx.saved_tensors
        return Sample.apply(grad, grid), None, None

"""Adaptive discriminator augmentation: the ``bgc`` pipe (Karras et al. 2020, "Training GANs with limited data").

Pixel blitting, general geometry and colour, each fired with probability ``p`` times its multiplier. All of it is
differentiable twice, because R1 differentiates the discriminator's gradient through the pipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import setup_filter, upfirdn2d

# Symlet-6 low-pass (12 taps), the wavelet ADA resamples with (appendix B.1); coefficients as tabulated for sym6.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263748278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip


class _Sample(torch.autograd.Function):
    """Bilinear ``grid_sample`` (zero padding) that can be differentiated any number of times in the picture.

    It is linear in the picture, so its gradient is its adjoint and the gradient of that is itself again; torch
    has no second derivative for it.
    """

    @staticmethod
    def forward(ctx, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _SampleAdjoint.apply(grad, grid, ctx.shape), None


class _SampleAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        like = grad.new_zeros(shape)
        backward = torch.ops.aten.grid_sampler_2d_backward
        return backward(grad.contiguous(), like, grid, 0, 0, False, [True, False])[0]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(grad, grid), None, None


def _affine(n: int, device: torch.device, *entries: tuple[int, int, Tensor | float], size: int) -> Tensor:
    """Batch of identity matrices ``[n, size, size]`` with the given (row, column, value) entries."""
    m = torch.eye(size, device=device).repeat(n, 1, 1)
    for row, column, value in entries:
        m[:, row, column] = value
    return m


def _scale(x: Tensor, y: Tensor) -> Tensor:
    return _affine(len(x), x.device, (0, 0, x), (1, 1, y), size=3)


def _rotate(angle: Tensor) -> Tensor:
    s, c = angle.sin(), angle.cos()
    return _affine(len(angle), angle.device, (0, 0, c), (0, 1, -s), (1, 0, s), (1, 1, c), size=3)


def _translate(x: Tensor, y: Tensor) -> Tensor:
    return _affine(len(x), x.device, (0, 2, x), (1, 2, y), size=3)


@dataclass
class AugmentPipe:
    """``pipe(images)`` augments ``[N, C, H, W]`` (C of 1 or 3); set ``p`` to choose how often.

    Attributes:
        p: overall probability, 0 to 1. At 0 the pictures pass untouched.
        blit, geometry, color: multipliers of ``p`` for the three groups; 1 each is the published ``bgc``.
    """

    p: float = 0.0
    blit: float = 1.0
    geometry: float = 1.0
    color: float = 1.0

    def __call__(self, images: Tensor) -> Tensor:
        if self.p <= 0:
            return images
        n, channels, height, width = images.shape
        inverse = self._geometry(n, images.device, height, width)
        if inverse is not None:
            images = warp(images, inverse)
        if self.color > 0 and channels in (1, 3):
            images = self._color(images)
        return images

    def _fires(self, n: int, device: torch.device, share: float) -> Tensor:
        return torch.rand(n, device=device) < self.p * share

    def _geometry(self, n: int, device: torch.device, height: int, width: int) -> Tensor | None:
        """Inverse transforms ``[n, 3, 3]`` in pixels (target -> source, both centred), ADA appendix B.2."""
        if self.blit <= 0 and self.geometry <= 0:
            return None
        one = torch.ones(n, device=device)
        g = torch.eye(3, device=device).repeat(n, 1, 1)
        if self.blit > 0:
            flip = torch.where(self._fires(n, device, self.blit) & (torch.rand(n, device=device) < 0.5), -one, one)
            g = g @ _scale(flip, one)
            turns = torch.randint(0, 4, (n,), device=device) * self._fires(n, device, self.blit)
            g = g @ _rotate(turns * (math.pi / 2))
            shift = (torch.rand(n, 2, device=device) * 2 - 1) * 0.125 * self._fires(n, device, self.blit)[:, None]
            g = g @ _translate(-(shift[:, 0] * width).round(), -(shift[:, 1] * height).round())
        if self.geometry > 0:
            s = torch.exp2(torch.randn(n, device=device) * 0.2 * self._fires(n, device, self.geometry))
            g = g @ _scale(1 / s, 1 / s)
            # Two rotations, before and after the stretch; together they fire with probability p.
            rotate = 1 - math.sqrt(max(1 - self.p * self.geometry, 0))
            for stretch in (True, False):
                fires = torch.rand(n, device=device) < rotate
                g = g @ _rotate((torch.rand(n, device=device) * 2 - 1) * math.pi * fires)
                if stretch:
                    s = torch.exp2(torch.randn(n, device=device) * 0.2 * self._fires(n, device, self.geometry))
                    g = g @ _scale(1 / s, s)
            shift = torch.randn(n, 2, device=device) * 0.125 * self._fires(n, device, self.geometry)[:, None]
            g = g @ _translate(-shift[:, 0] * width, -shift[:, 1] * height)
        return g

    def _color(self, images: Tensor) -> Tensor:
        """Brightness, contrast, luma flip, hue and saturation as one 4x4 matrix on RGB, ADA appendix B.3."""
        n, channels, height, width = images.shape
        device = images.device
        fires = lambda: self._fires(n, device, self.color)  # noqa: E731
        b = torch.randn(n, device=device) * 0.2 * fires()
        m = _affine(n, device, (0, 3, b), (1, 3, b), (2, 3, b), size=4)
        c = torch.exp2(torch.randn(n, device=device) * 0.5 * fires())
        m = _affine(n, device, (0, 0, c), (1, 1, c), (2, 2, c), size=4) @ m
        axis = torch.tensor([1.0, 1.0, 1.0, 0.0], device=device) / math.sqrt(3)
        along = torch.outer(axis, axis)
        eye = torch.eye(4, device=device)
        flip = (torch.randint(0, 2, (n,), device=device) * fires())[:, None, None]
        m = (eye - 2 * along * flip) @ m
        if channels == 3:
            angle = (torch.rand(n, device=device) * 2 - 1) * math.pi * fires()
            m = _rotate_about_grey(angle) @ m
            s = torch.exp2(torch.randn(n, device=device) * fires())[:, None, None]
            m = (along + (eye - along) * s) @ m
            flat = images.reshape(n, 3, height * width)
            images = (m[:, :3, :3] @ flat + m[:, :3, 3:]).reshape(n, 3, height, width)
        else:
            row = m[:, :3].mean(dim=1)
            images = images * row[:, :3].sum(dim=1)[:, None, None, None] + row[:, 3][:, None, None, None]
        return images


def _rotate_about_grey(angle: Tensor) -> Tensor:
    """Rotation of RGB about the grey axis (Rodrigues), ``[n] -> [n, 4, 4]``: a turn of the hue."""
    u = 1 / math.sqrt(3)
    cross = torch.tensor([[0, -u, u, 0], [u, 0, -u, 0], [-u, u, 0, 0], [0, 0, 0, 0]], device=angle.device)
    along = torch.full((4, 4), u * u, device=angle.device)
    along[3], along[:, 3] = 0, 0
    eye = torch.eye(4, device=angle.device)
    rgb = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], device=angle.device))
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return eye - rgb + rgb * c + along * (1 - c) + cross * s


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Resample pictures through an affine map without aliasing (ADA appendix B.2).

    The pictures are padded by reflection, doubled in size with the sym6 low-pass, sampled bilinearly and halved.

    Args:
        images: ``[N, C, H, W]``.
        inverse: ``[N, 3, 3]``, output pixel -> input pixel, about the centre.

    Returns:
        ``[N, C, H, W]``.
    """
    n, channels, height, width = images.shape
    f = setup_filter(SYM6, device=images.device)
    quarter = len(SYM6) // 4
    # How far do the corners reach outside the picture? Pad by that, as far as reflection can (size - 1).
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = torch.tensor([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]], device=images.device)
    reach = inverse @ corners.t()  # [N, 3, 4]
    far = reach[:, :2].abs().amax(dim=(0, 2)).tolist()
    pad_x = min(max(math.ceil(far[0] - x) + quarter * 2, 0), width - 1)
    pad_y = min(max(math.ceil(far[1] - y) + quarter * 2, 0), height - 1)
    images = F.pad(images, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    before, after = (len(f) + 1) // 2, (len(f) - 2) // 2
    images = upfirdn2d(images, f, up=2, padding=[before, after, before, after], gain=4)
    # theta maps affine_grid's [-1, 1] over the output to grid_sample's [-1, 1] over the doubled, padded picture;
    # a quarter of a doubled size is half of it in original pixels, the unit of ``inverse``. sym6 is not symmetric:
    # it moves what it doubles by half a sample, a quarter of an original pixel, and the halving moves it back, so the
    # map between the two turns about the moved centre. The output keeps a margin for the halving filter to eat.
    tall, wide = images.shape[2:]
    out_h, out_w = (height + 2 * quarter) * 2, (width + 2 * quarter) * 2
    diagonal = lambda a, b: torch.diag(torch.tensor([a, b, 1.0], device=images.device))  # noqa: E731
    shift = torch.tensor([[1, 0, 0.25], [0, 1, 0.25], [0, 0, 1.0]], device=images.device)
    moved = shift.inverse() @ inverse @ shift
    theta = diagonal(4 / wide, 4 / tall) @ moved @ diagonal(out_w / 4, out_h / 4)
    grid = F.affine_grid(theta[:, :2], [n, channels, out_h, out_w], align_corners=False)
    images = _Sample.apply(images, grid)
    before, after = (len(f) - 1) // 2 - 2 * quarter, (len(f) - 2) // 2 - 2 * quarter
    return upfirdn2d(images, f, down=2, padding=[before, after, before, after], flip_filter=True)


class AdaController(nn.Module):
    """Raises or lowers ``p`` so that the mean sign of the scores of real pictures stays at ``target`` (ADA, eq. 1)."""

    def __init__(self, pipe: AugmentPipe, *, target: float = 0.6, kimg: float = 500, interval: int = 4) -> None:
        super().__init__()
        self.pipe, self.target, self.kimg, self.interval = pipe, target, kimg, interval
        self.register_buffer("sum", torch.zeros([]))
        self.register_buffer("count", torch.zeros([]))

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        """Note the scores ``[N, 1]`` of a batch of real pictures."""
        self.sum += real_logits.sign().sum()
        self.count += real_logits.numel()

    def step(self, batch: int) -> float:
        """Move ``p`` by what ``interval`` batches of ``batch`` pictures allow; returns the mean sign seen."""
        sign = float(self.sum / self.count.clamp(min=1))
        change = math.copysign(batch * self.interval / (self.kimg * 1000), sign - self.target)
        self.pipe.p = min(max(self.pipe.p + change, 0.0), 1.0)
        self.sum.zero_()
        self.count.zero_()
        return sign

"""Blurs, edge-preserving filters and changes of size.

Arrays are float32, ``[H, W]`` or ``[H, W, C]``; lengths are in pixels. All functions are deterministic.
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

Scalar = float | np.floating


@overload
def smoothstep(x: Scalar, low: Scalar, high: Scalar) -> np.floating: ...


@overload
def smoothstep(x: np.ndarray, low: Scalar | np.ndarray, high: Scalar | np.ndarray) -> np.ndarray: ...


def smoothstep(x: Scalar | np.ndarray, low: Scalar | np.ndarray, high: Scalar | np.ndarray) -> np.floating | np.ndarray:
    """The cubic ramp 3 t^2 - 2 t^3 with t = (x - low) / (high - low): 0 at and below ``low``, 1 from ``high`` on.

    Numbers and arrays of any shape; ``low`` and ``high`` are broadcast against ``x``.
    """
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def soft_levels(x: np.ndarray, levels: int, sharpness: float) -> np.ndarray:
    """A staircase of ``levels`` steps per unit with rounded edges (after Winnemoeller et al. 2006)."""
    scaled = x * levels
    whole = np.floor(scaled)
    step = np.tanh((scaled - whole - 0.5) * 2 * sharpness) / math.tanh(sharpness)
    return (whole + 0.5 + 0.5 * step) / levels


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of ``[H, W]`` or ``[H, W, C]`` along the two spatial axes; same shape."""
    return ndimage.gaussian_filter(x, (sigma, sigma, 0)[: x.ndim], truncate=3.0, mode="nearest")


def derivative(x: np.ndarray, sigma: float, axis: int) -> np.ndarray:
    """Derivative of the Gaussian blur of ``[H, W]`` along ``axis`` (0 = down, 1 = right), per pixel."""
    for each in range(x.ndim):
        x = ndimage.gaussian_filter1d(x, sigma, axis=each, order=int(each == axis))
    return x


def resized(x: np.ndarray, side: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """A square field ``[n, n]`` or ``[n, n, C]`` at ``side`` pixels."""
    if x.shape[0] == side:
        return x
    if x.ndim == 3:
        return np.stack([resized(x[..., c], side, resampling) for c in range(x.shape[2])], -1)
    return np.asarray(Image.fromarray(np.ascontiguousarray(x, np.float32)).resize((side, side), resampling))


def spread(x: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian average weighted by ``weight``, on a coarse grid; it also fills large areas that have no weight.

    On the grid ``sigma`` is 3 pixels: a finer one would not change the result visibly.
    """
    side = x.shape[0]
    small = min(side, max(16, round(3 * side / sigma)))
    sigma = sigma * small / side
    if x.ndim == 3:
        weight = weight[..., None]
    both = np.concatenate([x * weight, weight], -1) if x.ndim == 3 else np.stack([x * weight, weight], -1)
    both = resized(both, small, Image.Resampling.BOX)
    mean = both[..., :-1].sum((0, 1)) / (both[..., -1].sum() + 1e-6)
    # Where the weight is low nearby, a wider blur is used, and where it is low there too, the mean.
    wide = blur(both, 6 * sigma)
    far = (wide[..., :-1] + 1e-3 * mean) / (wide[..., -1:] + 1e-3)
    near = blur(both, sigma)
    filled = (near[..., :-1] + 0.02 * far) / (near[..., -1:] + 0.02)
    return resized(filled if x.ndim == 3 else filled[..., 0], side)


def mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``a`` where ``weight`` is 0, ``b`` where it is 1; ``[H, W, C]``, with a weight ``[H, W]``."""
    return a + weight[..., None].astype(a.dtype, copy=False) * (b - a)


def guided_filter(guide: np.ndarray, x: np.ndarray, radius: float, eps: float, step: int = 1) -> np.ndarray:
    """Smooth ``x`` except across edges of the grey ``guide`` (He, Sun and Tang 2010).

    ``eps`` is the variance of the guide below which a window counts as flat. With ``step`` 2 the coefficients are
    computed at half the size (He and Sun 2015), which costs a quarter; pictures have to be square then.
    """
    if step > 1:
        side = len(guide)
        small_guide, small_x = (resized(a, side // step, Image.Resampling.BOX) for a in (guide, x))
        slope, offset = _linear(small_guide, small_x, radius / step, eps)
        slope, offset = (resized(a, side, Image.Resampling.BILINEAR) for a in (slope, offset))
    else:
        slope, offset = _linear(guide, x, radius, eps)
    return slope * (guide[..., None] if x.ndim == 3 else guide) + offset


def _linear(guide: np.ndarray, x: np.ndarray, radius: float, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset of ``x`` as a linear function of ``guide`` around every pixel, each of the shape of ``x``."""

    def mean(a: np.ndarray) -> np.ndarray:
        side = 2 * max(1, round(radius)) + 1
        across = ndimage.uniform_filter1d(a, side, axis=0, mode="nearest")
        return ndimage.uniform_filter1d(across, side, axis=1, mode="nearest")

    mean_guide = mean(guide)
    variance = mean(guide * guide) - mean_guide**2
    if x.ndim == 3:
        guide, mean_guide, variance = guide[..., None], mean_guide[..., None], variance[..., None]
    mean_x = mean(x)
    slope = (mean(guide * x) - mean_guide * mean_x) / (variance + eps)
    return mean(slope), mean(mean_x - slope * mean_guide)


def reduce(x: np.ndarray, side: int) -> np.ndarray:
    """`resized` by box average, ``[n, n]`` or ``[n, n, c]`` to ``side`` pixels; faster where that divides n."""
    n = x.shape[0]
    if n % side:
        return resized(x, side, Image.Resampling.BOX)
    planes = np.array(np.atleast_3d(x).transpose(2, 0, 1), np.float32, order="C")
    small = torch.nn.functional.avg_pool2d(torch.from_numpy(planes)[None], n // side)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy().reshape(side, side, *x.shape[2:]))


def weighted_blur(x: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian average weighted by ``weight`` (normalised convolution; Knutsson and Westin, CVPR 1993).

    At full resolution, and without the wider blurs by which `spread` fills large gaps.
    """
    if x.ndim == 3:
        weight = weight[..., None]
    return fast_blur(x * weight, sigma) / (np.maximum(fast_blur(weight, sigma), 0) + 1e-5)


def fast_blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """`blur`, for a ``sigma`` of 4 px and more computed on a grid of half or a quarter of the side."""
    n = x.shape[0]
    if sigma < 4 or n % 2:
        return blur(x, sigma)
    m = n // 4 if sigma >= 8 and n % 4 == 0 else n // 2
    small = blur(reduce(x, m), sigma * m / n)
    return enlarge(small, n)


def fast_guided_filter(guide: np.ndarray, x: np.ndarray, radius: float, eps: float) -> np.ndarray:
    """`guided_filter` with its coefficients on as coarse a grid as the radius allows."""
    n = guide.shape[0]
    step = 1 if n % 2 or radius < 2 else 4 if radius >= 5 and n % 4 == 0 else 2
    return guided_filter(guide, x, radius, eps, step)


def enlarge(field: np.ndarray, n: int) -> np.ndarray:
    """`resized` of ``[m, m]`` or ``[m, m, c]``; by 2 and 4 bilinear, which is faster and does not overshoot."""
    times = n // field.shape[0]
    if n in (2 * field.shape[0], 4 * field.shape[0]):
        planes = np.array(np.atleast_3d(field).transpose(2, 0, 1), np.float32, order="C")
        large = torch.nn.functional.interpolate(torch.from_numpy(planes)[None], scale_factor=times, mode="bilinear")
        return large[0].permute(1, 2, 0).numpy().reshape(n, n, *field.shape[2:])
    return resized(field, n)

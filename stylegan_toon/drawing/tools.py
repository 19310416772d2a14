"""The draughtsman's tools: a colour space, edge-preserving smoothing, the flow of a picture, its regions.

Arrays are float32, ``[H, W]`` or ``[H, W, C]``; lengths are in pixels. Everything here is deterministic.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from scipy import ndimage

# Oklab (B. Ottosson, "A perceptual color space for image processing", 2020): lightness in [0, 1], and two
# colour axes (green-red, blue-yellow) of about [-0.4, 0.4], in which equal steps look equal.
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FROM_LMS = np.linalg.inv(_TO_LMS).astype(np.float32)
_FROM_LAB = np.linalg.inv(_TO_LAB).astype(np.float32)
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_oklab(rgb: np.ndarray) -> np.ndarray:
    """uint8 sRGB ``[H, W, 3]`` -> Oklab."""
    return np.cbrt(_LINEAR[rgb] @ _TO_LMS.T.astype(np.float32)) @ _TO_LAB.T.astype(np.float32)


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """Oklab ``[H, W, 3]`` -> uint8 sRGB; colours beyond sRGB are clipped."""
    linear = np.clip((lab @ _FROM_LAB.T) ** 3 @ _FROM_LMS.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


def smoothstep(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, a smooth ramp between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def soft_levels(x: np.ndarray, levels: int, sharpness: float) -> np.ndarray:
    """A staircase of ``levels`` steps per unit with rounded edges (after Winnemoeller et al. 2006)."""
    scaled = x * levels
    whole = np.floor(scaled)
    step = np.tanh((scaled - whole - 0.5) * 2 * sharpness) / math.tanh(sharpness)
    return (whole + 0.5 + 0.5 * step) / levels


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of the two spatial axes."""
    return ndimage.gaussian_filter(x, (sigma, sigma, 0)[: x.ndim], truncate=3.0, mode="nearest")


def resized(x: np.ndarray, side: int, how: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """A square field ``[n, n]`` or ``[n, n, C]`` at another size."""
    if x.shape[0] == side:
        return x
    if x.ndim == 3:
        return np.stack([resized(x[..., c], side, how) for c in range(x.shape[2])], -1)
    return np.asarray(Image.fromarray(np.ascontiguousarray(x, np.float32)).resize((side, side), how))


def broad(x: np.ndarray, sigma: float) -> np.ndarray:
    """`blur` for large ``sigma``: done on a smaller grid, where it costs little."""
    side = x.shape[0]
    small = min(side, max(16, round(3 * side / sigma)))
    return resized(blur(resized(x, small, Image.Resampling.BOX), sigma * small / side), side)


def spread(x: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Blur of what lies where ``weight`` is, which also fills the places where it is not."""
    near, far = (broad(weight, s) for s in (sigma, 6 * sigma))
    # Far from everything that counts, a wider blur takes over, and at last the mean.
    mean = (x * (weight[..., None] if x.ndim == 3 else weight)).sum((0, 1)) / (weight.sum() + 1e-6)
    if x.ndim == 3:
        weight, near, far = weight[..., None], near[..., None], far[..., None]
    wide = (broad(x * weight, 6 * sigma) + 1e-3 * mean) / (far.clip(0) + 1e-3)
    return (broad(x * weight, sigma) + 0.02 * wide) / (near.clip(0) + 0.02)


def mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``a`` where ``weight`` is 0, ``b`` where it is 1; ``[H, W, C]`` and ``[H, W]``."""
    return a + weight[..., None].astype(a.dtype, copy=False) * (b - a)


def guided_filter(guide: np.ndarray, x: np.ndarray, radius: float, eps: float) -> np.ndarray:
    """Smooth ``x`` except across edges of the grey ``guide`` (He, Sun and Tang 2010).

    ``eps`` is the variance of the guide below which a window counts as flat.
    """

    def mean(a: np.ndarray) -> np.ndarray:
        side = 2 * max(1, round(radius)) + 1
        return ndimage.uniform_filter(a, (side, side, 1)[: a.ndim], mode="nearest")

    mean_guide = mean(guide)
    variance = mean(guide * guide) - mean_guide**2
    if x.ndim == 3:
        guide, mean_guide, variance = guide[..., None], mean_guide[..., None], variance[..., None]
    mean_x = mean(x)
    slope = (mean(guide * x) - mean_guide * mean_x) / (variance + eps)
    return mean(slope) * guide + mean(mean_x - slope * mean_guide)


class Flow:
    """Streamlines along the edges of a picture: what is averaged along them becomes strokes.

    The direction is the minor eigenvector of the smoothed structure tensor (Kyprianidis and Doellner 2008);
    gradients are compressed, so that one strong edge does not rule its surroundings.

    Args:
        grey: ``[H, W]``.
        scale: length unit in pixels; one step of a streamline.
        steps: steps to either side.
    """

    def __init__(self, grey: np.ndarray, scale: float, steps: int = 5) -> None:
        gx = ndimage.gaussian_filter(grey, 0.9 * scale, order=(0, 1))
        gy = ndimage.gaussian_filter(grey, 0.9 * scale, order=(1, 0))
        weight = 1 / np.sqrt(np.hypot(gx, gy) + 1e-6)
        xx, xy, yy = (blur(g * weight, 2.2 * scale) for g in (gx * gx, gx * gy, gy * gy))
        across = 0.5 * np.arctan2(2 * xy, xx - yy)
        tangent = np.stack([-np.sin(across).ravel(), np.cos(across).ravel()], 1).astype(np.float32)
        self._stops = [self._trace(tangent, grey.shape, scale * sign, steps) for sign in (1, -1)]

    @staticmethod
    def _trace(tangent: np.ndarray, shape: tuple[int, int], step: float, steps: int) -> list[np.ndarray]:
        """Indices of the pixels met after 1 … ``steps`` steps, for a streamline from every pixel."""
        height, width = shape
        y, x = (a.ravel().astype(np.float32) for a in np.mgrid[:height, :width])
        direction = tangent
        stops = []
        for _ in range(steps):
            x = np.clip(x + np.float32(step) * direction[:, 0], 0, width - 1)
            y = np.clip(y + np.float32(step) * direction[:, 1], 0, height - 1)
            stops.append((y + 0.5).astype(np.int32) * width + (x + 0.5).astype(np.int32))
            here = tangent[stops[-1]]
            # A tangent has no sign of its own: keep walking forwards.
            along = here[:, 0] * direction[:, 0] + here[:, 1] * direction[:, 1]
            direction = here * np.where(along < 0, np.float32(-1), np.float32(1))[:, None]
        return stops

    def smooth(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Gaussian average along the streamlines; ``sigma`` in steps."""
        flat = x.reshape(-1, *x.shape[2:])
        total, norm = flat.copy(), 1.0
        for stops in self._stops:
            for k, index in enumerate(stops, start=1):
                weight = np.float32(np.exp(-((k / sigma) ** 2) / 2))
                total += weight * flat[index]
                norm += weight
        return (total / np.float32(norm)).reshape(x.shape)


def segment(lab: np.ndarray, prior: np.ndarray, rounds: int = 8) -> np.ndarray:
    """What belongs to which of K kinds, as probabilities ``[n, n, K]``, without any trained network.

    Colour histograms of the kinds, started from ``prior``, and smooth fields that only bend at edges
    (random-walker segmentation with unary terms; Grady 2006) are fitted in turns.

    Args:
        lab: a small Oklab picture ``[n, n, 3]``; 64 to 96 px are enough.
        prior: probability of each kind by position ``[n, n, K]``; 0 and 1 are certain.
    """
    kinds = prior.shape[2]
    bins = 16
    cells = np.rint((lab - lab.mean((0, 1))) / (0.045, 0.016, 0.016) + bins / 2).clip(0, bins - 1).astype(int)
    cell = (cells * (bins * bins, bins, 1)).sum(-1)

    def likelihood(weight: np.ndarray) -> np.ndarray:
        counts = np.bincount(cell.ravel(), weight.ravel(), bins**3).reshape(bins, bins, bins)
        smooth = ndimage.gaussian_filter(counts, 0.8) + 1e-3
        return (smooth / smooth.sum()).ravel()[cell]

    def link(difference: np.ndarray) -> np.ndarray:
        return (3 * np.exp(-((difference * (1, 2.5, 2.5)) ** 2).sum(-1) / 0.0045) + 0.02).astype(np.float32)[..., None]

    right, down = link(np.diff(lab, axis=1)), link(np.diff(lab, axis=0))
    degree = np.zeros((*prior.shape[:2], 1), np.float32)
    degree[:, 1:] += right
    degree[:, :-1] += right
    degree[1:] += down
    degree[:-1] += down
    found = prior
    for turn in range(rounds):
        evidence = np.log(np.stack([likelihood(found[..., k] ** 2) for k in range(kinds)], -1))
        evidence = np.clip(evidence - evidence.max(-1, keepdims=True), -5, 0)
        belief = prior * np.exp(1.1 * evidence)
        belief = (belief / belief.sum(-1, keepdims=True)).astype(np.float32)
        if turn < rounds - 2:  # the histograms have to become pure before it is worth walking
            found = ndimage.gaussian_filter(belief, (1, 1, 0))
            continue
        top = np.sort(belief, axis=-1)
        trust = 0.6 * (top[..., -1:] - top[..., -2:-1]) + 0.02
        found = np.clip(_walk(belief, trust, right, down, degree), 1e-4, 1)
        found = found / found.sum(-1, keepdims=True)
    return found.astype(np.float32)


def _walk(
    belief: np.ndarray, trust: np.ndarray, right: np.ndarray, down: np.ndarray, degree: np.ndarray, steps: int = 30
) -> np.ndarray:
    """Fields ``[n, n, K]`` near ``belief`` and alike where links are strong: conjugate gradients, all K at once."""

    def apply(v: np.ndarray) -> np.ndarray:
        out = trust * v
        pull = right * np.diff(v, axis=1)
        out[:, 1:] += pull
        out[:, :-1] -= pull
        pull = down * np.diff(v, axis=0)
        out[1:] += pull
        out[:-1] -= pull
        return out

    scale = 1 / (trust + degree)
    v = belief.copy()
    r = trust * belief - apply(v)
    z = scale * r
    p, rz = z, (r * z).sum((0, 1))
    for _ in range(steps):
        q = apply(p)
        alpha = rz / ((p * q).sum((0, 1)) + 1e-20)
        v += alpha * p
        r -= alpha * q
        z = scale * r
        rz, before = (r * z).sum((0, 1)), rz
        p = z + rz / (before + 1e-20) * p
    return v

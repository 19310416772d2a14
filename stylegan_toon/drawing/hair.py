"""Hair, clothes and hats for the animated style: smooth volumes of strands.

Colours are Oklab.
"""

from __future__ import annotations

import numpy as np

from .colour import edge_guide
from .filters import blur, derivative, fast_guided_filter, reduce, weighted_blur
from .pen import UNIT

STEP, STEPS = 1.3, 6  # length of a step along a strand in 1/256 of the side, steps to either side


def render_strands(lab: np.ndarray, hair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average a picture along its strands, and increase the contrast of strands and of the volumes they form.

    Args:
        lab: ``[n, n, 3]``.
        hair: where strands are drawn, ``[n, n]`` in [0, 1]; elsewhere the picture is only smoothed.

    Returns:
        The strands, and a version without strands, each ``[n, n, 3]``.
    """
    n = lab.shape[0]
    s = n / UNIT
    denoised = fast_guided_filter(edge_guide(lab), lab, 2 * s, 6e-4)
    at = np.flatnonzero(hair > 0.02)
    stops = _trace(denoised[..., 0], at, s)
    strands = _along(denoised, at, stops, 5)
    # Weighted by hair, since skin beside it would leave a bright seam.
    volume = weighted_blur(strands, hair + 0.003, 2.2 * s)
    strands = _along(strands + 0.9 * (strands - volume), at, stops, 3)
    strands[..., 0] += 0.25 * (volume[..., 0] - weighted_blur(volume[..., 0], hair + 0.003, 7 * s))
    strands[..., 1:] *= 1.12
    return strands, volume


def _trace(grey: np.ndarray, at: np.ndarray, s: float) -> list[tuple[int, np.ndarray]]:
    """(distance in steps, indices of pixels) met on the way from the pixels ``at`` along the edges of ``grey``.

    As in `flow.Flow`, but from some pixels only, and with directions on a grid of half the size.
    """
    n = grey.shape[0]
    m = n // 2
    small = reduce(grey, m)
    scale = STEP * s * m / n
    gx = derivative(small, 0.9 * scale, axis=1)
    gy = derivative(small, 0.9 * scale, axis=0)
    weight = 1 / np.sqrt(np.hypot(gx, gy) + 1e-6)
    xx, xy, yy = (blur(g * weight, 2.2 * scale) for g in (gx * gx, gx * gy, gy * gy))
    across = 0.5 * np.arctan2(2 * xy, xx - yy)
    tangent_x, tangent_y = (-np.sin(across)).ravel(), np.cos(across).ravel()
    start_y, start_x = (a.astype(np.float32) + 0.5 for a in np.divmod(at, n))
    stops = []

    def cell(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (y * np.float32(m / n)).astype(np.int32) * m + (x * np.float32(m / n)).astype(np.int32)

    start = cell(start_x, start_y)
    for sign in (1, -1):
        x, y = start_x, start_y
        dx, dy = sign * tangent_x[start], sign * tangent_y[start]
        for step in range(1, STEPS + 1):
            x = np.clip(x + np.float32(STEP * s) * dx, 0, n - 1)
            y = np.clip(y + np.float32(STEP * s) * dy, 0, n - 1)
            stops.append((step, y.astype(np.int32) * n + x.astype(np.int32)))
            here = cell(x, y)
            here_x, here_y = tangent_x[here], tangent_y[here]
            # The sign of a tangent is arbitrary: choose the one that continues forwards.
            forwards = np.where(here_x * dx + here_y * dy < 0, np.float32(-1), np.float32(1))
            dx, dy = here_x * forwards, here_y * forwards
    return stops


def _along(x: np.ndarray, at: np.ndarray, stops: list[tuple[int, np.ndarray]], sigma: float) -> np.ndarray:
    """Gaussian average of ``[n, n, 3]`` along the streamlines from the pixels ``at``; ``sigma`` in steps."""
    out = x.copy()
    for channel in range(x.shape[2]):
        flat = np.ascontiguousarray(x[..., channel]).ravel()
        total, norm = flat[at], 1.0
        for step, index in stops:
            weight = np.float32(np.exp(-((step / sigma) ** 2) / 2))
            total += weight * flat[index]
            norm += weight
        out.reshape(-1, x.shape[2])[at, channel] = total / np.float32(norm)
    return out

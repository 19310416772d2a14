"""The direction of edges and strands in a picture, and averages along it."""

from __future__ import annotations

import numpy as np

from .filters import blur, derivative


class Flow:
    """Streamlines along the edges of a picture; averaging along them gives strokes.

    The direction is the minor eigenvector of the smoothed structure tensor (Kyprianidis and Doellner 2008);
    gradients are compressed, so that one strong edge does not dominate its surroundings.

    Args:
        grey: ``[H, W]``.
        scale: length unit in pixels; one step of a streamline.
        steps: steps to either side.
    """

    def __init__(self, grey: np.ndarray, scale: float, steps: int = 5) -> None:
        gx = derivative(grey, 0.9 * scale, axis=1)
        gy = derivative(grey, 0.9 * scale, axis=0)
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
            # The sign of a tangent is arbitrary: choose the one that continues forwards.
            along = here[:, 0] * direction[:, 0] + here[:, 1] * direction[:, 1]
            direction = here * np.where(along < 0, np.float32(-1), np.float32(1))[:, None]
        return stops

    def smooth(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Gaussian average of ``[H, W]`` or ``[H, W, C]`` along the streamlines; ``sigma`` in steps."""
        flat = x.reshape(-1, *x.shape[2:])
        total, norm = flat.copy(), 1.0
        for stops in self._stops:
            for k, index in enumerate(stops, start=1):
                weight = np.float32(np.exp(-((k / sigma) ** 2) / 2))
                total += weight * flat[index]
                norm += weight
        return (total / np.float32(norm)).reshape(x.shape)

"""Oklab, the colour space of the drawings."""

from __future__ import annotations

import numpy as np

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
    """uint8 sRGB ``[H, W, 3]`` -> float32 Oklab ``[H, W, 3]``."""
    return np.cbrt(_LINEAR[rgb] @ _TO_LMS.T.astype(np.float32)) @ _TO_LAB.T.astype(np.float32)


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """Oklab ``[H, W, 3]`` -> uint8 sRGB ``[H, W, 3]``; colours beyond sRGB are clipped."""
    linear = np.clip((lab @ _FROM_LAB.T) ** 3 @ _FROM_LMS.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


def edge_guide(lab: np.ndarray) -> np.ndarray:
    """The guide of `guided_filter`, ``[H, W]``: L + a + b of Oklab ``[H, W, 3]``.

    Warm skin differs in it from a background of the same lightness, so their colours do not mix.
    """
    return lab[..., 0] + lab[..., 1] + lab[..., 2]

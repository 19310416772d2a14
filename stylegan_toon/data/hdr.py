"""Frames with high dynamic range or wide colours become 8-bit BT.709.

The signal is made linear (PQ: SMPTE ST 2084; HLG: ARIB STD-B67, for a display of 1000 cd/m2), with diffuse white at 203
cd/m2 (ITU-R BT.2408). Up to three quarters of white nothing changes; brighter values are compressed smoothly, by one
factor for the three colours so that hues stay. BT.2020 primaries are then taken to BT.709, and what lies outside is
clipped.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

PQ, HLG = 16, 18  # FFmpeg's numbers of transfer functions
BT2020 = 9  # and of primaries
WHITE = 203.0  # cd/m2
KNEE = 0.75  # of white
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # BT.2087, M2
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)


def is_wide(frame: Any) -> bool:
    """Whether a frame of PyAV is HDR, or has the primaries of BT.2020."""
    return int(frame.color_trc) in (PQ, HLG) or int(frame.color_primaries) == BT2020


def to_sdr(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """uint16 RGB ``[H, W, 3]`` with BT.2020 primaries -> uint8 RGB in BT.709.

    Args:
        transfer: PQ, HLG, or any other number for ordinary video (gamma 2.4).
    """
    out = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), 128):  # in bands, to save memory
        light = _linear(transfer)[pixels[top : top + 128] >> 4]
        if transfer == HLG:  # the display makes bright scenes brighter: gamma 1.2 of the luminance
            light = light * np.maximum(light @ _LUMA_2020, 1e-6)[..., None] ** 0.2 * (1000 / WHITE)
        peak = light.max(-1)
        over = np.maximum(peak - KNEE, 0) / (1 - KNEE)
        shown = np.minimum(peak, KNEE) + (1 - KNEE) * over / (1 + over)
        light = light * (shown / np.maximum(peak, 1e-6))[..., None] @ _TO_709.T
        out[top : top + 128] = np.rint(255 * light.clip(0, 1) ** np.float32(1 / 2.4))
    return out


@lru_cache(maxsize=3)
def _linear(transfer: int) -> np.ndarray:
    """Light for each of 4096 signals: in units of white, for HLG 0 to 1 in the scene."""
    signal = np.arange(4096) / 4095
    if transfer == PQ:
        root = signal ** (1 / 78.84375)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        light = 10_000 * light / WHITE
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal**2.4
    return light.astype(np.float32)

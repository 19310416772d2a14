"""A Display P3 profile, and its colours in sRGB by the formulas: what conversions are compared with."""

from __future__ import annotations

import struct

import numpy as np

# XYZ of the primaries as profiles hold them, adapted to D50 (Display P3: SMPTE EG 432-1 with white D65).
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def profile(primaries=P3) -> bytes:
    """An ICC profile (version 4.3) of these primaries with the curve of sRGB, written by hand from the standard."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    text = "made for a test".encode("utf-16-be")
    words = b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(text), 28) + text
    curve = b"para" + struct.pack(">IHH", 0, 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    white = (0.9642, 1.0, 0.82491)
    tags = {b"desc": words, b"cprt": words, b"wtpt": b"XYZ \0\0\0\0" + fixed(*white)}
    for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries):
        tags[name] = b"XYZ \0\0\0\0" + fixed(*xyz)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body + b"\0" * (-len(body) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"\0\0\0\0", 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(*white)
    return header + b"\0" * (128 - len(header)) + table + data


def as_srgb(levels: np.ndarray) -> np.ndarray:
    """Levels in Display P3 as levels in sRGB, by the formulas; clipped to what sRGB has."""
    return _curved(_linear(levels) @ np.array(P3) @ np.linalg.inv(np.array(SRGB)))


def as_p3(levels: np.ndarray) -> np.ndarray:
    """The inverse of `as_srgb`."""
    return _curved(_linear(levels) @ np.array(SRGB) @ np.linalg.inv(np.array(P3)))


def _linear(levels: np.ndarray) -> np.ndarray:
    c = levels / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _curved(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)

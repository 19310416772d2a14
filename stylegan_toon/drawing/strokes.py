"""The strokes of lids, brows, nose and lips, as curves of varying width; shared by the comic and the ink style."""

from __future__ import annotations

import numpy as np

from ..faces import mesh as M
from .face import Eye, Face
from .filters import blur, resized, smoothstep, spread
from .pen import Pen, curve, grown, taper
from .segmentation import SCALE, WORK


def drawn_area(face: Face) -> np.ndarray:
    """Where `features` draws, so that no lines of the photo run beside them, ``[WORK, WORK]`` in [0, 1]."""
    pen = Pen(WORK, 2)
    for eye in face.eyes:
        if eye.open > 0.3:
            pen.shape(grown(eye.opening, 2.0))
        pen.shape(grown(eye.brow, 1.0))
    pen.shape(grown(face.lips[0], 3.0))
    pen.stroke(face.line(M.NOSE_BASE), 8)
    for wing in (M.NOSE_LEFT_WING, M.NOSE_RIGHT_WING):
        pen.stroke(face.line(wing), 5)
    return blur(pen.ink(), SCALE) * face.confidence * (1 - 0.8 * face.glasses)


def creases(face: Face) -> np.ndarray:
    """Where lines across skin are allowed: along the jaw and under the tip of the nose, ``[WORK, WORK]`` in [0, 1]."""
    pen = Pen(WORK, 2)
    pen.stroke(face.line(M.JAW, 48), 12)
    pen.stroke(face.line((4, 2)), 10)
    return np.clip(blur(pen.ink(), 2 * SCALE), 0, 1) * face.confidence


def lenses(face: Face) -> np.ndarray:
    """The area of the lenses of spectacles, ``[WORK, WORK]`` in [0, 1]; 0 everywhere if there are none."""
    down = (face.points[152] - face.points[168]) / 12
    pen = Pen(WORK, 2)
    pen.stroke(face.line((127, 33, 133, 168, 362, 263, 356)) + 0.35 * down, 1.6 * float(np.hypot(*down)) + 24)
    return blur(pen.ink(), 3 * SCALE) * face.glasses


def features(face: Face, sheet: int) -> np.ndarray:
    """Ink of the features, ``[sheet, sheet]`` in [0, 1]."""
    if face.confidence == 0:
        return np.zeros((sheet, sheet), np.float32)
    pen = Pen(sheet)
    for eye in face.eyes:
        _lids(pen, face, eye)
    _nose(pen, face)
    _lips(pen, face)
    ink = pen.ink() * face.confidence
    return np.maximum(ink, brows(face, sheet) * 0.85)


def brows(face: Face, sheet: int) -> np.ndarray:
    """Ink of the brows, ``[sheet, sheet]`` in [0, 1]: pixels darker than the skin around them, with a clean edge."""
    light = face.lab[..., 0]
    pen = Pen(WORK, 2)
    for eye in face.eyes:
        pen.shape(grown(eye.brow, 2.0))
    window = blur(pen.ink(), 1.0 * SCALE)
    weight = face.regions.skin * (1 - face.features) + 1e-4
    around = spread(light, weight, 8 * SCALE)
    darker = blur(np.clip(around - light, 0, 0.3), 1.0 * SCALE) * window
    strength = float(np.percentile(darker[window > 0.6], 85)) if (window > 0.6).any() else 0.0
    if strength < 0.02:
        return np.zeros((sheet, sheet), np.float32)
    field = resized(darker / strength, sheet)
    # Fair brows get less ink.
    return smoothstep(field, 0.38, 0.68) * float(np.clip(strength / 0.22, 0.25, 1.0))


def _lids(pen: Pen, face: Face, eye: Eye) -> None:
    unit = eye.width / 30
    upper, lower = curve(eye.upper, 32), curve(eye.lower, 32)
    towards = slice(None) if eye.outer == 1 else slice(None, None, -1)  # from the nose to the temple
    upper, lower = upper[towards], lower[towards]
    wing = upper[-1] + np.array([eye.outer * 1.6, -0.6]) * unit
    lash = np.concatenate([upper, curve(np.stack([upper[-1], (upper[-1] + wing) / 2, wing]), 6)[1:]])
    width = np.concatenate([np.linspace(0.9, 2.5, 20), np.linspace(2.5, 2.2, 12), np.linspace(2.0, 0.3, 5)]) * unit
    strength = max(eye.open, 0.85 * eye.visibility)
    pen.stroke(lash - (0, 0.4), width, strength)
    pen.stroke(lower[8:], np.linspace(0.25, 1.0, 24) * unit, 0.55 * strength)


def _nose(pen: Pen, face: Face) -> None:
    """Draw the wings, the nostrils and a short line at the tip."""
    p = face.points
    unit = face.width / 130
    for wing, side in ((M.NOSE_LEFT_WING, -1), (M.NOSE_RIGHT_WING, 1)):
        line = face.line(wing, 20)
        # In a turned head the far wing is hidden behind the tip.
        visible = float(smoothstep(float(side * (line[:, 0].mean() - p[4][0]) / unit), 3.0, 9.0))
        pen.stroke(line[8:], taper(12, 0.2, 1.0, 0.3) * unit, np.linspace(0.2, 0.6, 12) * visible)
    base = face.line(M.NOSE_BASE, 40)
    t = np.linspace(0, 1, 40)
    width = np.interp(t, [0.10, 0.26, 0.40, 0.60, 0.74, 0.90], [0.2, 1.9, 0.4, 0.4, 1.9, 0.2])
    strength = np.interp(t, [0.10, 0.26, 0.40, 0.44, 0.56, 0.60, 0.74, 0.90], [0, 0.8, 0.3, 0.12, 0.12, 0.3, 0.8, 0])
    pen.stroke(base - (0, 1.2 * unit), width * unit, strength)


def _lips(pen: Pen, face: Face) -> None:
    unit = face.width / 130
    upper, lower = face.line(M.LIPS_INNER_UPPER, 40), face.line(M.LIPS_INNER_LOWER, 40)
    t = np.linspace(0, 1, 40)
    swell = np.interp(t, [0, 0.06, 0.25, 0.5, 0.75, 0.94, 1], [0.3, 1.5, 1.0, 1.4, 1.0, 1.5, 0.3])
    if face.mouth_gap < 1.5 * unit:
        pen.stroke((upper + lower) / 2, 1.1 * swell * unit, 0.9)
    else:
        pen.stroke(upper, 0.9 * swell * unit, 0.85)
        pen.stroke(lower, 0.6 * swell * unit, 0.6)
    under = face.line(M.LIPS_OUTER_LOWER, 40)[12:28]
    pen.stroke(under + np.array([0, 0.6 * unit]), taper(16, 0.1, 0.9, 0.1) * unit, 0.45)

"""Pen and brush: black, white and a few greys on paper."""

from __future__ import annotations

import numpy as np
from PIL import Image

from . import strokes
from .colour import from_oklab
from .comic import GROW, SHEET, SLIM, eyes, mouth
from .face import Face, analyse, square
from .filters import blur, smoothstep
from .light import Light
from .pen import Pen
from .segmentation import SCALE

PAPER, BLACK = 0.985, 0.13  # Oklab lightness


def draw_ink(image: Image.Image | np.ndarray, *, landmarks: np.ndarray | None = None) -> Image.Image:
    """Draw an FFHQ-aligned face with pen and brush, at its own size; arguments and errors as of `draw_comic`."""
    picture, side = square(image)
    face = analyse(picture, landmarks, grow=0.6 * GROW, slim=0.6 * SLIM)
    sheet = side * -(-SHEET // side)
    tone = _draw(face, sheet)
    grey = np.zeros((sheet, sheet, 3), np.float32)
    grey[..., 0] = tone
    drawing = Image.fromarray(from_oklab(grey))
    return drawing if sheet == side else drawing.resize((side, side), Image.Resampling.BOX)


def _draw(face: Face, sheet: int) -> np.ndarray:
    light = Light(face, sheet)
    regions = face.regions
    skin = smoothstep(light.up(blur(regions.skin, 0.8 * SCALE)), 0.35, 0.65)
    person = smoothstep(light.up(blur(regions.person, 0.8 * SCALE)), 0.35, 0.65)
    tone = _masses(light)
    tone = tone + skin * (_skin(light) - tone)
    tone = PAPER + person * (tone - PAPER)
    tone = _features(light, tone)
    line = np.maximum(light.lines(0.010, 0.012), strokes.features(face, sheet))
    line = np.maximum(line, 0.9 * _outline(light))
    return np.minimum(tone, tone + line * (BLACK - tone)).clip(0, 1)


def _skin(light: Light) -> np.ndarray:
    """Lightness of skin, ``[sheet, sheet]``: a grey that depends on the skin, hatching for shade, and black kept."""
    plain = float(light.face.skin_colour[0])
    depth = light.tones[0]
    # Light skin is left as paper, dark skin is an even tone.
    even = PAPER - 0.50 * float(smoothstep(float(0.78 - plain), 0.0, 0.45))
    shade = smoothstep(-depth, 0.06 * light.contrast, 0.20 * light.contrast)
    tone = even - 0.16 * smoothstep(-depth, 0.13 * light.contrast - 0.02, 0.13 * light.contrast + 0.02)
    tone = tone + _hatching(light.sheet, shade) * 0.8 * (max(even - 0.45, BLACK) - tone)
    rest, strength = light.outliers
    dark = light.up(-rest[..., 0])
    # Spectacles and hair on the forehead may be black on the skin; the corners of the mouth may not.
    brow = float(light.face.points[[105, 334]].mean(0)[1])
    allowed = np.maximum(light.face.glasses, 1 - smoothstep(light.face.grid[1], brow - 8, brow))
    strength = strength * (1 - light.face.features * (1 - light.face.glasses))
    black = smoothstep(dark, 0.17 * light.contrast, 0.24 * light.contrast) * light.up(strength * allowed)
    bright = smoothstep(-dark, 0.12, 0.18) * light.up(strength)
    tone = tone + bright * (PAPER - tone)
    return tone + black * (BLACK - tone)


def _hatching(sheet: int, strength: np.ndarray, spacing: float = 3.6) -> np.ndarray:
    """Slanting pen lines, ``[sheet, sheet]`` in [0, 1]; wider where ``strength`` is higher, ``spacing`` units apart."""
    y, x = (np.mgrid[:sheet, :sheet].astype(np.float32) + 0.5) * np.float32(256 / sheet)
    across = (0.82 * x + 0.57 * y) / spacing
    away = np.abs(across - np.rint(across)) * spacing  # from the middle of the nearest line, in units
    half = 0.75 * strength
    soft = 0.5 * 256 / sheet
    return smoothstep(half - away, -soft, soft) * smoothstep(strength, 0.02, 0.25)


def _masses(light: Light) -> np.ndarray:
    """Lightness ``[sheet, sheet]`` of hair and clothes: dark ones black with white strands, fair ones the reverse."""
    mass, z, size = light.strands
    mass, z = light.up(mass), light.up(z)
    # Strands count in proportion to their contrast, so that the noise of flat cloth is ignored.
    weight = light.up(0.10 * smoothstep(size, 0.006, 0.03) + 0.6 * size)
    value = mass + weight * z
    black = 1 - smoothstep(value, 0.36, 0.42)
    grey = 1 - smoothstep(value, 0.50, 0.56)
    pale = 1 - smoothstep(value, 0.64, 0.70)
    tone = PAPER - 0.09 * pale - 0.23 * grey
    return tone + black * (BLACK - tone)


def _features(light: Light, tone: np.ndarray) -> np.ndarray:
    """Draw mouth and eyes of the comic style into ``tone`` ``[sheet, sheet]``, as greys with more contrast."""
    face = light.face
    photo = light.up(light.denoised)
    outer, inner = face.lips
    opening = Pen(light.sheet).shape(inner).ink() if face.mouth_gap > 1.2 else np.zeros_like(tone)
    lips = Pen(light.sheet).shape(outer).ink() * (1 - opening) * face.confidence
    if (lips > 0.9).any():
        colour = np.median(photo[lips > 0.9], 0)
        skin = face.skin_colour
        darker = float(np.clip(0.9 * (skin[0] - colour[0]) + 1.2 * (colour[1] - skin[1]), 0.03, 0.32))
        upper = smoothstep(-(light.up(blur(face.lab[..., 0], 1.2 * SCALE)) - float(colour[0])), 0.0, 0.06)
        tone = tone + lips * (np.clip(tone - darker - 0.08 * upper, 0.3, 1) - tone)
    lab = np.zeros((*tone.shape, 3), np.float32)
    lab[..., 0] = tone
    teeth = smoothstep(mouth(face, lab, photo)[..., 0], 0.62, 0.80)
    tone = tone + opening * face.confidence * (BLACK + 0.1 + teeth * (PAPER - BLACK - 0.1) - tone)
    lab[..., 0] = tone
    pen, closed = Pen(light.sheet), Pen(light.sheet)
    for eye in face.eyes:
        pen.shape(eye.opening, eye.open)
        closed.shape(eye.opening, 0.75 * eye.visibility * (1 - eye.open))  # lashes fill an eye that is nearly closed
    tone = tone + closed.ink() * (BLACK - tone)
    lab[..., 0] = tone
    drawn = eyes(face, lab)[..., 0]
    clear = 0.12 + 0.9 * smoothstep(drawn, 0.10, 0.85)
    return drawn + pen.ink() * (clear - drawn)


def _outline(light: Light) -> np.ndarray:
    """The contour of the person, ``[sheet, sheet]`` in [0, 1]."""
    p = light.up(blur(light.face.regions.person, 1.3 * SCALE))
    return smoothstep(4 * p * (1 - p), 0.55, 0.9)

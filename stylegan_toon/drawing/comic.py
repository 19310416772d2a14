"""The comic renderer: soft cel shading, ink lines of varying width, hair in locks, clear eyes, a smooth background.

It is deterministic and has no trained parameters of its own: curves come from the landmarks of the face, colours and
tones from the photo. Drawings are therefore consistent enough to train a network on a few thousand of them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from . import strokes
from .colour import from_oklab
from .face import Eye, Face, analyse, background, cheeks, square
from .filters import blur, mix, resized, smoothstep, spread
from .light import Light
from .pen import Pen, curve
from .segmentation import SCALE, WORK

GROW, SLIM = 0.20, 0.05  # how much larger eyes are, how much narrower a chin
SHEET = 448  # px; smaller drawings are drawn at least this large, then reduced


def draw_comic(
    image: Image.Image | np.ndarray,
    *,
    landmarks: np.ndarray | None = None,
    warp: float = 1.0,
    ink: float = 1.0,
) -> Image.Image:
    """Draw an aligned face.

    Args:
        image: FFHQ-aligned square face, RGB picture or uint8 ``[n, n, 3]``.
        landmarks: ``[5, 2]`` pixel positions of the eyes, nose and mouth corners (image-left first), as
            `align.Face` holds them, or a mesh ``[478, 2]``; None looks for the face.
        warp: 0 keeps the proportions, 1 is the style: larger eyes and a narrower chin.
        ink: strength of the lines, 0 to 1.

    Returns:
        RGB picture of the same size.

    Raises:
        ToonError: the picture is not square, or smaller than 32 px.
    """
    picture, side = square(image)
    face = analyse(picture, landmarks, grow=GROW * warp, slim=SLIM * warp)
    sheet = side * -(-SHEET // side)
    drawing = Image.fromarray(from_oklab(_draw(face, sheet, ink)))
    return drawing if sheet == side else drawing.resize((side, side), Image.Resampling.BOX)


def _draw(face: Face, sheet: int, ink: float) -> np.ndarray:
    light = Light(face, sheet)
    regions = face.regions
    drawing = mix(_locks(light), _skin(light), smoothstep(light.up(blur(regions.skin, 0.8 * SCALE)), 0.3, 0.7))
    drawing = mix(_background(light), drawing, smoothstep(light.up(regions.person), 0.3, 0.7))
    drawing = mouth(face, drawing, light.up(light.denoised))
    drawing = eyes(face, drawing)
    if ink:
        line = ink * np.maximum(light.lines(), strokes.features(face, sheet))
        # The colour of a line is a dark version of the colour under it.
        dark = drawing * np.array((0.20, 0.5, 0.45), np.float32) + np.array((0.085, 0.004, 0.004), np.float32)
        drawing = mix(drawing, np.minimum(dark, drawing), 0.92 * line)
    return drawing


def _background(light: Light) -> np.ndarray:
    """The background in its own colours, smoothed and a little paler, ``[sheet, sheet, 3]``, without the person."""
    person = light.face.regions.person
    outside = (1 - smoothstep(blur(person, 1.5 * SCALE), 0.02, 0.20)).astype(np.float32)
    calm = background(light.face)
    # Close to the person the local colour is kept, so hair that was classified as background does not end abruptly.
    near = spread(light.denoised, outside + 1e-4, 3.5 * SCALE)
    calm = mix(near, calm, 1 - smoothstep(blur(person, 6 * SCALE), 0.01, 0.25))
    calm[..., 0] = 0.93 * calm[..., 0] + 0.05
    return light.up(calm)


def _skin(light: Light) -> np.ndarray:
    """Skin with soft cel shading, ``[sheet, sheet, 3]``; what differs from skin, such as spectacles, is kept."""
    face, up = light.face, light.up
    plain = face.skin_colour
    depth, shade, deep, shine = light.tones
    tone = float(plain[0]) + 0.42 * depth + light.contrast * (-0.060 * shade - 0.075 * deep + 0.028 * shine)
    colour = 0.75 * up(light.form[..., 1:]) + 0.25 * plain[1:]
    out = np.dstack([tone, colour * (1.06 + 0.10 * shade + 0.05 * deep)[..., None]])
    # One shift of all tones gives the cheeks the photo's lightness and hue.
    cheek = cheeks(face)
    if cheek.any():
        drawn = resized(out, WORK, Image.Resampling.BILINEAR)
        gap = np.median(light.denoised[cheek], 0) - np.median(drawn[cheek], 0)
        out = out + gap * np.array((1, 0.7, 0.7), np.float32)
    rest, strength = light.outliers
    return out + up(np.maximum(strength, 0.85 * face.features)[..., None] * rest)


def _locks(light: Light) -> np.ndarray:
    """Hair and clothes: strands in a few tones around the mass they belong to, ``[sheet, sheet, 3]``."""
    mass, z, size = light.strands
    z = light.up(z)
    steps = 1.1 * smoothstep(z, 0.35, 0.75) + 0.9 * smoothstep(z, 1.2, 1.6)
    steps = steps - 1.0 * smoothstep(-z, 0.35, 0.75) - 0.7 * smoothstep(-z, 1.1, 1.5)
    tone = light.up(mass) + light.up(np.clip(1.15 * size, 0.012, 0.10)) * (steps + 0.25 * np.clip(z, -2, 2))
    colour = light.flow.smooth(blur(light.denoised[..., 1:], 0.8 * SCALE), 3)
    return np.dstack([tone, 1.12 * light.up(colour)])


def mouth(face: Face, drawing: np.ndarray, denoised: np.ndarray) -> np.ndarray:
    """Lips in two tones of their own colour, and smooth pale teeth; the rest of the mouth is copied from the photo.

    Args:
        face: of the photo.
        drawing: Oklab ``[sheet, sheet, 3]``, which is not changed.
        denoised: the smoothed photo at the same size.

    Returns:
        ``[sheet, sheet, 3]``.
    """
    if face.confidence == 0:
        return drawing
    sheet = len(drawing)
    outer, inner = face.lips
    inside = Pen(sheet).shape(inner).ink() if face.mouth_gap > 1.2 else np.zeros((sheet, sheet), np.float32)
    lips = np.clip(blur(Pen(sheet).shape(outer).ink(), 0.6 * sheet / 256) - inside, 0, 1)
    core = lips > 0.9
    if core.sum() < 30:
        return drawing
    colour = np.median(denoised[core], 0)
    z = resized(blur(face.lab[..., 0], 1.2 * SCALE), sheet) - colour[0]
    tone = 0.35 * z + 0.045 * smoothstep(z, 0.03, 0.06) - 0.05 * smoothstep(-z, 0.04, 0.08)
    flat = np.dstack([colour[0] + tone, np.full_like(tone, 1.15 * colour[1]), np.full_like(tone, 1.05 * colour[2])])
    drawing = mix(drawing, 0.75 * flat + 0.25 * denoised, face.confidence * lips)
    # Teeth are the pale, light pixels between the lips.
    within = inside * face.confidence
    pale = 1 - smoothstep(np.hypot(denoised[..., 1], denoised[..., 2]), 0.05, 0.09)
    tooth = within * pale * smoothstep(denoised[..., 0], 0.42, 0.62)
    drawing = mix(drawing, denoised, within)
    white = np.dstack([0.5 * denoised[..., 0] + 0.47, 0.3 * denoised[..., 1], 0.3 * denoised[..., 2] + 0.005])
    return mix(drawing, white, 0.85 * tooth)


def eyes(face: Face, drawing: np.ndarray) -> np.ndarray:
    """Redraw open eyes with shaded whites, irises lit from below and catchlights, in place; ``[sheet, sheet, 3]``."""
    sheet = len(drawing)
    for eye in face.eyes:
        if eye.open == 0:
            continue
        opening = Pen(sheet).shape(eye.opening).ink() * np.float32(eye.open)
        rows, columns = (np.flatnonzero(opening.any(axis)) for axis in (1, 0))
        if len(rows) and len(columns):
            box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            drawing[box] = mix(drawing[box], _eye(face, eye, sheet, box), opening[box])
    return drawing


def _eye(face: Face, eye: Eye, sheet: int, box: tuple[slice, slice]) -> np.ndarray:
    """An eyeball, Oklab ``[h, w, 3]``, for the window ``box`` (rows, columns) of a sheet."""
    k = sheet / 256
    y, x = (np.mgrid[box].astype(np.float32) + 0.5) / np.float32(k)
    small = Pen(WORK, 2).shape(eye.opening).ink()
    (cx, cy), r = map(float, eye.iris), float(eye.radius)
    gx, gy = face.grid
    away = np.hypot(gx - cx, gy - cy) / r
    ring = (small > 0.9) & (away > 0.45) & (away < 0.85)
    pixels = face.lab[ring] if ring.sum() > 8 else face.lab[small > 0.5]
    hue = np.median(pixels, 0) if len(pixels) else np.array((0.3, 0.01, 0.02), np.float32)
    outside = (small > 0.9) & (away > 1.15)
    skin_light = float(face.skin_colour[0])
    white = float(np.percentile(face.lab[outside][:, 0], 70)) if outside.sum() > 8 else skin_light
    white = float(np.clip(0.5 * white + 0.5 * (0.55 + 0.4 * skin_light) + 0.05, 0.55, 0.93))

    # Whites, shaded under the upper lid and towards the corners.
    lid = curve(eye.upper, 48)
    lid_y = np.interp(x[0], lid[:, 0], lid[:, 1]).astype(np.float32)[None, :]
    under = 1 - smoothstep(y - lid_y, 0.5, 3.2)
    corner = smoothstep(np.abs(x - float(eye.centre[0])) / (eye.width / 2), 0.65, 1.05)
    light = white - 0.13 * under - 0.08 * corner
    ball = np.dstack([light, 0.006 + 0.012 * corner, np.full_like(light, 0.004)])

    d = np.hypot(x - cx, y - cy) / r
    edge = 0.5 / (k * r)
    disc = 1 - smoothstep(d, 1 - 2 * edge, 1 + edge)
    lightness = float(np.clip(hue[0], 0.22, 0.62))
    chroma = hue[1:] * min(1.6, 0.11 / max(float(np.hypot(*hue[1:])), 1e-3))
    below = smoothstep((y - cy) / r, -0.5, 0.9)
    iris = lightness * (0.72 + 0.62 * below) + 0.03 * below
    iris = iris * (1 - 0.55 * smoothstep(d, 0.78, 0.95)) * (1 - 0.45 * under)
    full = np.dstack([iris, float(chroma[0]) * (0.8 + 0.6 * below), float(chroma[1]) * (0.8 + 0.6 * below)])
    full = mix(full, np.array((0.10, 0, 0), np.float32), 1 - smoothstep(d, 0.42 - edge, 0.42 + 2 * edge))
    ball = mix(ball, full, disc)
    big = np.hypot(x - cx + 0.36 * r, y - cy + 0.36 * r) / r
    little = np.hypot(x - cx - 0.38 * r, y - cy - 0.42 * r) / r
    spark = np.maximum(1 - smoothstep(big, 0.24 - edge, 0.24 + 2 * edge), 0.6 * (1 - smoothstep(little, 0.1, 0.2)))
    return mix(ball, np.array((0.98, 0, 0), np.float32), spark)

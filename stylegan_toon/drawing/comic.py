"""The comic renderer: clean soft cell shading, ink lines that swell, hair in locks, clear eyes, a calm background.

Nothing is random and nothing is learned for it: curves come from the landmarks of the face, colours and tones from
the photo, so the drawings are alike enough for a network to learn from a few thousand of them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from . import strokes
from .face import SCALE, WORK, Eye, Face, cheeks, edges, ground, see, square
from .pen import Pen, curve
from .tools import Flow, blur, from_oklab, guided_filter, mix, resized, smoothstep, spread

GROW, SLIM = 0.20, 0.05  # how much larger eyes are, how much narrower a chin
SHEET = 448  # smaller drawings are drawn larger and reduced, so that lines stay clean


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
    face = see(picture, landmarks, grow=GROW * warp, slim=SLIM * warp)
    sheet = side * -(-SHEET // side)
    drawing = Image.fromarray(from_oklab(_draw(face, sheet, ink)))
    return drawing if sheet == side else drawing.resize((side, side), Image.Resampling.BOX)


def _draw(face: Face, sheet: int, ink: float) -> np.ndarray:
    lab, s = face.lab, SCALE
    person, skin = face.regions.person, face.regions.skin
    mild = guided_filter(edges(lab), lab, 2 * s, 8e-4)
    flow = Flow(blur(mild[..., 0], 0.5 * s), s)

    skin_lab = _skin(face, mild, sheet)
    rest = _locks(lab, mild, flow, sheet)
    outside = ground(face)
    near = 1 - smoothstep(blur(person, 5 * s), 0.01, 0.3)
    outside[..., 0] = 0.93 * outside[..., 0] + 0.05
    calm = mix(guided_filter(edges(lab), lab, 7 * s, 2e-3), outside, near)

    def up(field: np.ndarray) -> np.ndarray:
        return resized(field, sheet)

    sharp = up(person)
    drawing = mix(rest, skin_lab, smoothstep(up(blur(skin, 0.8 * s)), 0.3, 0.7))
    drawing = mix(up(calm), drawing, smoothstep(sharp, 0.3, 0.7))
    drawing = _mouth(face, drawing, up(mild))
    drawing = _eyes(face, drawing)
    if ink:
        line = ink * _lines(face, mild, flow, sheet)
        # Ink takes a tint of what it outlines.
        dark = drawing * np.float32((0.20, 0.5, 0.45)) + np.float32((0.085, 0.004, 0.004))
        drawing = mix(drawing, np.minimum(dark, drawing), 0.92 * line)
    return drawing.astype(np.float32)


def _skin(face: Face, mild: np.ndarray, sheet: int) -> np.ndarray:
    """Skin in soft cells of light, ``[sheet, sheet, 3]``; what stands out from it, such as spectacles, stays."""
    lab, s = face.lab, SCALE
    plain = face.skin_colour
    weight = face.regions.skin * (1 - face.features)
    # What is much darker or lighter than its surroundings is no skin: frames, stubble's edge, glare.
    first = spread(lab, weight, 9 * s)
    weight = weight * np.exp(-(((lab[..., 0] - first[..., 0]) / 0.13) ** 2) / 2)
    form = spread(lab, weight + 1e-4 * face.regions.skin, 4.5 * s)
    wide = spread(lab, weight + 1e-4 * face.regions.skin, 11 * s)
    light = 0.6 * form[..., 0] + 0.4 * wide[..., 0]

    def up(field: np.ndarray) -> np.ndarray:
        return resized(field, sheet)

    depth = up(light) - plain[0]
    unit = 0.6 + 0.4 * plain[0] / 0.7  # shades of dark skin lie closer together
    soft = 0.022
    shade = smoothstep(-depth, 0.055 * unit - soft, 0.055 * unit + soft)
    deep = smoothstep(-depth, 0.145 * unit - soft, 0.145 * unit + soft)
    shine = smoothstep(depth, 0.05 * unit - soft, 0.05 * unit + soft)
    cells = unit * (-0.060 * shade - 0.075 * deep + 0.028 * shine)
    tone = plain[0] + 0.42 * depth + cells

    colour = 0.6 * up(form[..., 1:]) + 0.4 * plain[1:]
    colour = colour * (1.06 + 0.10 * shade + 0.05 * deep)[..., None]
    out = np.dstack([tone, colour])
    # The tones are moved as a whole so that cheeks keep the photo's lightness and hue.
    cheek = up(cheeks(face))[..., None]
    if cheek.sum() > 1:
        gap = (cheek * (up(mild) - out)).sum((0, 1)) / cheek.sum()
        out = out + gap * (0.9, 0.6, 0.6)
    rest = mild - form
    strange = blur(np.abs(rest[..., 0]) + 0.7 * np.hypot(rest[..., 1], rest[..., 2]), 0.8 * s)
    least = 0.12 - 0.05 * face.glasses
    keep = np.maximum(smoothstep(strange, least, least + 0.07), 0.85 * face.features)
    return out + up(keep[..., None] * rest)


def _locks(lab: np.ndarray, mild: np.ndarray, flow: Flow, sheet: int) -> np.ndarray:
    """Hair and clothes: strands along their flow, in a few tones around their own, ``[sheet, sheet, 3]``."""
    s = SCALE
    strand = flow.smooth(lab[..., 0], 4)
    strand = strand + 0.8 * (strand - blur(strand, 1.3 * s))
    strand = flow.smooth(strand, 4)
    base = guided_filter(mild[..., 0], mild[..., 0], 6 * s, 4e-3)
    detail = strand - base
    spread_of = np.sqrt(blur(detail**2, 9 * s))
    z = resized(detail / (spread_of + 0.008), sheet)
    size = resized(np.clip(1.15 * spread_of, 0.012, 0.10), sheet)
    steps = 1.1 * smoothstep(z, 0.35, 0.75) + 0.9 * smoothstep(z, 1.2, 1.6)
    steps = steps - 1.0 * smoothstep(-z, 0.35, 0.75) - 0.7 * smoothstep(-z, 1.1, 1.5)
    light = resized(base, sheet) + size * (steps + 0.25 * np.clip(z, -2, 2))
    colour = flow.smooth(blur(mild[..., 1:], 0.8 * s), 3)
    return np.dstack([light, 1.12 * resized(colour, sheet)])


def _mouth(face: Face, drawing: np.ndarray, mild: np.ndarray) -> np.ndarray:
    """Lips in two tones of their own colour; teeth clean; the rest of the mouth as it was."""
    if face.sure == 0:
        return drawing
    sheet = len(drawing)
    outer, inner = face.lips
    inside = Pen(sheet).shape(inner).ink() if face.gape > 1.2 else np.zeros((sheet, sheet), np.float32)
    lips = np.clip(blur(Pen(sheet).shape(outer).ink(), 0.6 * sheet / 256) - inside, 0, 1)
    sure = lips > 0.9
    if sure.sum() < 30:
        return drawing
    colour = np.median(mild[sure], 0)
    z = resized(blur(face.lab[..., 0], 1.2 * SCALE), sheet) - colour[0]
    tone = 0.35 * z + 0.045 * smoothstep(z, 0.03, 0.06) - 0.05 * smoothstep(-z, 0.04, 0.08)
    flat = np.dstack([colour[0] + tone, np.full_like(tone, 1.15 * colour[1]), np.full_like(tone, 1.05 * colour[2])])
    drawing = mix(drawing, 0.75 * flat + 0.25 * mild, face.sure * lips)
    # Teeth: what is pale and light between the lips.
    within = inside * face.sure
    pale = 1 - smoothstep(np.hypot(mild[..., 1], mild[..., 2]), 0.05, 0.09)
    tooth = within * pale * smoothstep(mild[..., 0], 0.42, 0.62)
    drawing = mix(drawing, mild, within)
    white = np.dstack([0.5 * mild[..., 0] + 0.47, 0.3 * mild[..., 1], 0.3 * mild[..., 2] + 0.005])
    return mix(drawing, white, 0.85 * tooth)


def _eyes(face: Face, drawing: np.ndarray) -> np.ndarray:
    """Eyes drawn anew where they are open: shaded whites, irises lit from below, catchlights."""
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
    """An eyeball in Oklab over ``box`` of a sheet."""
    k = sheet / 256
    y, x = (np.mgrid[box].astype(np.float32) + 0.5) / np.float32(k)
    small = Pen(WORK, 2).shape(eye.opening).ink()
    (cx, cy), r = map(float, eye.iris), float(eye.radius)
    gx, gy = face.grid
    away = np.hypot(gx - cx, gy - cy) / r
    ring = (small > 0.9) & (away > 0.45) & (away < 0.85)
    pixels = face.lab[ring] if ring.sum() > 8 else face.lab[small > 0.5]
    hue = np.median(pixels, 0) if len(pixels) else np.float32((0.3, 0.01, 0.02))
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
    full = mix(full, np.float32((0.10, 0, 0)), 1 - smoothstep(d, 0.42 - edge, 0.42 + 2 * edge))
    ball = mix(ball, full, disc)
    big = np.hypot(x - cx + 0.36 * r, y - cy + 0.36 * r) / r
    little = np.hypot(x - cx - 0.38 * r, y - cy - 0.42 * r) / r
    spark = np.maximum(1 - smoothstep(big, 0.24 - edge, 0.24 + 2 * edge), 0.6 * (1 - smoothstep(little, 0.1, 0.2)))
    return mix(ball, np.float32((0.98, 0, 0)), spark)


def _lines(face: Face, mild: np.ndarray, flow: Flow, sheet: int) -> np.ndarray:
    """All ink, ``[sheet, sheet]`` in [0, 1]: what the photo shows as lines, the outline, and strokes of features."""
    s = SCALE
    person, skin, hair = face.regions.person, face.regions.skin, face.regions.hair
    light = mild[..., 0]
    response = flow.smooth(blur(light, 1.45 * s) - blur(light, 0.8 * s), 3.5)
    flat = skin * (1 - strokes.creases(face))
    outside = 1 - smoothstep(blur(person, 3 * s), 0.1, 0.4)
    known = strokes.known(face)  # strokes take the place of what the photo shows there
    threshold = 0.007 + 0.012 * flat + 0.007 * hair + 0.04 * outside + 0.03 * known
    over = resized(response - threshold, sheet)
    line = smoothstep(over, 0.0, 0.012) * (1 - 0.45 * resized(flat, sheet))
    drawn = strokes.features(face, sheet)
    return np.maximum(line, drawn)

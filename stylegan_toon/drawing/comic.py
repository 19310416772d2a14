"""A procedural comic renderer: an aligned face becomes a drawn one, so nobody needs a cartoon set to start.

Clean cell shading, flowing ink lines, large clear eyes and a narrow chin; the person stays recognisable.
Nothing is random and nothing is learned: positions come from the FFHQ alignment (or from landmarks), colours
from the face itself, so the drawings are alike enough for a network to learn from a few thousand of them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from .face import DRAWN_AT_LEAST, NOSE, UNIT, Face, edges, look, mix, regions, skin_colour, square
from .tools import Flow, blur, from_oklab, guided_filter, smoothstep, soft_levels, to_oklab


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
            `align.Face` holds them; None finds the eyes near where the alignment puts them.
        warp: 0 keeps the proportions, 1 is the style: larger eyes, narrower chin and smaller nose.
        ink: strength of the lines, 0 to 1.

    Returns:
        RGB picture of the same size.

    Raises:
        ToonError: the picture is not square, or smaller than 32 px.
    """
    picture, side = square(image, DRAWN_AT_LEAST)
    lab = to_oklab(np.asarray(picture))
    # Underexposed faces are lifted a little, as a longer exposure would; well exposed ones hardly change.
    lab = lab * np.float32(np.clip(0.48 / max(skin_colour(lab)[0], 0.2), 1, 1.6) ** 0.7)
    face = look(lab, None if landmarks is None else landmarks * (UNIT / side))
    face = _exaggerate(face, warp)
    drawing = Image.fromarray(from_oklab(_draw(face, ink)))
    return drawing if side >= DRAWN_AT_LEAST else drawing.resize((side, side), Image.Resampling.LANCZOS)


def _exaggerate(face: Face, strength: float) -> Face:
    """Larger eyes, a narrower chin, a smaller nose: one smooth warp; the eyes stay where they are."""
    if strength == 0:
        return face
    middle = face.mouth[0]
    from_x, from_y = np.broadcast_arrays(face.x, face.y)
    from_x, from_y = from_x.copy(), from_y.copy()
    for (ex, ey), clear in zip(face.eyes, face.clarity):
        dx, dy = from_x - ex, from_y - ey - 1
        bump = np.clip(1 - (dx / 30) ** 2 - (dy / 24) ** 2, 0, None) ** 2
        grow = 0.43 * strength * clear * bump
        from_x -= 0.92 * grow * dx
        from_y -= grow * dy
    off = face.x - middle
    low = smoothstep(face.y, 165, 225) * (1 - 0.55 * smoothstep(face.y, 236, 262))
    from_x += 0.13 * strength * off * low * np.exp(-((off / 75) ** 4))
    nose = face.spot((middle, NOSE[1]), 12, 12) * strength
    from_x += 0.14 * nose * off
    from_y += 0.10 * nose * (face.y - NOSE[1] + 7)
    at = np.stack([from_y, from_x]) * face.scale - 0.5
    warped = [ndimage.map_coordinates(face.lab[..., c], at, order=3, mode="nearest") for c in range(3)]
    return Face(np.stack(warped, -1), face.eyes, face.clarity, face.mouth, face.x, face.y)


def _draw(face: Face, ink: float) -> np.ndarray:
    lab, s = face.lab, face.scale
    person, plain, skin = regions(face)
    left, right = face.eyes
    eye = np.maximum(face.spot(left, 13, 9), face.spot(right, 13, 9))
    mouth = face.spot(face.mouth, 22, 10)
    brows = ((left[0] - 1, left[1] - 16), (right[0] + 1, right[1] - 16))
    brow = np.maximum(*(face.spot(centre, 15, 6) for centre in brows))
    nose = face.spot((face.mouth[0], NOSE[1]), 14, 9)
    detail = np.clip(1.3 * eye + 0.7 * brow + 1.1 * mouth + 0.8 * nose, 0, 1)

    # Smooth: skin most, then everything along its flow, which turns hair into strands; eyes least.
    guide = edges(lab)
    mild = guided_filter(guide, lab, 3 * s, 1.2e-3)
    strong = guided_filter(blur(guide, s), lab, 7 * s, 6e-3)
    smooth = mix(mild, strong, skin * (1 - detail))
    flow = Flow(smooth[..., 0], s)
    smooth = flow.smooth(smooth, 4)
    smooth = smooth + (0.7 * (1 - skin))[..., None] * (smooth - blur(smooth, 1.6 * s))
    smooth = flow.smooth(smooth, 4)
    smooth = mix(smooth, (mild + lab) / 2, np.clip(1.4 * eye, 0, 1))
    smooth[..., 0] += 0.8 * nose * (mild[..., 0] - blur(mild[..., 0], 5 * s))  # or soft light would erase it

    # Background: calm, a little paler, its edges kept.
    calm = flow.smooth(guided_filter(edges(smooth), smooth, 8 * s, 1.5e-3), 4)
    calm[..., 0] = 0.9 * calm[..., 0] + 0.075

    drawing = _shade(face, smooth, plain, skin, detail, eye, mouth)
    drawing = mix(calm, drawing, person)
    drawing = _brighten_eyes(face, drawing, plain[0])
    line = ink * _lines(face, smooth[..., 0], mild[..., 0], flow, skin, person, detail)
    dark = drawing * (0.18, 0.45, 0.40) + (0.10, 0.004, 0.004)  # ink takes a tint of what it outlines
    return mix(drawing, dark, 0.9 * line).astype(np.float32)


def _shade(
    face: Face,
    smooth: np.ndarray,
    plain: np.ndarray,
    skin: np.ndarray,
    detail: np.ndarray,
    eye: np.ndarray,
    mouth: np.ndarray,
) -> np.ndarray:
    """Cells of light: steps for hair and clothes, three flat tones for skin; warmer colour, blush, lips."""
    light, green_red, blue_yellow = (smooth[..., c] for c in range(3))
    plain, ma, mb = plain
    stepped = 0.25 * light + 0.75 * soft_levels(light, 9, 2.0)

    broad = guided_filter(light, light, 8 * face.scale, 4e-3) - plain
    shade, deep = smoothstep(-broad, 0.05, 0.075), smoothstep(-broad, 0.14, 0.17)
    tones = -0.085 * shade - 0.10 * deep + 0.035 * smoothstep(broad, 0.03, 0.13)
    lift = 0.045 + 0.045 * smoothstep(plain, 0.45, 0.62) * (1 - smoothstep(plain, 0.72, 0.88))
    skin_light = plain + lift + 0.75 * tones + 0.4 * broad
    flat = skin * (1 - np.clip(1.2 * detail, 0, 1))
    light = stepped + flat * (skin_light - stepped)

    # Skin goes halfway from its own colour to a warm one, lips and lids with it; flat skin is evened out.
    vivid = 1.25 - 0.25 * skin
    warmer = np.array([0.4 * (0.057 - ma), 0.4 * (0.070 - mb)], np.float32)
    warmer *= min(1, 0.03 / max(float(np.hypot(*warmer)), 1e-9))  # people painted blue stay blue
    pale = 1 - smoothstep(np.hypot(green_red, blue_yellow), 0.04, 0.08)
    teeth = pale * smoothstep(smooth[..., 0], plain - 0.06, plain + 0.08) * np.clip(1.3 * mouth, 0, 1)
    light = light + 0.05 * teeth
    near = np.clip(skin + mouth + 0.5 * eye, 0, 1) * (1 - teeth)
    a = green_red * vivid + near * warmer[0]
    b = blue_yellow * vivid + near * warmer[1]
    even = skin * (1 - np.clip(1.2 * eye + mouth, 0, 1))
    a = a + even * (ma + warmer[0] + 0.3 * (green_red - ma) + 0.012 * shade - a)
    b = b + even * (mb + warmer[1] + 0.3 * (blue_yellow - mb) + 0.006 * shade - b)

    for (ex, ey), side in zip(face.eyes, (-1, 1)):
        blush = face.spot((ex + 5 * side, ey + 32), 15, 9) * skin
        a = a + 0.016 * blush
        light = light - 0.010 * blush
    redder = (green_red - ma) - 0.25 * (blue_yellow - mb)
    lips = smoothstep(redder, 0.012, 0.03) * np.clip(1.5 * mouth, 0, 1)
    a = a + 0.014 * lips
    b = b + 0.4 * lips * (0.035 - b)
    return np.stack([light, a, b], -1)


def _lines(
    face: Face,
    smooth: np.ndarray,
    mild: np.ndarray,
    flow: Flow,
    skin: np.ndarray,
    person: np.ndarray,
    detail: np.ndarray,
) -> np.ndarray:
    """Ink in [0, 1]: differences of Gaussians averaged along the flow (Kang et al. 2007), softly thresholded.

    Thresholds are lowest on features and along the jaw, high on the rest of the skin (no wrinkles) and
    in the background.
    """
    s = face.scale
    source = smooth + 0.5 * detail * (mild - smooth)
    response = flow.smooth(blur(source, 1.6 * s) - blur(source, s), 3)
    radius = np.hypot((face.x - face.mouth[0]) / 66, (face.y - 140) / 96)
    jaw = np.exp(-(((radius - 1) / 0.16) ** 2) / 2) * smoothstep(face.y, 120, 170)
    plain = skin * (1 - detail) * (1 - 0.95 * jaw)
    outside = 1 - smoothstep(blur(person, 3 * s), 0.08, 0.35)
    threshold = 0.0055 + 0.009 * plain + 0.025 * outside
    return smoothstep(response, threshold, threshold + 0.016)


def _brighten_eyes(face: Face, drawing: np.ndarray, skin_light: float) -> np.ndarray:
    """Whiter whites, an iris lit from below, and two catchlights, wherever an open eye was found."""
    light, a, b = (drawing[..., c] for c in range(3))
    for (ex, ey), clear in zip(face.eyes, face.clarity):
        window = face.spot((ex, ey), 10, 7, power=4) * clear
        pale = 1 - smoothstep(np.hypot(a, b), 0.04, 0.08)
        white = pale * smoothstep(light, skin_light - 0.06, skin_light + 0.08)
        light = light + 0.08 * window * white
        disc = 1 - smoothstep(np.hypot(face.x - ex, face.y - ey), 7.0, 9.0)
        iris = clear * disc * smoothstep(-light, 0.08 - skin_light, 0.22 - skin_light)
        below = smoothstep(face.y - ey, -3, 6)
        light = light + iris * (0.12 * below - 0.04)
        colour = 1 + 0.9 * iris * below
        spark = clear * np.maximum(
            1 - smoothstep(np.hypot(face.x - ex + 2.4, face.y - ey + 2.8), 1.3, 2.5),
            0.55 * (1 - smoothstep(np.hypot(face.x - ex - 2.4, face.y - ey - 2.8), 0.6, 1.6)),
        )
        light = light + spark * (0.97 - light)
        a, b = (channel * colour * (1 - 0.8 * spark) for channel in (a, b))
    return np.stack([light, a, b], -1)

"""A procedural renderer with the look of a 3D animation film: no ink, sculpted light, large clear eyes.

A dense mesh of the face controls it. One smooth warp enlarges the eyes and softens nose and jaw; skin is shaded with
the normals of the mesh; eyes, brows and lips are redrawn in the person's own colours; hair is averaged along its
strands; the background is blurred. The renderer is deterministic and has no trained parameters of its own. Lengths
are in 1/256 of the side of the crop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from ..faces.mesh import face_mesh
from .animated_regions import AnimatedRegions, animated_regions, glasses_rims, skin_tone
from .brows_and_mouth import Brow, brow_ribbon, draw_brow, draw_mouth, measure_brows
from .colour import edge_guide, from_oklab, to_oklab
from .eyes import Eye, draw_eye, measure_eye
from .face import square
from .filters import enlarge, fast_blur, fast_guided_filter, mix, reduce, resized, smoothstep, weighted_blur
from .geometry import LIPS_OUTER, LOWER_LID, UPPER_LID, Relief, film_warp, grid, polygon, relief
from .hair import render_strands
from .pen import UNIT
from .skin import render_skin

WORK_SIDES = (256, 512)  # smaller crops are enlarged; in larger ones only the features are drawn at full size
MIN_SCORE = 0.5  # below this probability of a face, no features are drawn


def draw_animated(
    image: Image.Image | np.ndarray, *, landmarks: np.ndarray | None = None, warp: float = 1.0
) -> Image.Image:
    """Draw an aligned face as a still of an animation film.

    Args:
        image: FFHQ-aligned square face, RGB picture or uint8 ``[n, n, 3]``.
        landmarks: ``[478, 3]``: the points of `faces.mesh.face_mesh` with their depth, in pixels. With
            None or an array of another shape, the mesh is detected.
        warp: strength of the change of proportions, from 0 (none) to 1 (the style's).

    Returns:
        RGB picture of the same size.

    Raises:
        ToonError: the picture is not square, or smaller than 32 px.
    """
    picture, side = square(image, WORK_SIDES[0])
    if landmarks is not None and np.shape(landmarks) == (478, 3):
        mesh = np.asarray(landmarks, np.float64) * (UNIT / side)
    else:
        detected = face_mesh(picture)
        if detected.score < MIN_SCORE:  # no face: smooth the picture, draw no features
            flat = to_oklab(np.asarray(picture))
            calm, _ = render_strands(flat, np.ones(flat.shape[:2], np.float32))
            return Image.fromarray(from_oklab(calm)).resize((side, side), Image.Resampling.LANCZOS)
        mesh = np.concatenate([detected.points, detected.depth[:, None]], 1) * (UNIT / picture.width)
    n = min(picture.width, WORK_SIDES[1])
    work = picture if picture.width == n else picture.resize((n, n), Image.Resampling.LANCZOS)
    lab = to_oklab(np.asarray(work))
    mesh = mesh.astype(np.float32)
    points = mesh[:, :2]
    tone = skin_tone(lab, mesh)
    eyes = [measure_eye(lab, points, side, tone) for side in range(2)]
    weights = [max(eye.visibility, 0.01) * eye.openness for eye in eyes]
    iris = (weights[0] * eyes[0].iris + weights[1] * eyes[1].iris) / sum(
        weights
    )  # a reflection can make one iris look grey
    eyes = [replace(eye, iris=iris) for eye in eyes]
    rims = glasses_rims(lab, points)
    brows = [
        replace(brow, visibility=brow.visibility * eye.visibility)
        for brow, eye in zip(measure_brows(lab, points), eyes)
    ]
    glasses = float(smoothstep(rims.sum() * (UNIT / n) ** 2, 60, 160))
    growth = [
        warp * eye.visibility * (0.07 + (1 - 0.8 * glasses) * 0.33 * float(smoothstep(eye.openness, 0.1, 0.2)))
        for eye in eyes
    ]
    bend = film_warp(mesh, growth)
    layers = bend.apply(np.concatenate([lab, rims[..., None]], -1))
    lab, rims = np.ascontiguousarray(layers[..., :3]), layers[..., 3].clip(0, 1)
    mesh = np.concatenate([bend.carry(points), mesh[:, 2:]], 1).astype(np.float32)
    points = mesh[:, :2]

    brows = [replace(brow, middle=bend.carry(brow.middle)) for brow in brows]
    form = relief(mesh)
    covered = 1 - sum(brow.visibility for brow in brows) / 2
    regions = animated_regions(lab, mesh, form, tone, covered)
    out, light_x = _body(lab, regions, rims, mesh, form, eyes, brows, tone)
    size = picture.width
    if size != n:
        out, lab, rims = (resized(layer, size) for layer in (out, lab, rims))
    out = np.ascontiguousarray(out, np.float32)
    plain = out.copy()
    draw_mouth(out, lab, points, tone)
    for brow in brows:
        draw_brow(out, brow)
    for eye in eyes:
        draw_eye(out, points, eye, light_x)
    if glasses > 0:  # rims lie over brows and eyes
        out = mix(out, plain, rims * (1 - resized(_openings(points, eyes), size)))
    out[..., 1:] *= 1.03
    result = Image.fromarray(from_oklab(out.astype(np.float32)))
    return result if side == size else result.resize((side, side), Image.Resampling.LANCZOS)


def _openings(points: np.ndarray, eyes: list[Eye]) -> np.ndarray:
    """The area between the lids of both eyes, ``[256, 256]`` in [0, 1]."""
    open_eyes = [
        polygon(points[[*UPPER_LID[eye.side], *LOWER_LID[eye.side][-2:0:-1]]], UNIT, 0.5) * eye.visibility
        for eye in eyes
    ]
    return np.maximum(*open_eyes)


def _body(
    lab: np.ndarray,
    regions: AnimatedRegions,
    rims: np.ndarray,
    mesh: np.ndarray,
    form: Relief,
    eyes: list[Eye],
    brows: list[Brow],
    tone: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Skin, hair, clothes and background, without the features.

    Returns:
        Oklab ``[n, n, 3]``, and where the light comes from, -1 (left) to 1 (right).
    """
    n = lab.shape[0]
    s = n / UNIT
    points = mesh[:, :2]
    # holes: features whose colour must not enter the average of the skin around them.
    # cover: the area that is filled with skin before the features are drawn on it.
    holes = np.zeros((n, n), np.float32)
    cover = np.zeros((n, n), np.float32)
    for eye, brow in zip(eyes, brows):
        lids = points[[*UPPER_LID[eye.side], *LOWER_LID[eye.side][-2:0:-1]]]
        middle = lids.mean(0)
        holes = np.maximum(holes, polygon(middle + (lids - middle) * (1.14, 1.5), n, 0.5) * eye.visibility)
        cover = np.maximum(cover, polygon(middle + (lids - middle) * (1.10, 1.25), n, 0.8) * eye.visibility)
        holes = np.maximum(holes, brow_ribbon(brow, n, 2.2) * brow.visibility)
        cover = np.maximum(cover, brow_ribbon(brow, n, 1.6) * brow.visibility)
    lips = points[list(LIPS_OUTER)]
    middle = lips.mean(0)
    holes = np.maximum(holes, polygon(middle + (lips - middle) * (1.10, 1.25), n, 1.0))

    holes = np.maximum(holes, rims)

    skin, drift, light_x = render_skin(lab, regions, holes, mesh, form, tone)
    bare = np.maximum(regions.skin, cover * (1 - regions.beard))
    hair, volume = render_strands(lab, (1 - bare) * regions.person)
    alike = np.exp(-(((volume - skin + drift) * (1, 2, 2)) ** 2).sum(-1) / 0.09**2)
    hair += alike[..., None] * drift
    person = mix(hair, skin, bare)
    person = mix(person, 0.6 * hair + 0.4 * volume, regions.beard)
    clean = rims
    x, y = grid(n)
    for eye in eyes:  # dark glasses and patches are kept and only smoothed
        if eye.visibility < 0.9:
            lids = points[[*UPPER_LID[eye.side], *LOWER_LID[eye.side]]].mean(0)
            near, wide = (
                np.exp(-((((x - lids[0]) / a) ** 2 + ((y - lids[1] - 3) / b) ** 2) ** 2))
                for a, b in ((26, 17), (40, 30))
            )
            dark = smoothstep(tone[0] - fast_blur(lab[..., 0], 0.6 * s), 0.10, 0.22)
            clean = np.maximum(clean, (1 - eye.visibility) * np.maximum(near, wide * dark))
    if clean.max() > 0.05:
        person = mix(person, fast_guided_filter(edge_guide(lab), lab, 2 * s, 4e-4), clean)
    return mix(_far(lab, regions.person), person, regions.person), light_x


def _far(lab: np.ndarray, person: np.ndarray) -> np.ndarray:
    """The background ``[n, n, 3]``, blurred more with distance from the person, whose pixels get almost no weight."""
    n = lab.shape[0]
    m = n // 2
    small = reduce(np.concatenate([lab, person[..., None]], -1), m)
    weight = (1 - small[..., 3]) ** 2 + 1e-3
    near, far = (weighted_blur(small[..., :3], weight, sigma * m / UNIT) for sigma in (1.6, 5.5))
    away = smoothstep(fast_blur(1 - small[..., 3], 7 * m / UNIT), 0.55, 0.98)
    return enlarge(mix(near, far, away), n)

"""A procedural renderer with the look of a 3D animation film: no ink, sculpted light, large clear eyes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from .eyes import Eye, paint_eye, study
from .face import UNIT, edges, mix, person_mask_of, square
from .features import Brow, brow_ribbon, paint_brow, paint_mouth, study_brow
from .sculpt import (
    CHEEKS, FINE, FOREHEAD, LIPS_OUTER, LOWER_LID, NOSE_TIP, NOSTRILS, OVAL, UPPER_LID,
    Relief, enlarge, film_warp, grid, light_of, polygon, relief,
)
from .tools import Flow, blur, from_oklab, guided_filter, smoothstep, to_oklab

WORKED_AT = (256, 512)


def draw_animated(image, *, landmarks=None, warp: float = 1.0) -> Image.Image:
    picture, side = square(image, WORKED_AT[0])
    mesh = landmarks * (UNIT / side)
    n = int(np.clip(side, *WORKED_AT))
    work = picture if picture.width == n else picture.resize((n, n), Image.Resampling.BOX if picture.width % n == 0 else Image.Resampling.LANCZOS)
    lab = to_oklab(np.asarray(work))
    skin_tone = tone_of(lab, mesh)
    person = person_mask_of(lab)
    skin = skin_of(lab, mesh, person, skin_tone)
    points = mesh[:, :2]
    eyes = [study(lab, points, k, skin_tone) for k in range(2)]
    glasses = glasses_on(lab, points)
    brows = [study_brow(lab, points, k, skin) for k in range(2)]

    growth = tuple(warp * e.seen * (0.10 if glasses > 0.5 else 0.34 * float(smoothstep(e.openness, 0.10, 0.2)) + 0.06) for e in eyes)
    bend = film_warp(mesh, growth)
    layers = bend.apply(np.concatenate([lab, person[..., None], skin[..., None]], -1))
    lab, person, skin = layers[..., :3], layers[..., 3].clip(0, 1), layers[..., 4].clip(0, 1)
    mesh = np.concatenate([bend.carry(points), mesh[:, 2:]], 1)
    points = mesh[:, :2]
    brows = [replace(b, middle=bend.carry(b.middle)) for b in brows]
    out, light_x = body(lab, person, skin, mesh, eyes, brows, glasses, skin_tone)
    m = max(side, WORKED_AT[0])
    if m != n:
        out = np.stack([enlarge(out[..., c], m) for c in range(3)], -1)
        lab = np.stack([enlarge(lab[..., c], m) for c in range(3)], -1)
    out = np.ascontiguousarray(out, np.float32)
    paint_mouth(out, lab, points, skin_tone)
    for brow in brows:
        paint_brow(out, brow)
    for eye in eyes:
        paint_eye(out, points, eye, light_x)
    out = grade(out)
    result = Image.fromarray(from_oklab(out.astype(np.float32)))
    return result if side == m else result.resize((side, side), Image.Resampling.LANCZOS)


def grade(out):
    out = out.copy()
    l = out[..., 0]
    out[..., 1:] *= 1.06
    return out


def tone_of(lab, mesh):
    """Median over the cheeks, forehead and nose bridge."""
    n = lab.shape[0]
    s = n / UNIT
    patches = []
    for k in (50, 280, 205, 425, 151, 6, 117, 346):
        x, y = mesh[k, :2]
        r = 6
        a = lab[max(0, int((y - r) * s)) : max(1, int((y + r) * s)), max(0, int((x - r) * s)) : max(1, int((x + r) * s))]
        patches.append(a.reshape(-1, 3))
    return np.median(np.concatenate(patches), 0)


def skin_of(lab, mesh, person, tone):
    n = lab.shape[0]
    s = n / UNIT
    small = np.stack([np.asarray(Image.fromarray(lab[..., c]).resize((FINE, FINE), Image.Resampling.BOX)) for c in range(3)], -1)
    oval = blur(polygon(mesh[list(OVAL), :2], FINE), 1.0)
    form = relief(mesh)
    # Lightness expected of skin, from the light on the form.
    off = small - tone
    hue = (off[..., 1:] ** 2).sum(-1) / 0.035**2
    first = np.exp(-(hue + (off[..., 0] / 0.2) ** 2) / 2) * oval
    c = light_of(form.normal, small[..., 0], first + 1e-4)
    model = c[0] + form.normal @ c[1:]
    inside = form.inside
    expect = tone[0] + inside * (model - tone[0])
    rest = enlarge(np.clip(expect, tone[0] - 0.25, tone[0] + 0.2), n)
    inside = enlarge(oval, n)
    off0 = lab[..., 0] - rest
    off = lab - tone
    hue = (off[..., 1:] ** 2).sum(-1) / (0.032 + 0.014 * inside) ** 2
    dark = np.maximum(0, -off0 - 0.07 - 0.03 * inside) / (0.07 + 0.02 * inside)
    pale = np.maximum(0, off0 - 0.12 - 0.1 * inside) / 0.08
    skin = np.exp(-(hue + dark**2 + pale**2) / 2) * np.maximum(person, inside)
    skin = guided_filter(edges(lab), skin, 3 * s, 4e-4)
    skin = smoothstep(skin + 0.12 * inside, 0.3, 0.75)
    x, y = grid(n)
    points = mesh[:, :2]
    # Texture tells hair from skin of the same colour: on the forehead, and below the nose.
    light = lab[..., 0]
    grain = blur(np.abs(light - blur(light, 1.3 * s)), 2.2 * s)
    brow_y = points[[66, 296, 105, 334], 1].mean()
    high = smoothstep(brow_y - y, 4, 12)
    skin = skin * (1 - high * smoothstep(grain, 0.010, 0.020))
    # A beard: a darker or rougher volume on the lower face, one clean shape.
    nose_y, mouth_y = points[2, 1], points[[13, 14], 1].mean()
    ears = points[[132, 361]]
    line = np.interp(x[0], [ears[0, 0], points[2, 0], ears[1, 0]], [ears[0, 1], nose_y + 1, ears[1, 1]])[None, :]
    low = smoothstep(y - line, -2, 4) * inside
    lips = points[list(LIPS_OUTER)]
    c = lips.mean(0)
    lips = polygon(c + (lips - c) * (1.08, 1.25), n, 1.0)
    dark = smoothstep(blur(rest - light, 1.0 * s), 0.05, 0.12)
    rough = smoothstep(grain, 0.009, 0.02) * smoothstep(rest - light, -0.04, 0.03)
    grey = smoothstep(blur(np.hypot(*tone[1:]) - np.hypot(lab[..., 1], lab[..., 2]), 2 * s), 0.012, 0.03)
    hairy = np.maximum(dark * (0.4 + 0.6 * grey), rough * (0.3 + 0.7 * grey))
    hairy = normalised(hairy * low, 1 - 0.98 * lips, 2.5 * s) * (1 - lips)
    beard = smoothstep(hairy, 0.22, 0.5) * low
    # The middle of the face is skin, however deep its folds are.
    core = polygon(points[[9, 107, 70, 116, 50, 205, 129, 98, 2, 327, 358, 425, 280, 345, 300, 336]], n, 2.0)
    skin = np.maximum(skin * (1 - beard), smoothstep(core, 0.3, 0.9) * (1 - high))
    return skin


def glasses_on(lab, points):
    """Frames cross the bridge of the nose and run under the eyes."""
    n = lab.shape[0]
    s = n / UNIT
    light = blur(lab[..., 0], 0.6 * s)
    gy = np.abs(ndimage.gaussian_filter(lab[..., 0], 1.0 * s, order=(1, 0))) * s
    b = (points[168] + points[6]) / 2
    y0, y1 = int((b[1] - 9) * s), int((b[1] + 12) * s)
    x0, x1 = int((b[0] - 4) * s), int((b[0] + 4) * s)
    bridge = np.median(gy[y0:y1, x0:x1], 1).max()
    return float(smoothstep(bridge, 0.012, 0.022))


def normalised(x, weight, sigma):
    w = blur(weight, sigma) + 1e-4
    return blur(x * (weight if x.ndim == 2 else weight[..., None]), sigma) / (w if x.ndim == 2 else w[..., None])


def soft_core(x, t):
    """Small differences vanish, large ones stay."""
    return x * x * x / (x * x + t * t)


def body(lab, person, skin, mesh, eyes, brows, glasses, tone):
    n = lab.shape[0]
    s = n / UNIT
    points = mesh[:, :2]
    x, y = grid(n)
    form = relief(mesh)
    inside = enlarge(form.inside, n)

    # What must not colour the skin around it.
    holes = np.zeros((n, n), np.float32)
    cover = np.zeros((n, n), np.float32)
    for eye, brow in zip(eyes, brows):
        k = eye.side
        lids = np.concatenate([points[list(UPPER_LID[k])], points[list(LOWER_LID[k])][-2:0:-1]])
        c = lids.mean(0)
        grown = c + (lids - c) * (1.10, 1.25) + (0, -0.4)
        patch = polygon(grown, n, 0.8) * eye.seen
        holes = np.maximum(holes, polygon(c + (lids - c) * (1.14, 1.5), n, 0.5) * eye.seen)
        cover = np.maximum(cover, patch)
        wide = brow_ribbon(brow, n, 2.2)
        holes = np.maximum(holes, wide * brow.seen)
        cover = np.maximum(cover, brow_ribbon(brow, n, 1.6) * brow.seen)
    lips = points[list(LIPS_OUTER)]
    c = lips.mean(0)
    mouth = polygon(c + (lips - c) * (1.05, 1.08), n, 0.8)
    mouth_wide = polygon(c + (lips - c) * (1.10, 1.25), n, 1.0)
    holes = np.maximum(holes, mouth_wide)
    weight = skin * (1 - holes) ** 2

    # Skin: light explained by the form, plus what is left of it, smoothed.
    px = FINE / UNIT
    small = [np.asarray(Image.fromarray(np.ascontiguousarray(a)).resize((FINE, FINE), Image.Resampling.BOX)) for a in (*np.moveaxis(lab, -1, 0), weight)]
    w = small[3]
    coef = light_of(form.normal, small[0], w * form.inside + 1e-6)
    shade = form.normal @ coef[1:]
    shade = (shade - (shade * w * form.inside).sum() / ((w * form.inside).sum() + 1e-6)) * form.inside
    light_x = float(np.clip(coef[1] / 0.12, -1, 1))
    rest = small[0] - shade
    broad = normalised(rest, w, 9 * px)
    mid = normalised(rest, w, 4 * px) - broad
    base = broad + 0.55 * soft_core(mid, 0.02) + 1.15 * shade
    colour = np.stack([normalised(c, w, 8 * px) for c in small[1:3]], -1)

    # Added sculpture: hollows are darker and warmer, facing planes catch a key light.
    base = base - np.clip(0.012 * form.hollow, 0, 0.05)
    towards = np.array([0.45 * (1 if light_x > 0.15 else -1), -0.55, 0.75], np.float32)
    towards /= np.linalg.norm(towards)
    facing = form.normal @ towards
    level = (facing * w * form.inside).sum() / ((w * form.inside).sum() + 1e-6)
    key = (facing - level) * form.inside
    base = base + 0.06 * key
    half = towards + (0, 0, 1)
    half = half / np.linalg.norm(half)
    gloss = np.clip(form.normal @ half, 0, 1) ** 26 * form.inside
    base = base + 0.05 * gloss * (0.6 + 0.4 * tone[0])

    skin_light = enlarge(base, n)
    # Near the nose, the ears and the chin the finer forms are kept, if they are strong.
    fine = normalised(lab[..., 0], weight, 1.3 * s)
    finer = fine - normalised(lab[..., 0], weight, 4 * s)
    nose = points[2]
    near_nose = np.exp(-(((x - nose[0]) / 14) ** 2) - ((y - nose[1] + 3) / 9) ** 2)
    keep = 0.12 + 0.75 * near_nose + 0.6 * (1 - inside)
    for eye in eyes:
        e = points[list(UPPER_LID[eye.side])].mean(0)
        keep = keep + 0.35 * np.exp(-(((x - e[0]) / 18) ** 2) - ((y - e[1]) / 10) ** 2)
    skin_light = skin_light + np.clip(keep, 0, 1) * soft_core(finer, 0.018)
    skin_a, skin_b = enlarge(colour[..., 0], n), enlarge(colour[..., 1], n)
    # Subsurface: where light turns to shade skin glows red; blush.
    slope = enlarge(np.exp(-((key / 0.14) ** 2)) * form.inside, n)
    turn = np.clip((tone[0] - skin_light) / 0.15, 0, 1)
    skin_a = skin_a + 0.010 * turn * (1 - turn) * 4 * inside
    for k, sign in zip(CHEEKS, (-1, 1)):
        bx, by = points[k] + (2 * sign, 1)
        blush = np.exp(-(((x - bx) / 14) ** 2) - ((y - by) / 10) ** 2)
        skin_a = skin_a + 0.014 * blush
    tip = points[NOSE_TIP]
    skin_a = skin_a + 0.008 * np.exp(-(((x - tip[0]) / 9) ** 2) - ((y - tip[1] - 1) / 8) ** 2)
    del slope
    smooth_skin = np.stack([skin_light, skin_a, skin_b], -1)

    # Everything else of the person: along its flow, in strands.
    guide = edges(lab)
    mild = guided_filter(guide, lab, 2 * s, 6e-4)
    flow = Flow(mild[..., 0], s * 1.2, steps=6)
    strands = flow.smooth(mild, 5)
    volume = blur(strands, 2.2 * s)
    strands = flow.smooth(strands + 0.9 * (strands - volume), 3)
    wide = blur(strands[..., 0], 7 * s)
    strands[..., 0] += 0.25 * (volume[..., 0] - wide)
    strands[..., 1:] *= 1.12

    # Glasses: what lies around the eyes stays as it is, but clean.
    if glasses > 0 or min(e.seen for e in eyes) < 0.9:
        zone = np.zeros((n, n), np.float32)
        for eye in eyes:
            e = points[list(UPPER_LID[eye.side]) + list(LOWER_LID[eye.side])].mean(0)
            strength = max(glasses, 1 - eye.seen)
            z = np.exp(-((((x - e[0]) / 30) ** 2 + ((y - e[1] - 3) / 22) ** 2) ** 2))
            zone = np.maximum(zone, strength * z)
        clean = guided_filter(guide, lab, 2.5 * s, 8e-4)
    else:
        zone = None

    weight_skin = np.maximum(skin, cover * np.maximum(skin, 0.9 * inside))
    fg = mix(strands, smooth_skin, weight_skin)
    if zone is not None:
        diff = np.abs(lab[..., 0] - blur(lab[..., 0], 5 * s))
        frame = smoothstep(blur(diff, 0.8 * s), 0.02, 0.05)
        fg = mix(fg, clean, zone * np.maximum(frame, 0.25) * (1 - 0.8 * cover))

    # Background out of focus, without the person bleeding into it.
    back = 1 - person
    m = n // 2
    packed = [np.asarray(Image.fromarray(np.ascontiguousarray(a)).resize((m, m), Image.Resampling.BOX)) for a in (*np.moveaxis(lab, -1, 0), back)]
    wb = packed[3] ** 2 + 1e-3
    scene = np.stack(packed[:3], -1)
    near_blur, far_blur = (normalised(scene, wb, sigma * m / UNIT) for sigma in (1.6, 5.5))
    far = mix(near_blur, far_blur, 1 - smoothstep(blur(1 - packed[3], 7 * m / UNIT), 0.5, 0.02) if False else smoothstep(blur(packed[3], 7 * m / UNIT), 0.55, 0.98))
    far = np.stack([enlarge(far[..., k], n) for k in range(3)], -1)
    out = mix(far, fg, person)
    return out, light_x

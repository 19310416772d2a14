"""Which part of a face crop is skin, hair, clothes and background, estimated from its landmarks and colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image
from scipy import ndimage

from ..faces import mesh as M
from .colour import edge_guide
from .filters import blur, guided_filter, resized, smoothstep
from .pen import UNIT, Pen, curve, grown

WORK = 320
SCALE = WORK / UNIT  # pixels of the working grid in a unit


@dataclass(frozen=True, eq=False)
class Regions:
    """Masks ``[WORK, WORK]`` in [0, 1]: the person, and the skin and hair of that person (hats count as hair)."""

    person: np.ndarray
    skin: np.ndarray
    hair: np.ndarray


def skin_colour(lab: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Oklab ``[3]`` of a face's skin: the median over cheeks, nose and forehead."""
    s = lab.shape[0] / UNIT
    spots = [(50, 7), (280, 7), (5, 5), (151, 8), (205, 6), (425, 6)]
    patches = []
    for index, r in spots:
        x, y = points[index]
        box = [int(np.clip(round(v * s), 0, lab.shape[0])) for v in (y - r, y + r, x - r, x + r)]
        patches.append(lab[box[0] : box[1], box[2] : box[3]].reshape(-1, 3))
    patch = np.concatenate(patches)
    return np.median(patch, axis=0) if len(patch) else lab.mean((0, 1))


def connected(mask: np.ndarray, *, diagonally: bool = False) -> tuple[np.ndarray, int]:
    """Connected components of a bool ``[H, W]``: their labels ``[H, W]`` (0 = outside) and their number."""
    structure = np.ones((3, 3)) if diagonally else None
    return cast("tuple[np.ndarray, int]", ndimage.label(mask, structure))


def find_regions(lab: np.ndarray, points: np.ndarray, confidence: float) -> Regions:
    """Regions of a crop on the working grid ``[WORK, WORK, 3]``, whose landmarks ``[478, 2]`` are in units."""
    n = 80
    small = resized(lab, n, Image.Resampling.BOX)
    posterior = segment(small, _prior(points, n))
    # Only the component that holds the nose is the person.
    pieces, _ = connected(posterior[..., 0] < 0.5)
    at = np.clip((points[4] * (n / UNIT)).astype(int), 0, n - 1)
    posterior[(pieces != pieces[at[1], at[0]]) & (pieces > 0)] = (1, 0, 0, 0)
    fine = guided_filter(edge_guide(lab), resized(posterior[..., :3], WORK), 5 * SCALE, 1.5e-4, step=2)
    person = smoothstep(1 - fine[..., 0], 0.2, 0.55)
    beard = _beard(lab, points) * confidence
    skin = smoothstep(fine[..., 1], 0.3, 0.7) * person * (1 - beard)
    hair = np.maximum(smoothstep(fine[..., 2], 0.3, 0.7), beard) * person
    return Regions(person, skin, hair)


def _beard(lab: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Beard and moustache: below the nose, darker or whiter than skin and full of detail, unlike shadows."""
    light = lab[..., 0]
    oval = curve(points[[*M.FACE_OVAL, M.FACE_OVAL[0]]], 96)
    lips = np.concatenate([curve(points[list(M.LIPS_OUTER_UPPER)]), curve(points[list(M.LIPS_OUTER_LOWER)])[::-1]])
    pen = Pen(WORK, 2).shape(grown(oval, 3.0))
    y = ((np.arange(WORK, dtype=np.float32) + 0.5) / SCALE)[:, None]
    nose = float(points[2][1])
    zone = np.clip(blur(pen.ink(), 2 * SCALE) * 1.3, 0, 1) * smoothstep(y, nose - 3, nose + 3)
    zone = zone * (1 - blur(Pen(WORK, 2).shape(lips).ink(), 0.8 * SCALE))
    texture = blur(np.abs(light - blur(light, 1.3 * SCALE)), 1.5 * SCALE)
    # The opening removes single edges, whose bands are narrower than it.
    texture = blur(ndimage.grey_opening(texture, round(7 * SCALE)), 1.5 * SCALE)
    plain = float(skin_colour(lab, points)[0])
    darker = plain - blur(light, 1.5 * SCALE)
    other = smoothstep(darker, 0.09 * plain + 0.03, 0.18 * plain + 0.05) + smoothstep(-darker, 0.08, 0.16)
    beard = zone * smoothstep(texture, 0.007, 0.013) * np.minimum(other, 1)
    return smoothstep(blur(beard, 1.5 * SCALE), 0.25, 0.65)


def _prior(points: np.ndarray, n: int) -> np.ndarray:
    """Probability of background, skin, hair and clothes at each position, ``[n, n, 4]``, from the landmarks."""
    x = ((np.arange(n) + 0.5) * (UNIT / n))[None, :]
    y = x.T
    oval = points[list(M.FACE_OVAL)]
    middle, width = (oval.min(0) + oval.max(0)) / 2, np.ptp(oval[:, 0])
    top, chin = oval[:, 1].min(), oval[:, 1].max()
    inside = blur(Pen(n, 4).shape(oval).ink(), 0.7)
    eyes = points[[33, 263]].mean(0)[1]
    # 1 on the outline of an ordinary head of hair, which rises above the mesh: that ends at the hairline.
    drop = np.where(y < eyes, (eyes - y) / (0.80 * width), (y - eyes) / max(1.25 * (chin - eyes), 1))
    away = ((x - middle[0]) / (0.66 * width)) ** 2 + drop**2
    head = 1 / (1 + np.exp(4 * (away - 1.1)))
    upper = 1 - smoothstep(y, eyes + 0.2 * (chin - eyes), chin + 0.3 * width)
    hair = head * (0.35 + 0.55 * upper) * (1 - inside)
    fringe = 1 - smoothstep(y, top, top + 0.45 * (eyes - top))
    hair += inside * (0.10 + 0.25 * fringe)
    aside = np.abs(x - middle[0]) / width
    locks = np.exp(-(((aside - 0.62) / 0.16) ** 2) / 2) * smoothstep(y, eyes, chin) * (1 - inside)
    hair += 0.35 * locks
    beard = smoothstep(y, points[2][1], points[2][1] + 0.15 * width)
    hair += inside * 0.22 * beard
    neck = np.exp(-(((x - points[152][0]) / (0.36 * width)) ** 4)) * smoothstep(y, chin - 0.1 * width, chin)
    neck *= 1 - smoothstep(y, chin + 0.25 * width, chin + 0.75 * width)
    ears = np.exp(-(((aside - 0.52) / 0.06) ** 2) / 2) * np.exp(-(((y - eyes - 12) / 30) ** 2) / 2)
    brow = 1 / (1 + np.exp(12 * (((x - middle[0]) / (0.47 * width)) ** 2 + drop**2 / 0.62 - 1))) * (y < eyes)
    skin = inside * 0.85 + (1 - inside) * (0.55 * neck + 0.35 * ears + 0.8 * brow)
    shoulder = ((x - points[152][0]) / (1.25 * width)) ** 2 + ((y - chin - 0.6 * width) / (0.62 * width)) ** 2
    clothes = (1 - inside) * 0.9 / (1 + np.exp(6 * (shoulder - 1.0)))
    clothes *= smoothstep(y, chin - 0.05 * width, chin + 0.3 * width)
    ground = (1 - inside) * (1 - head) * (1 - 0.9 * np.minimum(1, clothes + neck + 0.4 * locks))
    prior = np.stack([ground + 0.02 * (1 - inside), skin + 0.005, hair + 0.02, clothes + 0.01], -1) + 1e-4
    core = ((x - middle[0]) / (0.36 * width)) ** 2 + ((y - points[4][1]) / (0.30 * (chin - top))) ** 2 < 1
    prior[..., 0] = np.where(core, 1e-6, prior[..., 0])
    return prior / prior.sum(-1, keepdims=True)


def segment(lab: np.ndarray, prior: np.ndarray, rounds: int = 8) -> np.ndarray:
    """Probabilities ``[n, n, K]`` of K classes, without any trained network.

    Colour histograms of the kinds, started from ``prior``, and smooth fields that only bend at edges
    (random-walker segmentation with unary terms; Grady 2006) are fitted in turns.

    Args:
        lab: a small Oklab picture ``[n, n, 3]``; 64 to 96 px are enough.
        prior: probability of each kind by position ``[n, n, K]``; 0 and 1 are certain.
    """
    kinds = prior.shape[2]
    bins = 16
    cells = np.rint((lab - lab.mean((0, 1))) / (0.045, 0.016, 0.016) + bins / 2).clip(0, bins - 1).astype(int)
    cell = (cells * (bins * bins, bins, 1)).sum(-1)

    def likelihood(weight: np.ndarray) -> np.ndarray:
        counts = np.bincount(cell.ravel(), weight.ravel(), bins**3).reshape(bins, bins, bins)
        smooth = ndimage.gaussian_filter(counts, 0.8) + 1e-3
        return (smooth / smooth.sum()).ravel()[cell]

    def link(difference: np.ndarray) -> np.ndarray:
        return (3 * np.exp(-((difference * (1, 2.5, 2.5)) ** 2).sum(-1) / 0.0045) + 0.02).astype(np.float32)[..., None]

    right, down = link(np.diff(lab, axis=1)), link(np.diff(lab, axis=0))
    degree = np.zeros((*prior.shape[:2], 1), np.float32)
    degree[:, 1:] += right
    degree[:, :-1] += right
    degree[1:] += down
    degree[:-1] += down
    posterior = prior
    for turn in range(rounds):
        evidence = np.log(np.stack([likelihood(posterior[..., k] ** 2) for k in range(kinds)], -1))
        evidence = np.clip(evidence - evidence.max(-1, keepdims=True), -5, 0)
        belief = prior * np.exp(1.1 * evidence)
        belief = (belief / belief.sum(-1, keepdims=True)).astype(np.float32)
        if turn < rounds - 2:  # the random walk is costly: run it when the histograms have settled
            posterior = ndimage.gaussian_filter(belief, (1, 1, 0))
            continue
        top = np.sort(belief, axis=-1)
        trust = 0.6 * (top[..., -1:] - top[..., -2:-1]) + 0.02
        posterior = np.clip(_walk(belief, trust, right, down, degree), 1e-4, 1)
        posterior = posterior / posterior.sum(-1, keepdims=True)
    return posterior.astype(np.float32)


def _walk(
    belief: np.ndarray, trust: np.ndarray, right: np.ndarray, down: np.ndarray, degree: np.ndarray, steps: int = 30
) -> np.ndarray:
    """The random walker's fields ``[n, n, K]``, solved by conjugate gradients for all K at once.

    They minimise trust (v - belief)^2 plus, for each pair of neighbours, link times their squared difference.
    """

    def apply(v: np.ndarray) -> np.ndarray:
        out = trust * v
        pull = right * np.diff(v, axis=1)
        out[:, 1:] += pull
        out[:, :-1] -= pull
        pull = down * np.diff(v, axis=0)
        out[1:] += pull
        out[:-1] -= pull
        return out

    scale = 1 / (trust + degree)
    v = belief.copy()
    r = trust * belief - apply(v)
    z = scale * r
    p, rz = z, (r * z).sum((0, 1))
    for _ in range(steps):
        q = apply(p)
        alpha = rz / ((p * q).sum((0, 1)) + 1e-20)
        v += alpha * p
        r -= alpha * q
        z = scale * r
        rz, before = (r * z).sum((0, 1)), rz
        p = z + rz / (before + 1e-20) * p
    return v

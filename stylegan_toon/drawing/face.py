"""What the renderers share: the curves of a face, its regions, and the warp that changes its proportions.

Positions and lengths are in 1/256 of the side of the crop, whatever its size. Fields are computed on one grid of
`WORK` pixels and enlarged or reduced before they are thresholded, so that a drawing is the same at any size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image

from ..errors import ToonError
from ..faces import mesh as M
from .colour import to_oklab
from .filters import blur, resized, smoothstep, spread
from .pen import UNIT, Pen, curve, grown
from .segmentation import SCALE, WORK, Regions, find_regions, skin_colour

SMALLEST = 32

_EYES = (
    (M.LEFT_EYE_UPPER, M.LEFT_EYE_LOWER, M.LEFT_IRIS, M.LEFT_BROW_UPPER, M.LEFT_BROW_LOWER),
    (M.RIGHT_EYE_UPPER, M.RIGHT_EYE_LOWER, M.RIGHT_IRIS, M.RIGHT_BROW_UPPER, M.RIGHT_BROW_LOWER),
)


@dataclass(frozen=True, eq=False)
class Eye:
    """An eye as curves in units (1/256 of the side of the crop).

    Attributes:
        upper, lower: lids ``[k, 2]`` from the picture's left to its right.
        iris: centre ``[2]``.
        radius: of the iris.
        brow: closed outline ``[k, 2]`` of the brow.
        open: 1 for a wide open, visible eye, which may be redrawn; 0 for one that is closed or hidden.
        visibility: 0 for an eye behind dark glass, a patch or a deep shadow, else 1; a closed eye counts as visible.
        outer: -1 if the temple lies to the picture's left of the eye, 1 if to its right.
    """

    upper: np.ndarray
    lower: np.ndarray
    iris: np.ndarray
    radius: float
    brow: np.ndarray
    open: float
    visibility: float
    outer: int

    @property
    def centre(self) -> np.ndarray:
        return (self.upper.mean(0) + self.lower.mean(0)) / 2

    @property
    def width(self) -> float:
        return float(np.hypot(*(self.upper[-1] - self.upper[0])))

    @property
    def opening(self) -> np.ndarray:
        """Closed outline ``[48, 2]`` of the area between the lids."""
        return np.concatenate([curve(self.upper), curve(self.lower)[::-1]])


@dataclass(frozen=True, eq=False)
class Face:
    """A face with all that the renderers need to draw it.

    Attributes:
        lab: Oklab ``[WORK, WORK, 3]``.
        points: ``[478, 2]`` in units; `stylegan_toon.faces.mesh` names the curves.
        confidence: from 0 (no face: the points are a guess) to 1 (a face).
        glasses: from 0 (none) to 1 (spectacles or sunglasses).
        eyes: the picture's left one first.
    """

    lab: np.ndarray
    points: np.ndarray
    confidence: float
    glasses: float
    eyes: tuple[Eye, Eye]

    def line(self, indices: tuple[int, ...], count: int = 24) -> np.ndarray:
        """A smooth curve ``[count, 2]`` through points of the mesh."""
        return curve(self.points[list(indices)], count)

    @property
    def width(self) -> float:
        """From one side of the face to the other at the height of the eyes, in units."""
        return float(np.hypot(*(self.points[454] - self.points[234])))

    @cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres of the working grid in units: x ``[1, n]`` and y ``[n, 1]``."""
        x = ((np.arange(WORK, dtype=np.float32) + 0.5) / SCALE)[None, :]
        return x, x.T

    @cached_property
    def lips(self) -> tuple[np.ndarray, np.ndarray]:
        """Outlines ``[k, 2]`` of the lips and of the mouth's opening."""
        pairs = ((M.LIPS_OUTER_UPPER, M.LIPS_OUTER_LOWER), (M.LIPS_INNER_UPPER, M.LIPS_INNER_LOWER))
        outer, inner = (np.concatenate([self.line(a), self.line(b)[::-1]]) for a, b in pairs)
        return outer, inner

    @cached_property
    def mouth_gap(self) -> float:
        """Distance of the inner edges of the lips at their middle, in units."""
        return float(np.hypot(*(self.points[13] - self.points[14])))

    @cached_property
    def features(self) -> np.ndarray:
        """Eyes, brows, nostrils and mouth: where fine detail counts, ``[WORK, WORK]`` in [0, 1]."""
        pen = Pen(WORK, 2)
        for eye in self.eyes:
            pen.shape(grown(eye.opening, 2.5)).shape(grown(eye.brow, 1.5))
        pen.shape(grown(self.lips[0], 1.5))
        base = self.line(M.NOSE_BASE)
        pen.stroke(base - (0, 1), 7)
        return np.clip(1.2 * blur(pen.ink(), 1.2 * SCALE), 0, 1) * self.confidence

    @cached_property
    def regions(self) -> Regions:
        return find_regions(self.lab, self.points, self.confidence)

    @cached_property
    def skin_colour(self) -> np.ndarray:
        """Oklab ``[3]``: the median over cheeks, nose and forehead."""
        return skin_colour(self.lab, self.points)


def square(image: Image.Image | np.ndarray, at_least: int = SMALLEST) -> tuple[Image.Image, int]:
    """The crop as RGB, enlarged to ``at_least`` pixels if it is smaller, and the side it came with.

    Raises:
        ToonError: the picture is not square, or smaller than 32 px.
    """
    picture = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image).convert("RGB")
    side = picture.width
    if picture.size != (side, side) or side < SMALLEST:
        raise ToonError(
            f"A drawing needs a square face crop of at least {SMALLEST} px, not {picture.width}x{picture.height}: "
            "align the photo first."
        )
    if side < at_least:
        picture = picture.resize((at_least, at_least), Image.Resampling.BICUBIC)
    return picture, side


def analyse(picture: Image.Image, landmarks: np.ndarray | None = None, *, grow: float = 0.0, slim: float = 0.0) -> Face:
    """Locate the parts of a face crop, and warp it to larger eyes and a narrower chin.

    Args:
        picture: RGB, square.
        landmarks: ``[5, 2]`` in pixels of the picture, as of `align.Face`, or a mesh ``[478, 2]``; None detects them.
        grow: enlargement of the eyes: 0.2 is a fifth. Eyes that are closed or behind glasses are not enlarged.
        slim: narrowing of the chin, as a share of its width.
    """
    points, confidence = _landmarks(picture, landmarks)
    work = picture.resize((WORK, WORK), Image.Resampling.LANCZOS)
    lab = to_oklab(np.asarray(work))
    glasses = confidence * _glasses(lab, points)
    eyes = _eyes(lab, points, confidence)
    # Two hidden eyes mean dark glasses.
    glasses = max(glasses, confidence * (1 - eyes[0].visibility) * (1 - eyes[1].visibility))
    if grow or slim:
        bend = _Bend(points, eyes, grow * (1 - glasses), slim * confidence)
        lab = to_oklab(np.asarray(bend.picture(work)))
        points = bend.points(points)
        opened = [(eye.open, eye.visibility) for eye in eyes]
        eyes = _eyes(lab, points, confidence, opened)
    return Face(lab, points, confidence, glasses, eyes)


def person_mask(face: np.ndarray) -> np.ndarray:
    """Where the person is in an aligned face, uint8 ``[n, n, 3]`` -> ``[n, n]`` in [0, 1]."""
    picture, side = square(face)
    return np.clip(resized(analyse(picture).regions.person, side), 0, 1)


def _landmarks(picture: Image.Image, landmarks: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Mesh in units, and the confidence, 0 to 1, that it lies on a face."""
    mesh = M.face_mesh(picture)
    points = mesh.points * (UNIT / picture.width)
    confidence = float(smoothstep(mesh.score, 0.3, 0.7))
    if landmarks is None:
        return points, confidence
    given = np.asarray(landmarks, float) * (UNIT / picture.width)
    if len(given) == len(points):
        return given[:, :2], 1.0
    # Five points move the mesh as a whole: scale, rotation and shift by least squares.
    five = [points[[33, 133]].mean(0), points[[362, 263]].mean(0), points[M.NOSE_TIP], points[61], points[291]]
    a, b = (np.asarray(p) @ (1, 1j) for p in (five, given))
    turn = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean())
    moved = (points @ (1, 1j) - a.mean()) * turn + b.mean()
    return np.stack([moved.real, moved.imag], 1), max(confidence, 0.7)


def _eyes(
    lab: np.ndarray, points: np.ndarray, confidence: float, opened: list[tuple[float, float]] | None = None
) -> tuple[Eye, Eye]:
    eyes = []
    for k, (upper, lower, iris, above, below) in enumerate(_EYES):
        up, low = points[list(upper)], points[list(lower)]
        centre, edge = points[iris[0]], points[list(iris[1:])]
        brow = np.concatenate([curve(points[list(above)]), curve(points[list(below)])[::-1]])
        radius = float(np.hypot(*(edge - centre).T).mean())
        eyes.append(Eye(up, low, centre, radius, brow, 1.0, confidence, (-1, 1)[k]))
    if opened is None:
        signs = [_open(lab, eye, points) for eye in eyes]
        # Light rarely falls on both eyes alike, so the higher contrast counts for both.
        contrast = max(sign[1] for sign in signs)
        opened = [
            (confidence * float(smoothstep(float(gap * contrast * bright), 0.3, 0.7)), confidence * bright)
            for gap, _, bright in signs
        ]
    left, right = (
        replace(eye, open=opening, visibility=visibility) for eye, (opening, visibility) in zip(eyes, opened)
    )
    return left, right


def _open(lab: np.ndarray, eye: Eye, points: np.ndarray) -> tuple[float, float, float]:
    """Three signs of an open eye, each in [0, 1]: a gap between the lids, contrast inside it, and its lightness."""
    gap = np.hypot(*(eye.upper[3:6] - eye.lower[3:6]).T).mean() / max(eye.width, 1e-6)
    between = lab[..., 0][Pen(WORK, 2).shape(eye.opening).ink() > 0.6]
    if len(between) < 20:
        return 0.0, 0.0, 0.0
    dark, light = np.percentile(between, (10, 92))
    skin = skin_colour(lab, points)[0]
    return (
        float(smoothstep(float(gap), 0.12, 0.20)),
        float(smoothstep(float(light - dark), 0.07, 0.15)),
        float(smoothstep(float(light / max(skin, 0.05)), 0.50, 0.66)),
    )


def _glasses(lab: np.ndarray, points: np.ndarray) -> float:
    """From 0 to 1 (spectacles): fine detail across the bridge of the nose and below the eyes."""
    return float(smoothstep(float(glasses_score(lab, points)), 0.038, 0.055))


def glasses_score(lab: np.ndarray, points: np.ndarray) -> float:
    """Mean size of fine detail over the bridge of the nose and in the arcs below the eyes, where skin has little."""
    light = lab[..., 0]
    fine = np.abs(blur(light, 0.8 * SCALE) - blur(light, 2.4 * SCALE)) / max(skin_colour(lab, points)[0], 0.3)
    unit = np.hypot(*(points[263] - points[33])) / 90
    bridge = Pen(WORK, 2).stroke(curve(points[[168, 6, 197]]), 9 * unit).ink()
    rims = []
    for lower in (M.LEFT_EYE_LOWER, M.RIGHT_EYE_LOWER):
        arc = points[list(lower)][1:-1]
        down = (points[152] - points[168]) / np.hypot(*(points[152] - points[168]))
        rims.append(Pen(WORK, 2).stroke(curve(arc + 13 * unit * down), 13 * unit).ink())
    scores = [np.sort(fine[mask > 0.5])[-max(8, int((mask > 0.5).sum() * 0.35)) :].mean() for mask in (bridge, *rims)]
    return float(min(scores[0], max(scores[1:])))


class _Bend:
    """One smooth warp: larger eyes, a narrower chin. `source` maps points of the drawing to points of the photo."""

    def __init__(self, points: np.ndarray, eyes: tuple[Eye, Eye], grow: float, slim: float) -> None:
        self.eyes, self.grow, self.slim = eyes, grow, slim
        self.chin, self.middle = points[152], points[[234, 454]].mean(0)
        self.width = np.hypot(*(points[454] - points[234]))

    def source(self, p: np.ndarray) -> np.ndarray:
        p = np.asarray(p, float)
        out = p.copy()
        for eye in self.eyes:
            d = p - eye.centre
            reach = np.array([1.05, 0.9]) * max(eye.width, 10)
            bump = np.clip(1 - ((d / reach) ** 2).sum(-1), 0, None) ** 2
            out -= (self.grow / (1 + self.grow) * eye.open * bump)[..., None] * d * (0.92, 1)
        down = (p[..., 1] - self.middle[1]) / max(self.chin[1] - self.middle[1], 1)
        off = p[..., 0] - (self.middle[0] + (self.chin[0] - self.middle[0]) * down)
        low = smoothstep(down, 0.45, 1.0) * (1 - smoothstep(down, 1.05, 1.5))
        out[..., 0] += self.slim * off * low * np.exp(-((off / (0.6 * self.width)) ** 4))
        return out

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points ``[k, 2]`` of the photo in the drawing: `source` is inverted by fixed-point iteration."""
        moved = points.copy()
        for _ in range(6):
            moved = moved + (points - self.source(moved))
        return moved

    def picture(self, picture: Image.Image, cells: int = 32) -> Image.Image:
        side = picture.width
        at = np.arange(cells + 1) * (UNIT / cells)
        corner = self.source(np.stack(np.meshgrid(at, at), -1)) * (side / UNIT)
        pixel = np.rint(at * (side / UNIT)).astype(int)
        moved = np.abs(corner - np.stack(np.meshgrid(at, at), -1) * (side / UNIT)).max(-1) > 0.02
        mesh, mask = [], Image.new("L", picture.size)
        for r in range(cells):
            for c in range(cells):
                if not moved[r : r + 2, c : c + 2].any():
                    continue
                quad = (corner[r, c], corner[r + 1, c], corner[r + 1, c + 1], corner[r, c + 1])
                box = (pixel[c], pixel[r], pixel[c + 1], pixel[r + 1])
                mesh.append((box, tuple(float(v) for q in quad for v in q)))
                mask.paste(255, box)
        bent = picture.transform(picture.size, Image.Transform.MESH, mesh, Image.Resampling.BICUBIC)
        return Image.composite(bent, picture, mask)


def cheeks(face: Face) -> np.ndarray:
    """The cheeks, bool ``[WORK, WORK]``: skin whose colour a drawing must keep; all False if hidden."""
    pen = Pen(WORK, 1)
    for corners in ((50, 36, 206, 207, 187), (280, 266, 426, 427, 411)):
        pen.shape(face.points[list(corners)])
    return (pen.ink() > 0.5) & (face.regions.skin > 0.7)


def background(face: Face) -> np.ndarray:
    """The background, Oklab ``[WORK, WORK, 3]``: smoothed, with the person filled in from around."""
    outside = (1 - smoothstep(blur(face.regions.person, 2 * SCALE), 0.02, 0.25)).astype(np.float32)
    return spread(face.lab, outside + 1e-4, 14 * SCALE)

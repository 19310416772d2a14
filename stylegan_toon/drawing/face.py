"""What the renderers share about a face: where its eyes are, the person, the skin; on a grid of any size.

Lengths are in 1/256 of the side of the crop, whatever its size in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import ToonError
from .tools import blur, foreground, guided_filter, smoothstep, to_oklab

# Where features lie in an FFHQ crop of 256 px. Lengths in this file are in 1/256 of the side.
LEFT_EYE, RIGHT_EYE, NOSE, MOUTH = (96.0, 119.5), (160.0, 119.5), (128.0, 160.0), (128.0, 188.0)
UNIT = 256
DRAWN_AT_LEAST = 256  # smaller faces are enlarged first, so that lines stay clean


@dataclass(frozen=True)
class Face:
    """A face on its grid: lightness and colour, and where things are, in units of 1/256 of the side."""

    lab: np.ndarray  # [n, n, 3] Oklab
    eyes: tuple[tuple[float, float], tuple[float, float]]  # image-left eye first
    clarity: tuple[float, float]  # 1: an open eye was found there, 0: sunglasses, closed, hidden
    mouth: tuple[float, float]
    x: np.ndarray  # [1, n] pixel centres
    y: np.ndarray  # [n, 1]

    @property
    def scale(self) -> float:
        return self.lab.shape[0] / UNIT

    def spot(self, centre: tuple[float, float], a: float, b: float, power: int = 2) -> np.ndarray:
        """A bump of height 1: Gaussian with standard deviations (a, b), flatter on top for higher powers."""
        dx, dy = (self.x - centre[0]) / a, (self.y - centre[1]) / b
        return np.exp(-(np.abs(dx) ** power + np.abs(dy) ** power) / 2)


def square(image: Image.Image | np.ndarray, at_least: int) -> tuple[Image.Image, int]:
    """The crop as RGB, enlarged to ``at_least`` pixels if it is smaller, and the side it came with.

    Raises:
        ToonError: the picture is not square, or smaller than 32 px.
    """
    picture = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
    side = picture.width
    if picture.size != (side, side) or side < 32:
        raise ToonError(
            f"A drawing needs a square face crop of at least 32 px, not {picture.width}x{picture.height}: "
            "align the photo first."
        )
    if side < at_least:
        picture = picture.resize((at_least, at_least), Image.Resampling.BICUBIC)
    return picture, side


def look(lab: np.ndarray, landmarks: np.ndarray | None) -> Face:
    """Find the eyes: dark discs as wide as an iris, near where the alignment puts them (or landmarks do)."""
    n = lab.shape[0]
    scale = n / UNIT
    x = ((np.arange(n, dtype=np.float32) + 0.5) / scale)[None, :]
    y = x.T
    disc = blur(lab[..., 0], 8.4 * scale) - blur(lab[..., 0], 2.6 * scale)
    expected = (LEFT_EYE, RIGHT_EYE) if landmarks is None else [tuple(point) for point in landmarks[:2]]
    spread = (9, 6) if landmarks is None else (4, 3)
    eyes, clarity = [], []
    for ex, ey in expected:
        near = np.exp(-(((x - ex) / spread[0]) ** 2 + ((y - ey) / spread[1]) ** 2) / 2)
        response = np.maximum(disc, 0) * near
        top, left = np.unravel_index(response.argmax(), response.shape)
        weight = response**2 * (np.hypot(x - x[0, left], y - y[top, 0]) < 3.5) + 1e-12 * near
        eyes.append((float((weight * x).sum() / weight.sum()), float((weight * y).sum() / weight.sum())))
        clarity.append(float(smoothstep(disc[top, left], 0.05, 0.11)))
    if landmarks is None:
        # The head turns about its axis: the mouth follows the eyes a little.
        mouth = (MOUTH[0] + 0.35 * ((eyes[0][0] + eyes[1][0]) / 2 - MOUTH[0]), MOUTH[1])
    else:
        mouth = tuple(landmarks[3:5].mean(0))
    return Face(lab, tuple(eyes), tuple(clarity), mouth, x, y)


def edges(lab: np.ndarray) -> np.ndarray:
    """A grey guide in which warm skin and a background of the same lightness differ, so no colour spills over."""
    return lab[..., 0] + lab[..., 1] + lab[..., 2]


def mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return a + weight[..., None] * (b - a)


def regions(face: Face) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Person ``[n, n]``, skin colour ``[3]`` and skin ``[n, n]``."""
    lab, s = face.lab, face.scale
    person = _person(lab)
    colour = skin_colour(lab)
    off = lab - colour
    hue = (off[..., 1:] ** 2).sum(-1) / 0.035**2
    too_dark = np.maximum(0, -off[..., 0] - 0.1) / 0.10
    too_light = np.maximum(0, off[..., 0] - 0.2) / 0.07
    skin = np.exp(-(hue + too_dark**2 + too_light**2) / 2) * person
    skin = smoothstep(guided_filter(edges(lab), skin, 4 * s, 4e-4), 0.25, 0.75)
    return person, colour, skin


def person_mask(face: np.ndarray) -> np.ndarray:
    """Where the person is in an aligned face, uint8 ``[n, n, 3]`` -> ``[n, n]`` in [0, 1]; see `tools.foreground`."""
    return _person(to_oklab(face))


def _person(lab: np.ndarray) -> np.ndarray:
    n = lab.shape[0]
    s = n / UNIT
    small = np.stack([_resized(lab[..., c], 64, Image.Resampling.BOX) for c in range(3)], -1)
    grid = (np.arange(64) + 0.5) / 64
    x, y = grid[None, :], grid[:, None]
    head = ((x - 0.5) / 0.34) ** 2 + ((y - 0.46) / 0.44) ** 2
    body = ((x - 0.5) / 0.60) ** 2 + ((y - 1.12) / 0.36) ** 2
    prior = 1 / (1 + np.exp(5 * (np.minimum(head, body) - 1.05)))
    core = ((x - 0.5) / 0.20) ** 2 + ((y - 0.56) / 0.27) ** 2 < 1
    person = _resized(foreground(small, prior, core).astype(np.float32), n, Image.Resampling.BICUBIC)
    return smoothstep(guided_filter(edges(lab), person, 6 * s, 1e-4), 0.15, 0.75)


def skin_colour(lab: np.ndarray) -> np.ndarray:
    """Oklab ``[3]``: the median over cheeks, nose and forehead."""
    s = lab.shape[0] / UNIT
    spots = [(92, 145, 14), (164, 145, 14), (128, 150, 10), (128, 90, 16)]
    patches = [
        lab[round((y - r) * s) : round((y + r) * s), round((x - r) * s) : round((x + r) * s)].reshape(-1, 3)
        for x, y, r in spots
    ]
    return np.median(np.concatenate(patches), axis=0)


def _resized(x: np.ndarray, side: int, filter: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(x).resize((side, side), filter))

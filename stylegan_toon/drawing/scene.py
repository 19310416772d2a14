"""A whole photo in the look of a drawing style, so that a pasted cartoon does not stand in a photo.

Faces are not drawn as faces here: a cartoon is pasted over each. Lengths are in units, which are 1/256 of the side of
a face's crop, as in the styles; fields are ``[H, W]`` of the working size, colours Oklab.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from ..data.images import shrink
from ..errors import ToonError
from ..faces.align import Aligned, affine, crop
from ..faces.person import person_mask
from . import pop
from .colour import edge_guide, from_oklab, to_oklab
from .filters import blur, guided_filter, mix, smoothstep, soft_levels
from .flow import Flow
from .ink import BLACK, PAPER
from .pen import UNIT

WORK = 1280  # longer side in pixels of what is drawn; larger photos are reduced, and the drawing is enlarged
UNITS = (0.9, 3.0)  # pixels in a unit, at least and at most: strokes cannot be thinner than pixels
BODY = 3.2  # side of the square in which the person is looked for, in sides of the face's crop
MOST_FACES = 24  # the largest ones


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo at the working size.

    Attributes:
        lab: ``[H, W, 3]``.
        person: probability of a person.
        scale: pixels in a unit.
    """

    lab: np.ndarray
    person: np.ndarray
    scale: float

    @cached_property
    def denoised(self) -> np.ndarray:
        """The photo without its grain, ``[H, W, 3]``."""
        return guided_filter(edge_guide(self.lab), self.lab, 2 * self.scale, 8e-4)

    @cached_property
    def flow(self) -> Flow:
        return Flow(blur(self.denoised[..., 0], 0.5 * self.scale), self.scale)

    @cached_property
    def strands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lightness of masses, deviation of strands from it in units of their usual size, and that size."""
        light = self.denoised[..., 0]
        strand = self.flow.smooth(self.lab[..., 0], 4)
        strand = strand + 0.8 * (strand - blur(strand, 1.3 * self.scale))
        mass = guided_filter(light, light, 6 * self.scale, 4e-3)
        detail = strand - mass
        size = np.sqrt(blur(detail**2, 9 * self.scale))
        return mass, detail / (size + 0.008), size

    def lines(self, threshold: float) -> np.ndarray:
        """Dark lines in [0, 1]: differences of Gaussians averaged along the flow (Kang et al. 2007)."""
        light, s = self.denoised[..., 0], self.scale
        response = self.flow.smooth(blur(light, 1.45 * s) - blur(light, 0.8 * s), 3.5)
        return smoothstep((response - threshold) / 0.014, 0.0, 1.0)


def draw_scene(photo: Image.Image, style: str, faces: Sequence[Aligned] = ()) -> Image.Image:
    """Draw everything in a photo but the faces.

    Args:
        photo: RGB, any size. The cost is bounded: at most 1280 px are drawn and then enlarged.
        style: a name in `drawing.STYLES`.
        faces: of the photo; strokes are as wide as those of a drawing of the largest, and the persons around them
            stand out from the background.

    Returns:
        RGB picture of the photo's size.

    Raises:
        ToonError: there is no such style.
    """
    if style not in SCENES:
        raise ToonError(f"There is no drawing style {style!r}: choose one of {', '.join(SCENES)}.")
    small = shrink(photo, WORK)
    times = small.width / photo.width
    faces = sorted(faces, key=lambda face: -face.side)[:MOST_FACES]
    side = times * faces[0].side if faces else 0.4 * max(small.size)
    scene = Scene(to_oklab(np.asarray(small)), _person(small, faces, times), float(np.clip(side / UNIT, *UNITS)))
    drawn = Image.fromarray(from_oklab(SCENES[style](scene).astype(np.float32)))
    return drawn if drawn.size == photo.size else drawn.resize(photo.size, Image.Resampling.BICUBIC)


def _person(small: Image.Image, faces: Sequence[Aligned], times: float) -> np.ndarray:
    """Probability of a person, looked for around each face; in the whole picture if there is none."""
    if not faces:
        mask = Image.fromarray(person_mask(small)).resize(small.size, Image.Resampling.BICUBIC)
        return np.asarray(mask).clip(0, 1)
    result = np.zeros((small.height, small.width), np.float32)
    for face in faces:
        quad = times * face.quad
        quad = quad.mean(0) + BODY * (quad - quad.mean(0)) + 0.8 * (quad[1] - quad[0])
        mask = person_mask(crop(small, quad, 256))
        inverse = np.linalg.inv(np.vstack([affine(quad, len(mask)), (0, 0, 1)]))[:2].ravel().tolist()
        mask = Image.fromarray(mask).transform(small.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
        result = np.maximum(result, np.asarray(mask))
    return result


def _comic(scene: Scene) -> np.ndarray:
    mass, z, size = scene.strands
    steps = 1.1 * smoothstep(z, 0.35, 0.75) + 0.9 * smoothstep(z, 1.2, 1.6)
    steps = steps - 1.0 * smoothstep(-z, 0.35, 0.75) - 0.7 * smoothstep(-z, 1.1, 1.5)
    tone = mass + np.clip(1.15 * size, 0.0, 0.10) * (steps + 0.25 * np.clip(z, -2, 2))
    colour = scene.flow.smooth(blur(scene.denoised[..., 1:], 0.8 * scene.scale), 3)
    drawing = np.dstack([tone, 1.12 * colour])
    calm = guided_filter(edge_guide(scene.lab), scene.lab, 7 * scene.scale, 4e-3)
    calm[..., 0] = 0.93 * calm[..., 0] + 0.05
    drawing = mix(calm, drawing, smoothstep(scene.person, 0.3, 0.7))
    line = scene.lines(0.012) * (0.35 + 0.65 * scene.person)
    dark = drawing * np.array((0.20, 0.5, 0.45), np.float32) + np.array((0.085, 0.004, 0.004), np.float32)
    return mix(drawing, np.minimum(dark, drawing), 0.92 * line)


def _animated(scene: Scene) -> np.ndarray:
    s = scene.scale
    strands = scene.flow.smooth(scene.denoised, 5)
    volume = blur(strands, 2.2 * s)
    strands = scene.flow.smooth(strands + 0.9 * (strands - volume), 3)
    strands[..., 0] += 0.25 * (volume[..., 0] - blur(volume[..., 0], 7 * s))
    strands[..., 1:] *= 1.12
    # The background is out of focus, and the person does not smear into it.
    weight = ((1 - scene.person) ** 2 + 1e-3)[..., None]
    far = blur(scene.lab * weight, 3.5 * s) / blur(weight, 3.5 * s)
    return mix(far, strands, smoothstep(scene.person, 0.2, 0.6))


def _ink(scene: Scene) -> np.ndarray:
    mass, z, size = scene.strands
    value = mass + (0.10 * smoothstep(size, 0.006, 0.03) + 0.6 * size) * z
    black, grey, pale = (1 - smoothstep(value, low, low + 0.06) for low in (0.36, 0.50, 0.64))
    tone = PAPER - 0.09 * pale - 0.23 * grey
    tone = tone + black * (BLACK - tone)
    person = smoothstep(blur(scene.person, 0.8 * scene.scale), 0.35, 0.65)
    tone = PAPER + person * (tone - PAPER)
    outline = smoothstep(4 * person * (1 - person), 0.55, 0.9)
    line = np.maximum(scene.lines(0.014) * (0.6 + 0.4 * person), 0.9 * outline)
    tone = np.minimum(tone, tone + line * (BLACK - tone)).clip(0, 1)
    return np.dstack([tone, np.zeros_like(tone), np.zeros_like(tone)])


def _pop(scene: Scene) -> np.ndarray:
    lab = _comic(scene)
    person = blur(smoothstep(blur(scene.person, 3 * scene.scale), 0.45, 0.6), 0.8 * scene.scale)
    light = soft_levels(1.1 * lab[..., 0] - 0.03, 8, 3.0)
    drawing = np.dstack([light, lab[..., 1:] * (1 + 0.3 * smoothstep(light, 0.3, 0.6))[..., None]])
    drawing = mix(np.broadcast_to(np.array(pop.BACKGROUND, np.float32), lab.shape), drawing, person)
    outline = np.clip(2 * blur(smoothstep(4 * person * (1 - person), 0.1, 0.6), 1.2 * scene.scale), 0, 1)
    return mix(drawing, np.array(pop.INK, np.float32), outline)


SCENES: dict[str, Callable[[Scene], np.ndarray]] = {"comic": _comic, "ink": _ink, "pop": _pop, "animated": _animated}

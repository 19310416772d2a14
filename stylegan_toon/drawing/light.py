"""How a face is lit: the large forms of its skin, the strands of its hair, and the lines a photo shows."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from . import strokes
from .colour import edge_guide
from .face import Face
from .filters import blur, guided_filter, resized, smoothstep, spread
from .flow import Flow
from .segmentation import SCALE


class Light:
    """Smooth fields of a face: ``[WORK, WORK]`` unless a method's docstring says ``[sheet, sheet]``.

    Args:
        face: of the photo, after its warp.
        sheet: side of the drawing in pixels.
    """

    def __init__(self, face: Face, sheet: int) -> None:
        self.face, self.sheet = face, sheet
        self.denoised = guided_filter(edge_guide(face.lab), face.lab, 2 * SCALE, 8e-4)  # the photo without its grain
        self.flow = Flow(blur(self.denoised[..., 0], 0.5 * SCALE), SCALE)

    def up(self, field: np.ndarray) -> np.ndarray:
        """A field ``[WORK, WORK]`` or ``[WORK, WORK, C]`` at the size of the sheet."""
        return resized(field, self.sheet)

    @cached_property
    def form(self) -> np.ndarray:
        """Oklab of the skin without features, folds and spots, ``[WORK, WORK, 3]``."""
        lab, skin = self.face.lab, self.face.regions.skin
        weight = skin * (1 - self.face.features)
        # Dark lenses must not count as shaded skin.
        dark = smoothstep(float(self.face.skin_colour[0]) - lab[..., 0], 0.10, 0.20)
        weight = weight * (1 - dark * strokes.lenses(self.face))
        # Pixels much darker or lighter than their surroundings are not skin, but frames, the edge of a beard, or glare.
        first = spread(lab[..., 0], weight, 9 * SCALE)
        weight = weight * np.exp(-(((lab[..., 0] - first) / 0.13) ** 2) / 2) + 1e-4 * skin
        near, wide = (spread(lab, weight, width * SCALE) for width in (4.5, 11))
        near[..., 0] = 0.6 * near[..., 0] + 0.4 * wide[..., 0]
        return near

    @cached_property
    def tones(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Lightness minus that of the skin; then shade, deep shade and shine in [0, 1]; all ``[sheet, sheet]``."""
        plain = float(self.face.skin_colour[0])
        depth = self.up(self.form[..., 0]) - plain
        unit, soft = self.contrast, 0.018
        shade, deep, shine = (
            smoothstep(sign * depth, at * unit - soft, at * unit + soft)
            for sign, at in ((-1, 0.055), (-1, 0.145), (1, 0.05))
        )
        return depth, shade, deep, shine

    @property
    def contrast(self) -> float:
        """Scale of the tones, from 0.6 to 1 (light skin): tones of dark skin lie closer together."""
        return 0.6 + 0.4 * min(1.0, float(self.face.skin_colour[0]) / 0.7)

    @cached_property
    def outliers(self) -> tuple[np.ndarray, np.ndarray]:
        """Differences from skin, such as spectacles: Oklab ``[WORK, WORK, 3]``, and their weight in [0, 1]."""
        rest = self.denoised - self.form
        strange = blur(np.abs(rest[..., 0]) + 0.7 * np.hypot(rest[..., 1], rest[..., 2]), 0.8 * SCALE)
        least = 0.12 - 0.05 * self.face.glasses
        return rest, smoothstep(strange, least, least + 0.07)

    @cached_property
    def strands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hair and clothes averaged along their flow: lightness of the mass, deviation of strands from it in units
        of their usual size, and that size."""
        strand = self.flow.smooth(self.face.lab[..., 0], 4)
        strand = strand + 0.8 * (strand - blur(strand, 1.3 * SCALE))
        strand = self.flow.smooth(strand, 4)
        mass = guided_filter(self.denoised[..., 0], self.denoised[..., 0], 6 * SCALE, 4e-3, step=2)
        detail = strand - mass
        size = np.sqrt(blur(detail**2, 9 * SCALE))
        return mass, detail / (size + 0.008), size

    def lines(self, skin_threshold: float = 0.012, hair_threshold: float = 0.007) -> np.ndarray:
        """Lines of the photo, ``[sheet, sheet]`` in [0, 1]: differences of Gaussians averaged along the
        flow (Kang et al. 2007), softly thresholded.

        Thresholds are lowest along the jaw, high on the rest of the skin (few wrinkles) and in the background;
        where strokes of features will be drawn, the threshold is raised, so that no second line runs beside them.
        """
        light, regions = self.denoised[..., 0], self.face.regions
        response = self.flow.smooth(blur(light, 1.45 * SCALE) - blur(light, 0.8 * SCALE), 3.5)
        flat = regions.skin * (1 - strokes.creases(self.face))
        flat = flat * (1 - 0.85 * strokes.lenses(self.face))
        outside = 1 - smoothstep(blur(regions.person, 3 * SCALE), 0.1, 0.4)
        threshold = 0.007 + skin_threshold * flat + hair_threshold * regions.hair + 0.08 * outside
        threshold = threshold + 0.03 * strokes.drawn_area(self.face)
        over = self.up((response - threshold) / (0.012 + 0.014 * flat))
        return smoothstep(over, 0.0, 1.0) * (1 - 0.45 * self.up(flat))

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
    """Soft fields of a face, on its working grid, or enlarged to ``sheet`` where that is said.

    Args:
        face: what was seen.
        sheet: side of the drawing in pixels.
    """

    def __init__(self, face: Face, sheet: int) -> None:
        self.face, self.sheet = face, sheet
        self.mild = guided_filter(edge_guide(face.lab), face.lab, 2 * SCALE, 8e-4)  # the photo without its grain
        self.flow = Flow(blur(self.mild[..., 0], 0.5 * SCALE), SCALE)

    def up(self, field: np.ndarray) -> np.ndarray:
        """A field at the size of the sheet."""
        return resized(field, self.sheet)

    @cached_property
    def form(self) -> np.ndarray:
        """Oklab of the skin without features, folds and spots, ``[WORK, WORK, 3]``."""
        lab, skin = self.face.lab, self.face.regions.skin
        weight = skin * (1 - self.face.features)
        # Dark glass is no shade.
        dark = smoothstep(float(self.face.skin_colour[0]) - lab[..., 0], 0.10, 0.20)
        weight = weight * (1 - dark * strokes.lenses(self.face))
        # What is much darker or lighter than its surroundings is no skin: frames, stubble's edge, glare.
        first = spread(lab[..., 0], weight, 9 * SCALE)
        weight = weight * np.exp(-(((lab[..., 0] - first) / 0.13) ** 2) / 2) + 1e-4 * skin
        near, wide = (spread(lab, weight, width * SCALE) for width in (4.5, 11))
        near[..., 0] = 0.6 * near[..., 0] + 0.4 * wide[..., 0]
        return near

    @cached_property
    def tones(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Skin against its own lightness, on the sheet: the difference; then shade, deep shade and shine, 0 to 1."""
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
        """Shades of dark skin lie closer together: 1 for light skin, down to 0.6."""
        return 0.6 + 0.4 * min(1.0, float(self.face.skin_colour[0]) / 0.7)

    @cached_property
    def odd(self) -> tuple[np.ndarray, np.ndarray]:
        """What stands out from the skin, such as spectacles: its difference, Oklab, and how surely, 0 to 1."""
        rest = self.mild - self.form
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
        mass = guided_filter(self.mild[..., 0], self.mild[..., 0], 6 * SCALE, 4e-3, step=2)
        detail = strand - mass
        size = np.sqrt(blur(detail**2, 9 * SCALE))
        return mass, detail / (size + 0.008), size

    def lines(self, skin_threshold: float = 0.012, hair_threshold: float = 0.007) -> np.ndarray:
        """What the photo shows as lines, ``[sheet, sheet]`` in [0, 1]: differences of Gaussians averaged along the
        flow (Kang et al. 2007), softly thresholded.

        Thresholds are lowest along the jaw, high on the rest of the skin (few wrinkles) and in the background;
        where strokes of features will be drawn, nothing is left beside them.
        """
        light, regions = self.mild[..., 0], self.face.regions
        response = self.flow.smooth(blur(light, 1.45 * SCALE) - blur(light, 0.8 * SCALE), 3.5)
        flat = regions.skin * (1 - strokes.creases(self.face))
        flat = flat * (1 - 0.85 * strokes.lenses(self.face))
        outside = 1 - smoothstep(blur(regions.person, 3 * SCALE), 0.1, 0.4)
        threshold = 0.007 + skin_threshold * flat + hair_threshold * regions.hair + 0.08 * outside
        threshold = threshold + 0.03 * strokes.drawn_area(self.face)
        over = self.up((response - threshold) / (0.012 + 0.014 * flat))
        return smoothstep(over, 0.0, 1.0) * (1 - 0.45 * self.up(flat))

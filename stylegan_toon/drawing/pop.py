"""Pop art: a flat bright background, a heavy outline, few tones, strong colours, large eyes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .colour import from_oklab, to_oklab
from .comic import draw_comic
from .face import person_mask, square
from .filters import blur, smoothstep, soft_levels

BACKGROUND, INK = (0.90, 0.00, 0.14), (0.16, 0.01, -0.04)  # Oklab


def draw_pop(image: Image.Image | np.ndarray, *, landmarks: np.ndarray | None = None) -> Image.Image:
    """Draw an FFHQ-aligned face as pop art, at its own size; arguments and errors as of `draw_comic`."""
    large, side = square(image, 256)
    s = large.width / 256
    if landmarks is not None:
        landmarks = landmarks * (large.width / side)
    lab = to_oklab(np.asarray(draw_comic(large, landmarks=landmarks, warp=1.6)))
    person = blur(smoothstep(blur(person_mask(np.asarray(large)), 8.0 * s), 0.5, 0.6), 0.8 * s)
    light = soft_levels(1.1 * lab[..., 0] - 0.03, 8, 3.0)
    pop = np.dstack([light, lab[..., 1:] * (1 + 0.3 * smoothstep(light, 0.3, 0.6))[..., None]])
    pop = np.array(BACKGROUND) + person[..., None] * (pop - np.array(BACKGROUND))
    outline = smoothstep(4 * person * (1 - person), 0.1, 0.6)
    outline = np.clip(blur(outline, 1.2 * s) * 2.0, 0, 1)
    pop = pop + outline[..., None] * (np.array(INK) - pop)
    drawn = Image.fromarray(from_oklab(pop.astype(np.float32)))
    return drawn if drawn.width == side else drawn.resize((side, side), Image.Resampling.LANCZOS)

"""Procedural renderers: an aligned photo of a face becomes a drawing.

The renderers are deterministic and have no trained parameters of their own; landmarks come from `faces.mesh`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from ..errors import ToonError
from .animated import draw_animated
from .comic import draw_comic
from .ink import draw_ink
from .pop import draw_pop

__all__ = ["STYLES", "draw", "draw_animated", "draw_comic", "draw_ink", "draw_pop"]

STYLES: dict[str, Callable[..., Image.Image]] = {
    "comic": draw_comic,
    "ink": draw_ink,
    "pop": draw_pop,
    "animated": draw_animated,
}


def draw(image: Image.Image | np.ndarray, style: str, *, landmarks: np.ndarray | None = None) -> Image.Image:
    """Draw an FFHQ-aligned face in one of `STYLES`.

    Args:
        image: square face crop, RGB picture or uint8 ``[n, n, 3]``.
        style: a name in `STYLES`.
        landmarks: ``[5, 2]`` pixel positions of the eyes, nose and mouth corners (image-left first), as
            `align.Face` holds them; None looks for the features near where the alignment puts them.

    Returns:
        RGB picture of the same size.

    Raises:
        ToonError: there is no such style, or the picture is not square or smaller than 32 px.
    """
    if style not in STYLES:
        raise ToonError(f"There is no drawing style {style!r}: choose one of {', '.join(STYLES)}.")
    return STYLES[style](image, landmarks=landmarks)

"""Procedural renderers: an aligned photo of a face becomes a drawing.

The renderers are deterministic and have no trained parameters of their own; landmarks come from `faces.mesh`.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np
from PIL import Image

from ..errors import ToonError

STYLES = ("comic", "ink", "pop", "animated")  # of each, the module with its name has draw_NAME


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
    # Loaded when needed: the renderers bring in parts of scipy, which would take a second from every cartoon.
    module = import_module(f".{style}", __package__)
    return getattr(module, f"draw_{style}")(image, landmarks=landmarks)

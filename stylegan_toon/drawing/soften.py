"""Lines in the skin, half as deep as the photo's: networks draw soft folds beside a mouth as black strokes."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from ..faces import mesh as M
from ..faces.mesh import face_mesh
from .colour import from_oklab, to_oklab
from .filters import blur, resized, weighted_blur
from .geometry import UNIT, polygon

SIDE = 512  # pixels: of the crops that are compared; lengths below are in these pixels
AROUND = 16  # standard deviation of the blur that says how light the skin around a line is
NEAR = 3  # how far a line of the photo may lie from one of the cartoon
SHARE = 0.5  # of the depth of a line in the photo, which the cartoon may have: cartoons have simpler skin
FREE = 0.02  # lightness (Oklab) by which skin may be darker than around it in any case
FACE = 0.5  # least probability that a picture shows a face
# Closed curves of the mesh whose inside is no skin, and by how many pixels they are grown: around eyes as far as
# spectacles reach.
FEATURES = (
    (M.LEFT_EYE_UPPER, M.LEFT_EYE_LOWER, 40),
    (M.RIGHT_EYE_UPPER, M.RIGHT_EYE_LOWER, 40),
    (M.LEFT_BROW_UPPER, M.LEFT_BROW_LOWER, 6),
    (M.RIGHT_BROW_UPPER, M.RIGHT_BROW_LOWER, 6),
    (M.LIPS_OUTER_UPPER, M.LIPS_OUTER_LOWER, 6),
)
INSIDE = 0.97  # the face's outline is drawn in, so that the jaw keeps its ink


def soften_lines(photo: Image.Image, cartoon: Image.Image, amount: float = 1.0) -> Image.Image:
    """The cartoon with lines in its skin that are at most about half as deep as the photo's at the same place.

    Eyes, brows, lips, spectacles and the outline of the face stay as they are. A line is what is darker than the skin
    around it, and its depth by how much; what is lighter is not changed.

    Args:
        photo: aligned crop, square RGB.
        cartoon: of this crop, square RGB, any size.
        amount: share of the difference that is taken away, 0 to 1.

    Returns:
        RGB picture of the cartoon's size; the cartoon itself where no face is seen in it.
    """
    if amount <= 0:
        return cartoon
    drawn = cartoon.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    mesh = face_mesh(drawn, looks=2)
    if mesh.score < FACE:
        return cartoon
    skin = skin_area(mesh)
    wanted = to_oklab(np.asarray(photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)))[..., 0]
    lab = to_oklab(np.asarray(drawn))
    around = weighted_blur(lab, skin, AROUND)
    depth = lab[..., 0] - around[..., 0]  # below 0 on lines
    allowed = SHARE * _deepest(wanted, skin) - FREE
    lighter = blur(np.maximum(allowed - depth, 0) * skin * amount, 0.6)
    # Ink has no colour of its own: where it is lightened it takes that of the skin around it.
    share = np.clip(lighter / np.maximum(-depth, FREE), 0, 1)[..., None]
    shift = np.concatenate([lighter[..., None], share * (around - lab)[..., 1:]], -1)
    shift = resized(shift.astype(np.float32), cartoon.width, Image.Resampling.BILINEAR)
    return Image.fromarray(from_oklab(to_oklab(np.asarray(cartoon.convert("RGB"))) + shift))


def skin_area(mesh: M.Mesh) -> np.ndarray:
    """Where a crop of `SIDE` pixels shows skin, without the features of the face: ``[SIDE, SIDE]``, 0 to 1."""
    points = mesh.points * (UNIT / SIDE)
    outline = points[list(M.FACE_OVAL)]
    middle = outline.mean(0)
    skin = polygon(middle + INSIDE * (outline - middle), SIDE, soft=1.0)
    for upper, lower, margin in FEATURES:
        curve = points[[*upper, *reversed(lower)]]
        grown = ndimage.maximum_filter(polygon(curve, SIDE), 2 * margin + 1)
        skin = skin * (1 - blur(grown, 2.0))
    return skin.astype(np.float32)


def _deepest(light: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """How far the darkest skin within `NEAR` pixels is below the skin around it: ``[SIDE, SIDE]``, at most 0."""
    depth = blur(light, 1.0) - weighted_blur(light, skin, AROUND)
    y, x = np.mgrid[-NEAR : NEAR + 1, -NEAR : NEAR + 1]
    darkest = ndimage.grey_erosion(np.where(skin > 0.5, depth, 0), footprint=x * x + y * y <= NEAR * NEAR + 1)
    return np.minimum(blur(darkest.astype(np.float32), 1.5), 0)

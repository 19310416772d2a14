"""Attributes of a face that can be measured in a picture: pose, mouth, eyes, shape, lightness of hair and skin.

They come from the face mesh and the picture's colours. `pretrained/recipes/directions.py` finds with them in which
directions of w the faces of a generator change.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..drawing.colour import to_oklab
from ..faces.mesh import Mesh, face_mesh
from .skin import cheeks_lab

ATTRIBUTES = {
    "smile": "corners of the mouth above the upper lip, plus half its width, over the distance of the eyes",
    "mouth-open": "distance of the lips over the distance of the eyes",
    "eyes-open": "height of the eyes over their width",
    "brows": "height of the brows above the eyes over the distance of the eyes",
    "yaw": "degrees by which the head is turned to the picture's right",
    "pitch": "degrees by which the head is turned down",
    "face-width": "width of the face over its height",
    "eye-size": "width of the eyes over the width of the face",
    "hair-lightness": "Oklab lightness of the top of the head, 0 to 1",
    "skin-lightness": "CIELAB lightness of the cheeks, 0 to 100",
}
HAIR_BOX = (0.35, 0.04, 0.65, 0.13)  # left, top, right, bottom as shares of an FFHQ crop: hair in nearly all of them
_ACROSS = ((33, 263), (133, 362), (61, 291), (234, 454), (127, 356))  # pairs of points, left and right of the face
_DOWN = ((10, 152), (168, 2))


def measure_attributes(face: Image.Image, mesh: Mesh | None = None) -> np.ndarray:
    """The attributes of a face, float64 ``[len(ATTRIBUTES)]`` in their order.

    Args:
        face: FFHQ-aligned square crop.
        mesh: its landmarks; None = they are computed.

    Raises:
        ToonError: the picture is not square, or too small for `face_mesh`.
    """
    mesh = mesh or face_mesh(face)
    shape = _shape(mesh)
    left, top, right, bottom = (round(share * face.width) for share in HAIR_BOX)
    hair = to_oklab(np.asarray(face.convert("RGB"))[top:bottom, left:right])[..., 0]
    return np.array([*shape, float(np.median(hair)), cheeks_lab(face, mesh)[0]])


def _shape(mesh: Mesh) -> tuple[float, ...]:
    points = np.column_stack([mesh.points, mesh.depth])
    turn = _pose(points)
    upright = points @ turn.T  # x to the face's right in the picture, y down the face, z into the head

    def span(a: int, b: int, axis: int) -> float:
        return float(upright[b, axis] - upright[a, axis])

    eyes = span(33, 263, 0)
    corners, lip = upright[[61, 291], 1].mean(), upright[13, 1]
    openness = (span(159, 145, 1) / span(33, 133, 0) + span(386, 374, 1) / span(362, 263, 0)) / 2
    brows = (span(105, 159, 1) + span(334, 386, 1)) / 2
    across, down = turn[0], turn[1]
    return (
        float((lip - corners + span(61, 291, 0) / 2) / eyes),
        span(13, 14, 1) / eyes,
        openness,
        brows / eyes,
        float(np.degrees(np.arctan2(across[2], across[0]))),
        float(np.degrees(np.arctan2(down[2], down[1]))),
        span(234, 454, 0) / span(10, 152, 1),
        (span(33, 133, 0) + span(362, 263, 0)) / 2 / span(234, 454, 0),
    )


def _pose(points: np.ndarray) -> np.ndarray:
    """Orthonormal rows ``[3, 3]``: the face's own axes (across, down, into the head) in the camera's coordinates."""
    across = np.sum([points[right] - points[left] for left, right in _ACROSS], axis=0)
    across = across / np.linalg.norm(across)
    down = np.sum([points[low] - points[high] for high, low in _DOWN], axis=0)
    down = down - (down @ across) * across
    down = down / np.linalg.norm(down)
    return np.stack([across, down, np.cross(across, down)])

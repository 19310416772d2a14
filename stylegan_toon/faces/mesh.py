"""Dense landmarks of an aligned face: brows, lids, irises, nose, lips and outline as named curves.

Positions are in pixels with the origin at the outer corner of the first one, whose centre is (0.5, 0.5). "Left" is
the picture's left, not the person's. Open curves run from the picture's left to its right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ToonError
from ..weights import shipped_network
from .mesh_network import SIDE, FaceMesh

# Indices of points. The numbering is that of MediaPipe's face mesh.
FACE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
    *(148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)  # closed, clockwise from the top of the forehead; 152 is the chin. It lies on the head, from ear to ear: when the
# head is turned by more than about 30 degrees, its far side is hidden behind the face; `outline` is what is visible.
JAW = (
    *(234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152),
    *(377, 400, 378, 379, 365, 397, 288, 361, 323, 454),
)  # from ear to ear
LEFT_BROW_UPPER = (70, 63, 105, 66, 107)
LEFT_BROW_LOWER = (46, 53, 52, 65, 55)
RIGHT_BROW_UPPER = (336, 296, 334, 293, 300)
RIGHT_BROW_LOWER = (285, 295, 282, 283, 276)
LEFT_EYE_UPPER = (33, 246, 161, 160, 159, 158, 157, 173, 133)
LEFT_EYE_LOWER = (33, 7, 163, 144, 145, 153, 154, 155, 133)
RIGHT_EYE_UPPER = (362, 398, 384, 385, 386, 387, 388, 466, 263)
RIGHT_EYE_LOWER = (362, 382, 381, 380, 374, 373, 390, 249, 263)
LEFT_IRIS = (468, 469, 470, 471, 472)  # centre, then its edge: right, top, left, bottom
RIGHT_IRIS = (473, 474, 475, 476, 477)
LIPS_OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LIPS_OUTER_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
LIPS_INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LIPS_INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
NOSE_BRIDGE = (168, 6, 197, 195, 5, 4)  # from between the eyes down to the tip
NOSE_TIP = 4
NOSE_LEFT_WING = (198, 49, 64, 98)  # from above the wing down to where it meets the lip
NOSE_RIGHT_WING = (420, 279, 294, 327)
NOSE_BASE = (98, 97, 2, 326, 327)  # under the nostrils

# Where the face is looked for first, as shares of the crop's side: centre and side of a square.
FIRST_BOX = (0.5, 0.6, 1.02)  # the mean over portraits of what is looked at in the end
MARGIN = 1.5  # side of the square looked at / longer side of the landmarks' box, as in MediaPipe
LOOKS = 3
SMALLEST_FACE = 32


@dataclass(frozen=True, eq=False)
class Mesh:
    """A face's landmarks.

    Attributes:
        points: float64 ``[478, 2]``: (x, y) in pixels of the crop; some may lie outside it.
        depth: float64 ``[478]``, in pixels as well: smaller towards the viewer, 0 about the middle of the head.
        score: probability that this is a face, 0 to 1.
    """

    points: np.ndarray
    depth: np.ndarray
    score: float

    def scaled(self, factor: float) -> Mesh:
        """The mesh of the same crop at ``factor`` times the size."""
        return Mesh(self.points * factor, self.depth * factor, self.score)


@lru_cache(maxsize=2)
def mesh_network(device: str = "cpu") -> FaceMesh:
    """The shipped network, in eval mode.

    Raises:
        ToonError: its file is missing from the installation or damaged.
    """
    return shipped_network("face-mesh", FaceMesh).to(device)


def face_mesh(face: Image.Image, *, device: str = "cpu", looks: int = LOOKS) -> Mesh:
    """Landmarks of a face.

    The network runs three times: on nearly the whole crop, then twice on the square around the last landmarks. That
    makes them less sensitive to small shifts and changes of scale of the crop.

    Args:
        face: FFHQ-aligned square crop of any size from 32 px on.
        looks: how often the network runs; 1 is a third of the work, and less exact.

    Raises:
        ToonError: the picture is not square, or too small.
    """
    side = face.width
    if face.size != (side, side) or side < SMALLEST_FACE:
        raise ToonError(
            f"Landmarks need a square face crop of at least {SMALLEST_FACE} px, not {face.width}x{face.height}: "
            "align the photo first."
        )
    pixels = np.asarray(face.convert("RGB"))
    network = mesh_network(device)
    points, logit = _look(network, pixels, np.multiply(FIRST_BOX[:2], side), FIRST_BOX[2] * side)
    for _ in range(looks - 1):
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        centre, length = (low + high) / 2, float(np.clip(MARGIN * (high - low).max(), 0.25 * side, 2 * side))
        points, logit = _look(network, pixels, centre, length)
    return Mesh(points[:, :2].copy(), points[:, 2].copy(), float(logit.sigmoid()))


def _look(network: FaceMesh, pixels: np.ndarray, centre: np.ndarray, length: float) -> tuple[np.ndarray, Tensor]:
    """Run the network on the square of side ``length`` around ``centre`` ``[2]`` of uint8 ``[n, n, 3]``.

    Returns:
        Landmarks float64 ``[478, 3]`` in pixels of the crop, and the presence of a face as a logit ``[1]``.
    """
    corner = centre - length / 2
    device = network.mesh.weight.device
    img = torch.from_numpy(_square(pixels, corner, length)).to(device).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        landmarks, logit = network(img)
    points = landmarks[0].double().cpu().numpy() * (length / SIDE)
    points[:, :2] += corner
    return points, logit


def turned(mesh: Mesh) -> float:
    """How far the tip of the nose is from between the eyes, along the line through them, in eye distances.

    0 = seen from the front, about 0.6 = a half profile.
    """
    left, right = mesh.points[[33, 133]].mean(0), mesh.points[[362, 263]].mean(0)
    across = right - left
    return float((mesh.points[NOSE_TIP] - (left + right) / 2) @ across / max(across @ across, 1e-6))


def outline(mesh: Mesh) -> np.ndarray:
    """The visible contour, float64 ``[N, 2]``: the convex hull of all points, clockwise in the picture, not closed."""
    from scipy.spatial import ConvexHull

    return mesh.points[ConvexHull(mesh.points).vertices]


def _square(pixels: np.ndarray, corner: np.ndarray, length: float) -> np.ndarray:
    """The square at ``corner`` (x, y) as uint8 ``[192, 192, 3]``; beyond the picture its edge pixels are repeated."""
    side = len(pixels)
    pad = int(np.ceil(max(0, *-corner, *(corner + length - side))))
    padded = Image.fromarray(np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge") if pad else pixels)
    left, top = corner + pad
    box = (max(0.0, left), max(0.0, top), min(padded.width, left + length), min(padded.height, top + length))
    return np.array(padded.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))

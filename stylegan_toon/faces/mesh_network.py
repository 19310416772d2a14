"""The network behind `mesh.face_mesh`: 478 landmarks of a face, with lips and eyes refined.

A trunk of separable residual blocks gives 468 landmarks; three heads then refine lips and eyes from the
trunk's finer features, cropped upright around them (Grishchenko et al., "Attention Mesh: High-
fidelity Face Mesh Prediction in Real-time", arXiv 2006.10962). Layers and cut-outs are those of MediaPipe's
``face_landmark_with_attention.tflite``; `pretrained/recipes/face_mesh.py` converts its weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 192  # of the picture that the network takes; landmarks are in its pixels
POINTS = 478  # 468 of the trunk and five for each iris
_FINE = 4  # pixels per cell of the features that the heads take
_GRID = 16  # side of a crop in cells
_WIDER = 1.5  # side of a crop over that of the box of its points

# Points that a head refines, in the order of its outputs. "Left" is the picture's left.
LIPS = (
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409),  # outer edge
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415),  # inner edge
    *(76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408),
    *(62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407),
)
LEFT_EYE = (
    *(33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),  # lids
    *(130, 25, 110, 24, 23, 22, 26, 112, 243, 247, 30, 29, 27, 28, 56, 190),  # three rings around them
    *(226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189),
    *(35, 124, 46, 53, 52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245),
    *(156, 70, 63, 105, 66, 107, 55, 193),  # brow
)
RIGHT_EYE = (
    *(263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
    *(359, 255, 339, 254, 253, 252, 256, 341, 463, 467, 260, 259, 257, 258, 286, 414),
    *(446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442, 441, 413),
    *(265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465),
    *(383, 300, 293, 334, 296, 336, 285, 417),
)
LIDS = 16  # the first points of an eye, whose mean depth is the iris's


@dataclass(frozen=True)
class FaceMeshConfig:
    """This network has no options."""


class Separable(nn.Module):
    """Depthwise 3x3, pointwise 1x1, added to the input, PReLU.

    With ``stride`` 2 the input's side of the sum is max-pooled; where there are more channels out than in, it is
    zero in the new ones. Padding is TensorFlow's "same": one more row and column at the end, none at the start.
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(before, before, 3, stride, padding=1 if stride == 1 else 0, groups=before)
        self.pointwise = nn.Conv2d(before, after, 1)
        self.act = nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(self.depthwise(x if self.stride == 1 else F.pad(x, (0, 1, 0, 1))))
        if self.stride == 2:
            x = F.max_pool2d(x, 2)
        return self.act(F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])) + y)


def _separables(*widths: int, down: Sequence[int] = ()) -> list[nn.Module]:
    """Blocks from each width to the next; those whose number is in ``down`` halve the side."""
    pairs = enumerate(itertools.pairwise(widths))
    return [Separable(before, after, 2 if number in down else 1) for number, (before, after) in pairs]


class _Start(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3, 2), nn.PReLU(16), *_separables(16, 16, 16, 32, down=[2]))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (0, 1, 0, 1)))


class _Tail(nn.Sequential):
    """From 128 channels to the outputs: ``[N, 128, 2 s, 2 s]`` -> ``[N, 32, s, s]`` -> ``[N, outputs]``."""

    def __init__(self, side: int, outputs: int) -> None:
        super().__init__(
            *_separables(128, 128, 128, 128, 128, 128, down=[2]),
            *(nn.Conv2d(128, 32, 1), nn.PReLU(32), *_separables(32, 32)),
            *(nn.Conv2d(32, outputs, side), nn.Flatten()),
        )


class _Head(nn.Module):
    """Refines the points of one crop ``[N, 32, 16, 16]``, and for an eye those of the iris."""

    def __init__(self, points: int, iris: bool) -> None:
        super().__init__()
        self.common = nn.Sequential(*_separables(32, 32, 32, 64, 64, 64, 128, down=[2, 5]))
        self.points = _Tail(2, 2 * points)
        self.iris = _Tail(2, 2 * 5) if iris else None

    def forward(self, x: Tensor) -> Tensor:
        """``[N, points (+ 5), 2]``, in quarters of a cell."""
        x = self.common(x)
        points = [self.points(x)] if self.iris is None else [self.points(x), self.iris(x)]
        return torch.cat(points, dim=1).unflatten(1, (-1, 2))


class FaceMesh(nn.Module):
    """Landmarks of a face that fills two thirds of the picture.

    Call it with float pictures ``[N, 3, 192, 192]``, RGB in [0, 1]. It gives

    * landmarks ``[N, 478, 3]``: x and y in pixels of that picture, from the outer corner of its first pixel, and
      depth in the same unit, smaller towards the viewer, 0 about the middle of the head;
    * the presence of a face ``[N]``, as a logit.
    """

    def __init__(self, config: FaceMeshConfig | None = None) -> None:
        super().__init__()
        self.config = config or FaceMeshConfig()
        self.start = _Start()
        self.middle = nn.Sequential(*_separables(32, 32, 32, 64, 64, 64, 128, down=[2, 5]))
        self.deep = nn.Sequential(
            *_separables(128, 128, 128, 128, 128, 128, 128, 128, 128, down=[2, 5]),
            *(nn.Conv2d(128, 32, 1), nn.PReLU(32), *_separables(32, 32)),
        )
        self.mesh = nn.Conv2d(32, 3 * 468, 3)
        self.presence = nn.Conv2d(32, 1, 3)
        self.lips = _Head(len(LIPS), iris=False)
        self.left_eye = _Head(len(LEFT_EYE), iris=True)
        self.right_eye = _Head(len(RIGHT_EYE), iris=True)

    def forward(self, img: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.start(img)
        deep = self.deep(self.middle(fine))
        first = self.mesh(deep).flatten(1).unflatten(1, (-1, 3))
        points = torch.cat([first, first.new_zeros(len(first), POINTS - 468, 3)], dim=1)
        # For each head the points of its box, and the two whose line is level in the crop.
        for head, indices, ends, iris in (
            (self.lips, LIPS, (61, 291), ()),
            (self.left_eye, LEFT_EYE, (33, 133), range(468, 473)),
            (self.right_eye, RIGHT_EYE, (362, 263), range(473, 478)),
        ):
            matrix, shift = _crop_map(first[:, list(indices), :2] / _FINE, first[:, list(ends), :2])
            refined = head(_sample(fine, matrix, shift))
            points[:, [*indices, *iris], :2] = refined @ matrix.mT + _FINE * shift[:, None]
            if iris:
                points[:, list(iris), 2] = first[:, list(indices[:LIDS]), 2].mean(1, keepdim=True)
        return points, self.presence(deep).flatten()


def _crop_map(points: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map ``[N, 2, 2]``, ``[N, 2]`` from positions in a crop (0 to 16) to positions in the features.

    It is turned so that the line between ``ends`` ``[N, 2, 2]`` is level, and `_WIDER` than the box of ``points``.
    """
    along = ends[:, 1] - ends[:, 0]
    angle = torch.atan2(along[:, 1], along[:, 0])
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # crop -> features
    level = points @ turn
    low, high = level.amin(1), level.amax(1)
    matrix = turn * ((high - low) * _WIDER / _GRID)[:, None]
    shift = (turn @ ((low + high) / 2)[..., None])[..., 0] - matrix.sum(2) * _GRID / 2
    return matrix, shift


def _sample(features: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Features ``[N, C, H, W]`` under a crop's cells, bilinearly; 0 beyond the outermost centres of cells."""
    at = torch.arange(_GRID, device=features.device) + 0.5
    cells = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).to(features.dtype)
    where = cells.flatten(0, 1) @ matrix.mT + shift[:, None]
    size = where.new_tensor([features.shape[3], features.shape[2]])
    inside = ((where >= 0.5) & (where <= size - 0.5)).all(2).view(-1, 1, _GRID, _GRID)
    grid = (2 * where / size - 1).view(-1, _GRID, _GRID, 2)
    return F.grid_sample(features, grid, padding_mode="border", align_corners=False) * inside

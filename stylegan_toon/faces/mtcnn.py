"""MTCNN (Zhang et al. 2016, "Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks").

Three small networks, each looking again at what the one before it found. The trained weights are those in the package
facenet-pytorch, read as data: importing that package brings in torchvision and torch's compiler, which takes longer
than to find a face.

Boxes are float32 ``[N, 4]``: left, top, right, bottom in pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..errors import ToonError

SIDES = (12, 24, 48)  # pixels that the three networks look at
STRIDE = 2  # of the first network, which slides over the picture
CONFIDENCE = (0.6, 0.7, 0.7)  # least confidence to go on, after each network
SHRINK = 0.709  # from one size of the picture to the next; about 1 / sqrt(2), as published
OVERLAP, OVERLAP_ONE_SIZE = 0.7, 0.5  # of two boxes of one face
AT_ONCE = 512  # crops; bounds memory


@dataclass(frozen=True, eq=False)
class Found:
    """One face as MTCNN finds it.

    Attributes:
        box: left, top, right, bottom.
        confidence: 0 to 1.
        landmarks: float32 ``[5, 2]``: left eye, right eye, nose, left and right mouth corner, each (x, y).
    """

    box: np.ndarray
    confidence: float
    landmarks: np.ndarray


class Mtcnn(nn.Module):
    """The detector. Nothing changes it after it is made, so threads can share it.

    Args:
        states: of the three networks, with the names of facenet-pytorch.
        smallest: side in pixels of the smallest face that is looked for.
    """

    def __init__(self, states: list[dict[str, Tensor]], smallest: int) -> None:
        super().__init__()
        self.smallest = smallest
        prelu = nn.PReLU
        self.propose = _Network(states[0], {
            "conv1": nn.Conv2d(3, 10, 3), "prelu1": prelu(10), "pool1": nn.MaxPool2d(2, 2, ceil_mode=True),
            "conv2": nn.Conv2d(10, 16, 3), "prelu2": prelu(16),
            "conv3": nn.Conv2d(16, 32, 3), "prelu3": prelu(32),
        }, {"conv4_1": nn.Conv2d(32, 2, 1), "conv4_2": nn.Conv2d(32, 4, 1)})  # fmt: skip
        self.refine = _Network(states[1], {
            "conv1": nn.Conv2d(3, 28, 3), "prelu1": prelu(28), "pool1": nn.MaxPool2d(3, 2, ceil_mode=True),
            "conv2": nn.Conv2d(28, 48, 3), "prelu2": prelu(48), "pool2": nn.MaxPool2d(3, 2, ceil_mode=True),
            "conv3": nn.Conv2d(48, 64, 2), "prelu3": prelu(64),
            "flat": _Flat(), "dense4": nn.Linear(576, 128), "prelu4": prelu(128),
        }, {"dense5_1": nn.Linear(128, 2), "dense5_2": nn.Linear(128, 4)})  # fmt: skip
        self.judge = _Network(states[2], {
            "conv1": nn.Conv2d(3, 32, 3), "prelu1": prelu(32), "pool1": nn.MaxPool2d(3, 2, ceil_mode=True),
            "conv2": nn.Conv2d(32, 64, 3), "prelu2": prelu(64), "pool2": nn.MaxPool2d(3, 2, ceil_mode=True),
            "conv3": nn.Conv2d(64, 64, 3), "prelu3": prelu(64), "pool3": nn.MaxPool2d(2, 2, ceil_mode=True),
            "conv4": nn.Conv2d(64, 128, 2), "prelu4": prelu(128),
            "flat": _Flat(), "dense5": nn.Linear(1152, 256), "prelu5": prelu(256),
        }, {"dense6_1": nn.Linear(256, 2), "dense6_2": nn.Linear(256, 4), "dense6_3": nn.Linear(256, 10)})  # fmt: skip
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, picture: Image.Image) -> list[Found]:
        """The faces of an RGB picture, those with the largest boxes first."""
        device = next(self.parameters()).device
        pixels = torch.from_numpy(np.array(picture)).to(device).permute(2, 0, 1)[None].float()
        boxes = self._proposals(pixels)
        boxes, scores, moves = self._looked_at(self.refine, pixels, boxes, SIDES[1], CONFIDENCE[1])
        kept = _distinct(boxes, scores, OVERLAP)
        boxes = _moved(boxes[kept], moves[kept])
        boxes, scores, moves, points = self._looked_at(self.judge, pixels, boxes, SIDES[2], CONFIDENCE[2])
        # Points are shares of the square that was looked at; the five x come before the five y.
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = boxes[:, None, :2] + sides[:, None] * points.reshape(-1, 2, 5).transpose(0, 2, 1) - 1
        boxes = _moved(boxes, moves)
        found = [Found(boxes[i], float(scores[i]), landmarks[i]) for i in _distinct(boxes, scores, OVERLAP, last=True)]
        return sorted(found, key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))

    def _proposals(self, pixels: Tensor) -> np.ndarray:
        """Boxes from the first network, which sees the picture at many sizes."""
        height, width = pixels.shape[2:]
        scale = SIDES[0] / self.smallest
        boxes, moves, scores = [np.zeros((0, 4), np.float32)], [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
        while min(height, width) * scale >= SIDES[0]:
            small = F.interpolate(pixels, size=(int(height * scale + 1), int(width * scale + 1)), mode="area")
            score, move = self.propose(_scaled(small))
            faces = score[0].softmax(0)[1].cpu().numpy()
            rows, columns = np.nonzero(faces >= CONFIDENCE[0])
            first = STRIDE * np.stack([columns, rows], 1).astype(np.float32) + 1
            places = np.floor(np.concatenate([first, first + (SIDES[0] - 1)], 1) / np.float32(scale))
            kept = _distinct(places, faces[rows, columns], OVERLAP_ONE_SIZE)
            boxes.append(places[kept])
            moves.append(move[0].cpu().numpy()[:, rows, columns].T[kept])
            scores.append(faces[rows, columns][kept])
            scale *= SHRINK
        places, offsets = np.concatenate(boxes), np.concatenate(moves)
        kept = _distinct(places, np.concatenate(scores), OVERLAP)
        return _moved(places[kept], offsets[kept], pixel=0)

    @staticmethod
    def _looked_at(
        network: _Network, pixels: Tensor, boxes: np.ndarray, side: int, least: float
    ) -> tuple[np.ndarray, ...]:
        """The squares of ``boxes`` in which ``network`` sees a face, its confidence, and what its other heads say."""
        boxes = _squares(boxes)
        crops, inside = [], []
        for i, (left, top, right, bottom) in enumerate(np.trunc(boxes).astype(int)):
            crop = pixels[:, :, max(top, 1) - 1 : max(bottom, 0), max(left, 1) - 1 : max(right, 0)]
            if crop.numel():
                crops.append(F.interpolate(crop, size=(side, side), mode="area"))
                inside.append(i)
        if not crops:
            crops = [pixels.new_zeros(0, 3, side, side)]
        heads = [torch.cat(parts) for parts in zip(*map(network, _scaled(torch.cat(crops)).split(AT_ONCE)))]
        score = heads[0].softmax(1)[:, 1]
        passed = (score > least).cpu().numpy()
        found = (head.cpu().numpy()[passed] for head in (score, *heads[1:]))
        return boxes[inside][passed], *found


class _Network(nn.Module):
    """Layers one after the other, then heads side by side; the names are those in the file."""

    def __init__(self, state: dict[str, Tensor], trunk: dict[str, nn.Module], heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.trunk, self.heads = nn.Sequential(OrderedDict(trunk)), nn.ModuleDict(heads)
        self.load_state_dict({
            f"{'heads' if name.split('.')[0] in heads else 'trunk'}.{name}": tensor for name, tensor in state.items()
        })  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.trunk(x)
        return [head(x) for head in self.heads.values()]


class _Flat(nn.Module):
    """Features to a vector, columns before rows: the networks were trained with a library that stores them so."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1).flatten(1)


def _scaled(pixels: Tensor) -> Tensor:
    """0 to 255 -> about -1 to 1."""
    return (pixels - 127.5) / 128


def _moved(boxes: np.ndarray, moves: np.ndarray, pixel: int = 1) -> np.ndarray:
    """Boxes whose edges move by shares of their sides; ``pixel`` is added to a side, as in training."""
    return boxes + moves * np.tile(boxes[:, 2:] - boxes[:, :2] + pixel, 2)


def _squares(boxes: np.ndarray) -> np.ndarray:
    """The squares around the same centres with the longer sides."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(1, keepdims=True)
    first = boxes[:, :2] + (sides - longer) / 2
    return np.concatenate([first, first + longer], 1)


def _distinct(boxes: np.ndarray, scores: np.ndarray, overlap: float, last: bool = False) -> np.ndarray:
    """Indices of boxes, best first, without those that overlap with a better one (non-maximum suppression).

    Args:
        overlap: the most that is allowed: intersection over union.
        last: intersection over the smaller box instead.
    """
    order = np.argsort(-scores, kind="stable")
    if last:  # confidences of 1 are common here, and facenet-pytorch takes the later of equal ones
        order = np.argsort(scores, kind="stable")[::-1]
    pixel = 1 if last else 0
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + pixel, axis=1)
    kept: list[int] = []
    while len(order):
        best, others = order[0], order[1:]
        kept.append(int(best))
        corner = np.minimum(boxes[best, 2:], boxes[others, 2:]) - np.maximum(boxes[best, :2], boxes[others, :2])
        common = np.prod(np.maximum(corner + pixel, 0), axis=1)
        whole = np.minimum(areas[best], areas[others]) if last else areas[best] + areas[others] - common
        order = others[common <= overlap * whole]
    return np.array(kept, dtype=int)


@lru_cache(maxsize=8)
def mtcnn(device: str, smallest: int) -> Mtcnn:
    """The detector on a device, for faces of ``smallest`` pixels and more; each is loaded once.

    Raises:
        ToonError: facenet-pytorch, whose weights it uses, is not installed.
    """
    package = find_spec("facenet_pytorch")
    if package is None or not package.submodule_search_locations:
        raise ToonError("The face detector's weights are in the package facenet-pytorch: pip install facenet-pytorch.")
    folder = Path(package.submodule_search_locations[0]) / "data"
    states = [
        torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True) for name in ("pnet", "rnet", "onet")
    ]
    return Mtcnn(states, smallest).to(device)

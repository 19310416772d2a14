"""The face detector against facenet-pytorch's, which the weights are from."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from stylegan_toon.faces.mtcnn import _distinct, mtcnn


@lru_cache
def theirs(smallest: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from facenet_pytorch import MTCNN

        return MTCNN(keep_all=True, min_face_size=smallest, device="cpu").eval()


@pytest.fixture(scope="module")
def pictures() -> dict[str, Image.Image]:
    faces = Image.open(Path(__file__).parent / "faces.png").convert("RGB")
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    return {
        "several": faces,
        "small": faces.resize((faces.width // 3, faces.height // 3), Image.Resampling.BICUBIC),
        "cut off": faces.crop((40, 60, faces.width - 30, faces.height - 20)),
        "mirrored, grey": ImageOps.mirror(faces.convert("L").convert("RGB")),
        "noise": Image.fromarray(noise).resize((360, 270)),
        "flat": Image.new("RGB", (200, 100), (90, 120, 150)),
        "tiny": faces.resize((20, 12)),
    }


# "cut off" at 24 px is left out: two boxes of one face have a confidence of 1 to the last bit or the one before it,
# and rounding decides which is taken.
@pytest.mark.parametrize(
    "name, smallest",
    [(name, side) for name in ("several", "small", "mirrored, grey") for side in (24, 64)] + [("cut off", 64)],
)
def test_equals_facenet_pytorch(pictures, name, smallest):
    found = mtcnn("cpu", smallest)(pictures[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        boxes, confidences, points = theirs(smallest).detect(pictures[name], landmarks=True)
    if boxes is None:
        assert not found
        return
    assert len(found) == len(boxes)
    np.testing.assert_allclose([face.box for face in found], boxes.astype(float), atol=1e-2)
    np.testing.assert_allclose([face.confidence for face in found], confidences.astype(float), atol=1e-5)
    np.testing.assert_allclose([face.landmarks for face in found], points.astype(float), atol=1e-2)


def test_faces_are_found_at_all(pictures):
    assert len(mtcnn("cpu", 24)(pictures["several"])) >= 2


@pytest.mark.parametrize("name", ["noise", "flat", "tiny"])
def test_no_face(pictures, name):
    assert mtcnn("cpu", 24)(pictures[name]) == []


def test_overlapping_boxes_against_torchvision():
    from torchvision.ops import nms

    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 60, (200, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (200, 2)).astype(np.float32)], 1)
    scores = rng.random(200).astype(np.float32)
    expected = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5)
    assert _distinct(boxes, scores, 0.5).tolist() == expected.tolist()

"""The comic renderer: steady, smooth, larger eyes, and the same person."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stylegan_toon.drawing.colour import to_oklab
from stylegan_toon.drawing.comic import draw_comic
from stylegan_toon.errors import ToonError


def lightness(image: Image.Image) -> np.ndarray:
    return to_oklab(np.asarray(image))[..., 0]


@pytest.mark.parametrize("size", [32, 100, 256, 331])
def test_keeps_the_size(face_picture, size):
    drawing = draw_comic(face_picture.resize((size, size)))
    assert drawing.size == (size, size) and drawing.mode == "RGB"


def test_same_face_same_drawing(face_picture):
    before = np.asarray(face_picture).copy()
    first = np.asarray(draw_comic(face_picture))
    np.testing.assert_array_equal(first, np.asarray(draw_comic(before)))
    np.testing.assert_array_equal(before, np.asarray(face_picture))


def test_arrays_of_any_mode_and_bad_shapes(face_picture):
    grey = draw_comic(face_picture.convert("L"))
    assert grey.mode == "RGB"
    for bad in (Image.new("RGB", (200, 256)), Image.new("RGB", (16, 16))):
        with pytest.raises(ToonError, match="square face crop"):
            draw_comic(bad)


@pytest.mark.parametrize("colour", ["black", "white", "magenta"])
def test_no_face_is_drawn_where_there_is_none(colour):
    drawing = np.asarray(draw_comic(Image.new("RGB", (64, 64), colour))).astype(int)
    assert np.abs(drawing - drawing[0, 0]).max() < 90  # a blush and a tint at most: no eyes are invented


def test_eyes_grow_and_stay_in_place(face_picture):
    def iris(image: Image.Image, x: int) -> tuple[float, np.ndarray]:
        """Area and centre of what is dark inside the eye (not the lid above it)."""
        eye = lightness(image)[110:134, x - 14 : x + 14]
        dark = eye < 0.45
        return dark.sum(), np.argwhere(dark).mean(0)

    same = draw_comic(face_picture, warp=0, ink=0)
    large = draw_comic(face_picture, warp=1, ink=0)
    for x in (96, 160):
        (area, centre), (grown, moved) = iris(same, x), iris(large, x)
        assert 1.5 * area > grown > 1.1 * area  # moderately: the person stays recognisable
        assert np.abs(moved - centre).max() < 3


def test_chin_narrows(face_picture):
    def width(image: Image.Image) -> int:
        skin = to_oklab(np.asarray(image))[215]
        return int((np.hypot(skin[:, 1] - 0.04, skin[:, 2] - 0.05) < 0.05).sum())

    same, style, strong = (width(draw_comic(face_picture, warp=warp, ink=0)) for warp in (0, 1, 2))
    assert strong < style < same
    assert style > 0.95 * same  # a little: the person stays recognisable


def test_ink_only_darkens(face_picture):
    plain, inked = (lightness(draw_comic(face_picture, ink=ink)) for ink in (0, 1))
    assert (inked <= plain + 0.01).all()
    lines = plain - inked > 0.15
    assert 0.005 < lines.mean() < 0.12
    assert lines[105:120, 80:112].any() and lines[105:120, 144:176].any()  # lids
    assert not lines[135:150, 80:112].any()  # none across the cheek


def test_skin_texture_is_removed_and_the_face_kept(face_picture):
    rng = np.random.default_rng(0)
    noisy = np.asarray(face_picture).astype(float) + rng.normal(0, 8, (256, 256, 3))
    drawing = draw_comic(noisy.clip(0, 255).astype(np.uint8))
    cheek = np.s_[142:158, 84:104]
    texture = [
        np.std(np.diff(lightness(image)[cheek], axis=1)) for image in (Image.fromarray(np.uint8(noisy)), drawing)
    ]
    assert texture[1] < texture[0] / 5
    small = [
        np.asarray(image.resize((32, 32), Image.Resampling.BOX)).astype(float) for image in (face_picture, drawing)
    ]
    assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.95


def test_a_small_change_of_the_face_changes_the_drawing_little(face_picture):
    """A network can only learn a drawing that follows the face without jumps."""
    rng = np.random.default_rng(1)
    nearly = np.asarray(face_picture).astype(int) + rng.integers(-1, 2, (256, 256, 3))
    difference = np.asarray(draw_comic(np.uint8(nearly.clip(0, 255)))).astype(int) - np.asarray(
        draw_comic(face_picture)
    )
    assert np.abs(difference).mean() < 1.5


def test_landmarks_move_the_eyes(face_picture, face_landmarks):
    shifted = Image.new("RGB", (256, 256), (108, 128, 150))
    shifted.paste(face_picture, (20, -14))
    drawing = draw_comic(shifted, landmarks=face_landmarks + np.array([20, -14]))
    reference = draw_comic(face_picture, landmarks=face_landmarks)
    eye = np.asarray(reference)[108:132, 82:110].astype(int)
    moved = np.asarray(drawing)[94:118, 102:130].astype(int)
    assert np.abs(eye - moved).mean() < 8

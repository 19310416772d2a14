"""Detection and the FFHQ crop, against geometry that is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stylegan_toon.errors import ToonError
from stylegan_toon.faces.align import align, crop, detect_faces, ffhq_quad, largest


def square(centre, side, degrees) -> np.ndarray:
    """Corners upper left, lower left, lower right, upper right of a square turned clockwise (as seen)."""
    t = math.radians(degrees)
    x = np.array([math.cos(t), math.sin(t)]) * side / 2
    y = np.array([-x[1], x[0]])
    return np.array(centre) + np.stack([-x - y, -x + y, x + y, x - y])


def scene(face: Image.Image, quad: np.ndarray, size=(640, 560)) -> Image.Image:
    """A photo with ``face`` in the square ``quad``, placed by Pillow's perspective-free QUAD inverse: an affine map."""
    matrix = np.column_stack([(quad[3] - quad[0]) / face.width, (quad[1] - quad[0]) / face.height, quad[0]])
    inverse = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))[:2].ravel()
    photo = Image.new("RGB", size, (108, 128, 150))
    mask = Image.new("L", face.size, 255).transform(size, Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
    photo.paste(face.transform(size, Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC), mask=mask)
    return photo


def waves(x, y):
    """A smooth picture with a formula, [.., 3] in 0..255."""
    return np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), 128 + 60 * np.sin((x + y) / 50)], -1)


def waves_photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(
        np.rint(waves(*np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5))).astype("uint8")
    )


@pytest.mark.parametrize(
    ("centre", "side", "degrees"),
    [((300, 280), 256, 0), ((330, 260), 420, 18), ((250, 330), 150, -30), ((320, 280), 90, 5)],
)
def test_a_face_is_found_where_it_was_put(face_picture, face_landmarks, centre, side, degrees):
    quad = square(centre, side, degrees)
    (face,) = detect_faces(scene(face_picture, quad))
    x, y = (quad[3] - quad[0]) / 256, (quad[1] - quad[0]) / 256
    truth = quad[0] + face_landmarks[:, :1] * x + face_landmarks[:, 1:] * y
    error = np.hypot(*(face.landmarks - truth).T) / side
    assert error[[0, 1]].max() < 0.025 and error.max() < 0.05  # parts of the crop's side
    assert face.confidence > 0.95
    inside = (face.landmarks > face.box[:2]) & (face.landmarks < face.box[2:])
    assert inside.all() and abs(face.side / side - 1) < 0.1

    # The drawn face is aligned by construction, so aligning it again must give its own square back.
    aligned = align(scene(face_picture, quad), face, 256)
    corners = np.hypot(*(aligned.quad - quad).T) / side
    assert corners.max() < 0.06
    assert aligned.image.size == (256, 256)


def test_faces_come_from_left_to_right(face_picture):
    photo = Image.new("RGB", (720, 300), (108, 128, 150))
    for x, side in ((440, 256), (250, 130), (20, 200)):
        photo.paste(face_picture.resize((side, side)), (x, 20))
    faces = detect_faces(photo)
    lefts = [face.box[0] for face in faces]
    assert len(faces) == 3 and lefts == sorted(lefts)
    assert largest(faces) is faces[2]


def test_detection_does_not_depend_on_the_size_of_the_copy(face_picture):
    photo = scene(face_picture, square((310, 280), 300, 8))
    (small,) = detect_faces(photo)
    (large,) = detect_faces(photo.resize((2560, 2240), Image.Resampling.BICUBIC))
    assert np.abs(large.landmarks / 4 - small.landmarks).max() < 300 * 0.015


def test_a_face_cut_by_the_edge_of_the_photo_is_still_placed_well(face_picture, face_landmarks):
    photo = face_picture.crop((60, 40, 256, 256))
    (face,) = detect_faces(photo)
    assert np.abs(face.landmarks - (face_landmarks - (60, 40))).max() < 0.05 * 256


def test_no_face_and_too_small_are_one_sentence():
    for photo, words in (
        (waves_photo(300, 200), "No face was found in holiday.jpg"),
        (Image.new("RGB", (1, 1)), "holiday.jpg is only 1x1 pixels"),
        (Image.new("RGB", (500, 31)), "31"),
    ):
        with pytest.raises(ToonError, match=words) as caught:
            detect_faces(photo, name="holiday.jpg")
        assert "\n" not in str(caught.value)


def test_ffhq_quad_of_two_faces_worked_out_by_hand():
    # Eyes 2 apart, mouth 2 below: 4 eye distances is more than 3.6 x 2, so the side is 8, centred at (0, 0.2).
    quad = ffhq_quad(np.array([[-1, 0], [1, 0], [0, 1], [-0.5, 2], [0.5, 2]]))
    np.testing.assert_allclose(quad, square((0, 0.2), 8, 0), atol=1e-12)
    # Mouth 3 below: 3.6 x 3 is more.
    quad = ffhq_quad(np.array([[-1, 0], [1, 0], [0, 1], [-0.5, 3], [0.5, 3]]))
    np.testing.assert_allclose(quad, square((0, 0.3), 10.8, 0), atol=1e-12)


landmark = st.floats(-1, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(landmark, min_size=10, max_size=10), st.floats(-180, 180), st.floats(0.1, 50), landmark, landmark)
def test_ffhq_quad_turns_scales_and_moves_with_the_face(jitter, degrees, scale, dx, dy):
    points = np.array([[-1, 0], [1, 0], [0, 1], [-0.5, 2], [0.5, 2]]) + 0.3 * np.array(jitter).reshape(5, 2)
    t = math.radians(degrees)
    turn = scale * np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])
    moved = ffhq_quad(points @ turn.T + (dx, dy))
    np.testing.assert_allclose(moved, ffhq_quad(points) @ turn.T + (dx, dy), atol=1e-9 * scale + 1e-9)
    # Always a square.
    sides = np.diff(np.vstack([moved, moved[:1]]), axis=0)
    lengths = np.hypot(*sides.T)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-9)
    assert abs(sides[0] @ sides[1]) < 1e-9 * lengths[0] ** 2


@pytest.mark.parametrize("side", [100, 230, 700])
@pytest.mark.parametrize("degrees", [0, 25, -70, 180])
def test_crop_samples_the_square_antialiased(side, degrees):
    quad = square((500, 480), side, degrees)
    size = 96
    result = np.asarray(crop(waves_photo(1000, 960), quad, size)).astype(float)
    u, v = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)
    at = quad[0] + u[..., None] * (quad[3] - quad[0]) + v[..., None] * (quad[1] - quad[0])
    assert np.abs(result - waves(at[..., 0], at[..., 1])).max() < 4


def test_crop_does_not_alias():
    checks = np.indices((800, 800)).sum(0) % 2 * 255
    photo = Image.fromarray(checks.astype(np.uint8)).convert("RGB")
    result = np.asarray(crop(photo, square((400, 400), 600, 10), 64)).astype(float)
    assert np.abs(result - 127.5).max() < 6


def test_crop_beyond_the_edge_mirrors_and_fades_without_a_seam():
    photo = waves_photo(300, 300)
    quad = square((60, 80), 400, 12)
    result = np.asarray(crop(photo, quad, 200)).astype(float)
    u, v = np.meshgrid((np.arange(200) + 0.5) / 200, (np.arange(200) + 0.5) / 200)
    at = quad[0] + u[..., None] * (quad[3] - quad[0]) + v[..., None] * (quad[1] - quad[0])
    inside = ((at > 60) & (at < 240)).all(-1)
    assert inside.sum() > 2000
    assert np.abs(result - waves(at[..., 0], at[..., 1]))[inside].max() < 4
    assert np.abs(np.diff(result, axis=0)).max() < 40 and np.abs(np.diff(result, axis=1)).max() < 40
    assert result[~inside].std(0).max() < waves(at[..., 0], at[..., 1])[~inside].std(0).max()


def test_crop_outside_the_photo_is_refused():
    with pytest.raises(ToonError, match="outside the photo"):
        crop(Image.new("RGB", (100, 100)), square((900, 900), 100, 0), 64)

"""The animated-film renderer: the same look at every size, larger eyes, and skin that keeps its colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from stylegan_toon.drawing.animated import draw_animated
from stylegan_toon.drawing.colour import from_oklab, to_oklab
from stylegan_toon.drawing.geometry import film_warp
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.mesh import Mesh, face_mesh

CHEEKS = (50, 280)


def points_of(mesh: Mesh) -> np.ndarray:
    return np.concatenate([mesh.points, mesh.depth[:, None]], 1)


def around(picture: Image.Image, mesh: Mesh, index: int, radius: int = 5) -> np.ndarray:
    """Median Oklab colour near a point of the mesh."""
    x, y = mesh.points[index].astype(int)
    patch = to_oklab(np.asarray(picture))[y - radius : y + radius, x - radius : x + radius]
    return np.median(patch.reshape(-1, 3), 0)


@pytest.mark.parametrize("size", [32, 101, 256, 331])
def test_keeps_the_size_and_repeats_itself(faces, size):
    face = faces[0].resize((size, size))
    before = np.asarray(face).copy()
    first = draw_animated(face)
    assert first.size == (size, size) and first.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(first), np.asarray(draw_animated(before)))
    np.testing.assert_array_equal(before, np.asarray(face))


def test_same_look_at_every_size(faces):
    mesh = points_of(face_mesh(faces[0]))
    small = np.asarray(draw_animated(faces[0], landmarks=mesh)).astype(int)
    for times in (2, 4):
        side = 256 * times
        large = draw_animated(faces[0].resize((side, side), Image.Resampling.BICUBIC), landmarks=mesh * times)
        difference = np.abs(np.asarray(large.resize((256, 256), Image.Resampling.BOX)).astype(int) - small)
        assert difference.mean() < 4


@pytest.mark.parametrize("dark", [1.1, 1.0, 0.8, 0.6])
def test_cheeks_keep_their_colour(faces, dark):
    """Oklab lightness within 0.025 (2.5 L* or so), hue within 6 degrees, for light skin and for dark."""
    face = Image.fromarray(from_oklab(to_oklab(np.asarray(faces[0])) * np.float32(dark)))
    mesh = face_mesh(face)
    drawing = draw_animated(face, warp=0)
    photo, drawn = (np.mean([around(a, mesh, k) for k in CHEEKS], 0) for a in (face, drawing))
    assert abs(drawn[0] - photo[0]) < 0.025
    hue = [np.degrees(np.arctan2(colour[2], colour[1])) for colour in (photo, drawn)]
    assert abs(hue[0] - hue[1]) < 6


def test_skin_is_smooth_and_eyes_are_clear(faces):
    grain = np.random.default_rng(0).normal(0, 9, (256, 256, 1))
    face = Image.fromarray((np.asarray(faces[0]) + grain).clip(0, 255).astype(np.uint8))
    mesh = face_mesh(face)
    drawing = draw_animated(face, warp=0)

    def light(picture: Image.Image) -> np.ndarray:
        return to_oklab(np.asarray(picture))[..., 0]

    for index in CHEEKS:
        x, y = mesh.points[index].astype(int)
        fine = [np.diff(light(a)[y - 5 : y + 6, x - 5 : x + 6], 2).std() for a in (face, drawing)]
        assert fine[1] < 0.25 * fine[0]
    for centre in (468, 473):
        x, y = mesh.points[centre].astype(int)
        eye = light(drawing)[y - 5 : y + 6, x - 8 : x + 9]
        assert eye.max() > 0.85 and eye.min() < 0.25  # a catchlight and a pupil


def test_no_eyes_are_drawn_on_dark_glasses(faces):
    face = faces[0].copy()
    mesh = face_mesh(face)
    draw = ImageDraw.Draw(face)
    for corners in ((33, 133), (362, 263)):
        x, y = mesh.points[list(corners)].mean(0)
        draw.rounded_rectangle((x - 24, y - 14, x + 24, y + 16), 6, fill=(22, 22, 26))
    face = face.filter(ImageFilter.GaussianBlur(0.6))
    drawing = draw_animated(face, landmarks=points_of(mesh))
    for centre in (468, 473):
        x, y = mesh.points[centre].astype(int)
        lens = to_oklab(np.asarray(drawing))[y - 6 : y + 7, x - 12 : x + 13]
        assert lens[..., 0].max() < 0.4  # neither whites nor catchlights


def test_spectacles_stay(faces):
    """The rim between the eyes and below them is darker than the skin there, as in the photo."""
    mesh = face_mesh(faces[1])
    drawing = draw_animated(faces[1], warp=0)
    for corners in ((33, 133), (362, 263)):
        x, y = mesh.points[list(corners)].mean(0).astype(int)
        photo, drawn = (to_oklab(np.asarray(a))[y + 5 : y + 24, x - 3 : x + 4, 0].mean(1) for a in (faces[1], drawing))
        assert drawn.min() < drawn.max() - 0.4 * (photo.max() - photo.min())


def test_the_warp_enlarges_eyes_without_folding(faces):
    mesh = points_of(face_mesh(faces[0]))
    bend = film_warp(mesh, (0.4, 0.4))
    lids = bend.carry(mesh[[33, 133, 159, 145], :2])
    assert np.ptp(lids[:2, 0]) > 1.2 * np.ptp(mesh[[33, 133], 0])
    assert lids[3, 1] - lids[2, 1] > 1.2 * (mesh[145, 1] - mesh[159, 1])
    step = 256 / bend.shift.shape[0]
    for axis in (0, 1):  # the source moves on whenever the target does
        along = bend.shift[..., 1 - axis]
        assert (np.diff(along, axis=axis) / step).min() > -0.9


@pytest.mark.parametrize("colour", ["black", "white", "magenta"])
def test_no_face_is_drawn_where_there_is_none(colour):
    drawing = np.asarray(draw_animated(Image.new("RGB", (64, 64), colour))).astype(int)
    assert np.abs(drawing - drawing[0, 0]).max() < 30


def test_accepts_five_landmarks(faces):
    drawing = draw_animated(faces[0], landmarks=np.array([[96, 120], [160, 120], [128, 160], [104, 188], [152, 188]]))
    np.testing.assert_array_equal(np.asarray(drawing), np.asarray(draw_animated(faces[0])))


def test_pictures_that_are_no_crop_are_refused():
    for bad in (Image.new("RGB", (200, 256)), Image.new("RGB", (16, 16))):
        with pytest.raises(ToonError, match=r"square face crop .*\.$"):
            draw_animated(bad)

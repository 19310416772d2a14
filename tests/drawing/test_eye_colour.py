"""Irises get the photo's colour, and nothing else does, on eyes that are painted with known colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stylegan_toon.drawing.colour import from_oklab, to_oklab
from stylegan_toon.drawing.eye_colour import EYES, SIDE, iris_shift
from stylegan_toon.drawing.keep_colour import keep_eyes
from stylegan_toon.faces.mesh import Mesh, face_mesh

SKIN, BROWN, BLUE = (205, 160, 135), (96, 62, 44), (96, 130, 170)


@pytest.fixture(scope="module")
def mesh(faces) -> Mesh:
    return face_mesh(faces[0]).scaled(SIDE / faces[0].width)


def painted(mesh: Mesh, iris: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A face of skin with white eyes and discs for irises: Oklab, and where the iris is free of the lids."""
    picture, place = Image.new("RGB", (SIDE, SIDE), SKIN), Image.new("L", (SIDE, SIDE))
    for points, upper, lower in EYES:
        opening = Image.new("L", (SIDE, SIDE))
        outline = [(float(x), float(y)) for x, y in mesh.points[[*upper, *reversed(lower)]]]
        ImageDraw.Draw(opening).polygon(outline, fill=255)
        centre, rim = mesh.points[points[0]], mesh.points[list(points[1:])]
        radius = np.hypot(*(rim - centre).T).mean()
        eye, disc = Image.new("RGB", (SIDE, SIDE), (235, 235, 235)), Image.new("L", (SIDE, SIDE))
        circle = [*(centre - radius), *(centre + radius)]
        ImageDraw.Draw(eye).ellipse(circle, fill=iris)
        ImageDraw.Draw(disc).ellipse(circle, fill=255)
        picture.paste(eye, mask=opening)
        place.paste(disc, mask=opening)
    return to_oklab(np.asarray(picture)), np.asarray(place) > 0


def test_brown_eyes_become_the_photos_blue_ones(mesh):
    blue, place = painted(mesh, BLUE)
    brown, _ = painted(mesh, BROWN)
    moved = brown + iris_shift(blue, brown, mesh, mesh)
    inner = place & (np.abs(brown - to_oklab(np.full((1, 1, 3), BROWN, np.uint8))).max(-1) < 1e-3)
    expected = to_oklab(np.full((1, 1, 3), BLUE, np.uint8))[0, 0, 1:]
    # Lids and the rim have soft edges: the median pixel has all of the new colour.
    np.testing.assert_allclose(np.median(moved[inner][:, 1:], 0), expected, atol=0.012)
    away = ~np.asarray(Image.fromarray(place).resize((64, 64)).resize((SIDE, SIDE)))
    far = away & (np.abs(moved - brown).max(-1) > 0.02) & ~place
    assert far.sum() < 0.25 * place.sum()  # the soft edge, and no skin
    assert np.abs(moved - brown)[: SIDE // 4].max() == 0


def test_the_same_colour_stays(mesh):
    blue, _ = painted(mesh, BLUE)
    assert np.abs(iris_shift(blue, blue, mesh, mesh)).max() < 1e-6


def test_closed_eyes_and_unlikely_colours_change_nothing(mesh):
    blue, _ = painted(mesh, BLUE)
    brown, _ = painted(mesh, BROWN)
    red, _ = painted(mesh, (250, 0, 0))
    points = mesh.points.copy()
    for _, upper, lower in EYES:
        points[list(lower)] = points[list(upper)]
    closed = replace(mesh, points=points)
    assert not iris_shift(blue, brown, closed, mesh).any() and not iris_shift(blue, brown, mesh, closed).any()
    assert not iris_shift(red, blue, mesh, mesh).any()


def test_a_picture_without_a_face_stays(faces):
    flat = Image.new("RGB", (256, 256), SKIN)
    np.testing.assert_array_equal(np.asarray(keep_eyes(faces[0], flat)), np.asarray(flat))


def test_a_cartoon_of_another_size(faces):
    lab = to_oklab(np.asarray(faces[0]))
    grey = Image.fromarray(from_oklab(lab * np.array((1, 0.2, 0.2), np.float32)))
    large = keep_eyes(faces[0], grey.resize((700, 700)))
    assert large.size == (700, 700)

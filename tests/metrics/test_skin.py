"""Cheeks of known colour: published CIELAB values, patches of one colour, and shifts computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stylegan_toon.errors import ToonError
from stylegan_toon.faces.mesh import Mesh
from stylegan_toon.metrics.skin import LEFT_CHEEK, RIGHT_CHEEK, cheeks_lab, skin_shift, to_cielab

FACES = Path(__file__).parents[1] / "faces" / "faces.png"


def square(cx: float, cy: float, half: float) -> list[tuple[float, float]]:
    """Five corners, as a cheek has."""
    return [(cx - half, cy - half), (cx, cy - half), (cx + half, cy - half), (cx + half, cy + half),
            (cx - half, cy + half)]  # fmt: skip


def mesh(left=(30, 60, 10), right=(70, 60, 10)) -> Mesh:
    points = np.full((478, 2), 50.0)
    points[list(LEFT_CHEEK)], points[list(RIGHT_CHEEK)] = square(*left), square(*right)
    return Mesh(points, np.zeros(478), 1.0)


def halves(left: str | tuple, right: str | tuple, size: int = 100) -> Image.Image:
    """Left and right half in one colour each, with eyes, a nose and a mouth of other colours."""
    picture = Image.new("RGB", (size, size), left)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((size // 2, 0, size, size), right)
    for x, y in ((30, 40), (70, 40), (50, 60), (50, 80)):
        draw.ellipse(tuple(size / 100 * v for v in (x - 6, y - 6, x + 6, y + 6)), "blue")
    return picture


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # Lindbloom's calculator (sRGB, D65, no adaptation), to two digits
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_cielab(rgb, lab):
    np.testing.assert_allclose(to_cielab(np.uint8(rgb)), lab, atol=0.03)


def test_the_mean_over_two_cheeks():
    left, right = (224, 172, 140), (120, 80, 60)
    expected = to_cielab(np.uint8([left, right])).mean(0)
    np.testing.assert_allclose(cheeks_lab(halves(left, right), mesh()), expected, atol=1e-9)


def test_a_highlight_and_a_hair_change_nothing():
    picture = halves((200, 150, 120), (200, 150, 120))
    clean = cheeks_lab(picture, mesh())
    ImageDraw.Draw(picture).ellipse((24, 54, 34, 64), "white")
    ImageDraw.Draw(picture).rectangle((60, 50, 66, 70), "black")
    assert cheeks_lab(picture, mesh()) == clean


def test_a_cheek_turned_away_does_not_count():
    picture = halves((200, 150, 120), "green")
    assert cheeks_lab(picture, mesh(right=(70, 60, 4))) == cheeks_lab(halves((200, 150, 120), (200, 150, 120)), mesh())


def test_pixels_of_the_patch():
    picture = Image.new("RGB", (100, 100), "blue")
    ImageDraw.Draw(picture).rectangle((20, 50, 39, 69), "red")  # pixels 20 to 39: from 20 to 40 in positions
    ImageDraw.Draw(picture).rectangle((60, 50, 79, 69), "red")
    red = to_cielab(np.uint8((255, 0, 0)))
    for half in (10, 9.6, 0.6):
        np.testing.assert_allclose(cheeks_lab(picture, mesh((30, 60, half), (70, 60, half))), red)


def test_cheeks_outside():
    with pytest.raises(ToonError, match="outside the picture"):
        cheeks_lab(Image.new("RGB", (20, 20)), mesh())


def test_shift_equals_a_hand_calculation():
    before, after = (224, 172, 140), (200, 160, 90)
    (l0, a0, b0), (l1, a1, b1) = to_cielab(np.uint8([before, after]))
    shift = skin_shift(halves(before, before), halves(after, after, 300), mesh=mesh())
    assert shift.lightness == pytest.approx(l1 - l0)
    assert shift.chroma == pytest.approx(math.hypot(a1, b1) - math.hypot(a0, b0))
    cosine = (a0 * a1 + b0 * b1) / math.hypot(a0, b0) / math.hypot(a1, b1)
    assert shift.hue == pytest.approx(math.degrees(math.acos(cosine)))  # towards yellow, so positive
    assert skin_shift(halves(after, after), halves(before, before), mesh=mesh()).hue == pytest.approx(-shift.hue)


def test_hue_shift_takes_the_shorter_direction():
    pink, magenta = (240, 150, 160), (240, 150, 220)  # either side of 0 degrees
    shift = skin_shift(halves(pink, pink), halves(magenta, magenta), mesh=mesh())
    assert -60 < shift.hue < -20


def test_on_a_face():
    """On a real crop, whose colours are all changed in a known way."""
    face = Image.open(FACES).convert("RGB").crop((0, 0, 192, 192))
    assert skin_shift(face, face).lightness == 0
    darker = Image.fromarray(np.uint8(np.asarray(face) * 0.8))
    shift = skin_shift(face, darker.resize((384, 384), Image.Resampling.BICUBIC))
    lightness, a, b = shift.photo
    assert 40 < lightness < 90 and 20 < math.degrees(math.atan2(b, a)) < 85
    linear = 0.8**2.3  # a factor on sRGB values of skin's size is about this factor on light
    assert shift.lightness == pytest.approx((lightness + 16) * (linear ** (1 / 3) - 1), abs=0.8)
    assert abs(shift.hue) < 2
    other = Image.fromarray(np.asarray(face)[..., ::-1].copy())  # red and blue change places
    assert abs(skin_shift(face, other).hue) > 90


def test_a_toon_has_to_be_square():
    with pytest.raises(ToonError, match="not square"):
        skin_shift(halves("red", "red"), Image.new("RGB", (100, 90)), mesh=mesh())

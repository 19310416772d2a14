"""Every style: size kept, same drawing for the same face, an error for a picture that is not a face crop."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stylegan_toon.drawing import STYLES, draw
from stylegan_toon.errors import ToonError
from stylegan_toon.metrics.skin import skin_shift


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [48, 256, 400])
def test_keeps_the_size_and_repeats_itself(face_picture, style, size):
    face = face_picture.resize((size, size))
    drawing = draw(face, style)
    assert drawing.size == (size, size) and drawing.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(drawing), np.asarray(draw(np.asarray(face), style)))


@pytest.mark.parametrize("style", STYLES)
def test_refuses_pictures_that_are_no_crop(style):
    for bad in (Image.new("RGB", (200, 256)), Image.new("RGB", (16, 16))):
        with pytest.raises(ToonError, match="square face crop"):
            draw(bad, style)


def test_an_unknown_style_error_lists_the_styles(face_picture):
    with pytest.raises(ToonError, match="choose one of comic"):
        draw(face_picture, "oil")


@pytest.mark.parametrize("style", STYLES)
def test_looks_the_same_at_any_size(face_picture, style):
    small = draw(face_picture, style)
    large = draw(face_picture.resize((512, 512), Image.Resampling.BICUBIC), style)
    reduced = np.asarray(large.resize((256, 256), Image.Resampling.BOX)).astype(int)
    difference = np.abs(reduced - np.asarray(small))
    assert difference.mean() < 4  # of 255
    assert (difference.max(-1) > 60).mean() < 0.02  # hatching and edges may be a fraction of a pixel apart


@pytest.mark.parametrize("skin", [(240, 206, 184), (198, 150, 118), (142, 98, 72), (88, 58, 44)])
def test_comic_keeps_skin(paint_face, skin):
    face = paint_face(skin, hair=(30, 24, 22))
    shift = skin_shift(face, draw(face, "comic"))
    assert abs(shift.lightness) < 2
    assert abs(shift.hue) < 4
    assert abs(shift.chroma) < 4


def test_ink_has_no_colour_and_darker_paper_for_darker_skin(paint_face):
    def cheek(skin):
        drawing = np.asarray(draw(paint_face(skin, hair=(30, 24, 22)), "ink")).astype(int)
        assert np.ptp(drawing, axis=-1).max() <= 1
        return np.median(drawing[140:160, 84:104])

    light, medium, dark = (cheek(skin) for skin in ((240, 206, 184), (170, 120, 92), (88, 58, 44)))
    assert light > 235 > medium > dark > 60


@pytest.mark.parametrize("style", ["comic", "ink"])
def test_eyes_behind_sunglasses_are_neither_enlarged_nor_invented(paint_face, style):
    drawing = np.asarray(draw(paint_face(sunglasses=True), style).convert("L")).astype(int)
    for x in (96, 160):
        assert drawing[112:136, x - 18 : x + 18].max() < 90
        column = drawing[100:150, x] < 100
        assert abs(column.sum() - 37) <= 5  # 150 / 1024 of the side

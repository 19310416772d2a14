"""Every style: the same size back, the same drawing for the same face, a plain sentence for what is not a face crop."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stylegan_toon.drawing import STYLES, draw
from stylegan_toon.errors import ToonError


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [48, 256, 400])
def test_keeps_the_size_and_repeats_itself(face_picture, style, size):
    face = face_picture.resize((size, size))
    drawing = draw(face, style)
    assert drawing.size == (size, size) and drawing.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(drawing), np.asarray(draw(np.asarray(face), style)))


@pytest.mark.parametrize("style", STYLES)
def test_refuses_what_is_no_crop(style):
    for bad in (Image.new("RGB", (200, 256)), Image.new("RGB", (16, 16))):
        with pytest.raises(ToonError, match="square face crop"):
            draw(bad, style)


def test_an_unknown_style_is_told_the_known_ones(face_picture):
    with pytest.raises(ToonError, match="choose one of comic"):
        draw(face_picture, "oil")

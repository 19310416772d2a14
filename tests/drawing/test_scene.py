"""Whole photos in a drawing style, and cartoons in their photo's colours."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stylegan_toon.drawing import STYLES, scene
from stylegan_toon.drawing.colour import from_oklab, to_oklab
from stylegan_toon.drawing.keep_colour import LIGHTNESS, keep_colour
from stylegan_toon.drawing.scene import SCENES, draw_scene
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.align import Aligned

SQUARE = np.array([[60, 40], [60, 240], [260, 240], [260, 40]], np.float64)


@pytest.fixture
def photo(face_picture) -> tuple[Image.Image, Aligned]:
    whole = Image.new("RGB", (320, 300), (108, 128, 150))
    whole.paste(face_picture.resize((200, 200)), (60, 40))
    return whole, Aligned(face_picture, SQUARE)


def test_every_style_has_its_scene():
    assert list(SCENES) == list(STYLES)
    with pytest.raises(ToonError, match="choose one of comic"):
        draw_scene(Image.new("RGB", (40, 30)), "oil")


@pytest.mark.parametrize("style", SCENES)
def test_keeps_the_size_and_repeats_itself(photo, style):
    whole, face = photo
    drawn = draw_scene(whole, style, [face])
    assert drawn.size == whole.size and drawn.mode == "RGB" and drawn is not whole
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(draw_scene(whole, style, [face])))
    assert draw_scene(whole.resize((33, 32)), style).size == (33, 32)


def test_each_in_its_manner(photo):
    whole, face = photo
    ink, comic = (np.asarray(draw_scene(whole, style, [face])).astype(int) for style in ("ink", "comic"))
    assert np.ptp(ink, axis=2).max() <= 2  # grey
    assert np.abs(comic[5, 5] - (108, 128, 150)).max() < 30  # its own colour, a little paler
    assert comic[5, 5].sum() > 108 + 128 + 150


def test_large_photos_are_drawn_small(monkeypatch, photo):
    sizes = []

    def shown(scene) -> np.ndarray:
        sizes.append((*scene.lab.shape[:2], scene.scale))
        return scene.lab

    monkeypatch.setitem(scene.SCENES, "comic", shown)
    whole, face = photo
    big = whole.resize((3200, 3000), Image.Resampling.BICUBIC)
    assert draw_scene(big, "comic", [Aligned(face.image, 10 * face.quad)]).size == (3200, 3000)
    ((height, width, scale),) = sizes
    assert max(height, width) == scene.WORK
    assert scale == pytest.approx(min(3.0, 2000 * width / 3200 / 256))


def test_a_cartoon_with_the_photos_colours_stays(face_picture):
    kept = np.asarray(keep_colour(face_picture, face_picture)).astype(int)
    assert np.abs(kept - np.asarray(face_picture)).max() <= 1


def test_a_constant_shift_of_colour_is_undone(face_picture):
    """In Oklab: all of a and b, and a part of the lightness."""
    lab = to_oklab(np.asarray(face_picture))
    lab[..., 1:] *= 0.6  # well inside sRGB
    lab[..., 0] = 0.2 + 0.6 * lab[..., 0]
    off = np.array((0.05, -0.02, 0.03), np.float32)
    photo, cartoon = (Image.fromarray(from_oklab(picture.astype(np.float32))) for picture in (lab, lab + off))
    left = to_oklab(np.asarray(keep_colour(photo, cartoon.resize((512, 512), Image.Resampling.BICUBIC))))
    left = left.reshape(256, 2, 256, 2, 3).mean((1, 3)) - lab
    np.testing.assert_allclose(left.mean((0, 1)), ((1 - LIGHTNESS) * 0.05, 0, 0), atol=0.003)
    assert np.abs(np.median(left, (0, 1))[1:]).max() < 0.002


def test_colours_are_kept_in_squares_only(face_picture):
    with pytest.raises(ToonError, match="square"):
        keep_colour(face_picture, Image.new("RGB", (100, 90)))

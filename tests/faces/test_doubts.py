"""Faces that are tiny, cut off, turned away or drawn are told, those of portraits are not doubted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylegan_toon.drawing import draw
from stylegan_toon.errors import ToonError
from stylegan_toon.faces import doubts
from stylegan_toon.faces.align import Aligned, crop
from stylegan_toon.faces.doubts import cut_off, doubt, looks_drawn, without_doubtful
from stylegan_toon.faces.mesh import Mesh, turned
from stylegan_toon.faces.photo import Photo, far_smaller, open_photo

PORTRAIT = Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg"


@pytest.fixture(scope="module")
def portrait() -> Photo:
    return open_photo(PORTRAIT, 256)


def square(left: float, top: float, side: float) -> np.ndarray:
    return np.array([(left, top), (left, top + side), (left + side, top + side), (left + side, top)], float)


def test_a_portrait_is_not_doubted(portrait):
    assert doubt(portrait, 0) is None and without_doubtful(portrait) == (portrait, [])


def test_a_tiny_face(portrait):
    small = portrait.image.resize((84, 103), Image.Resampling.LANCZOS)
    quad = portrait.faces[0].quad * 84 / portrait.image.width
    photo = Photo(small, [Aligned(crop(small, quad, 256), quad)], "small.jpg")
    with pytest.raises(ToonError, match=r"The face in small.jpg is tiny \(\d+ pixels.*larger copy.*--force"):
        without_doubtful(photo)


def test_a_face_that_is_cut_off(portrait):
    left, _ = portrait.faces[0].quad.min(0)
    side = portrait.faces[0].side
    box = (round(left + 0.5 * side), 0, portrait.image.width, portrait.image.height)
    half = portrait.image.crop(box)
    quad = portrait.faces[0].quad - (box[0], 0)
    photo = Photo(half, [Aligned(crop(half, quad, 256), quad)], "half.jpg")
    assert "is cut off by the edge of the photo" in str(doubt(photo, 0))


def test_the_share_that_is_cut_off():
    """The ellipse of the face is symmetric about the middle of its crop: an edge through it leaves half."""
    for quad, share in ((square(0, 0, 100), 0), (square(-50, 0, 100), 0.5), (square(500, 0, 100), 1)):
        face = Aligned(Image.new("RGB", (1, 1)), quad)
        assert cut_off(face, (300, 300)) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("degrees", [-60, -30, 0, 30, 60])
def test_the_measure_of_turning_grows_with_the_angle(degrees):
    """A head of five points, turned about the vertical axis."""
    angle = np.radians(degrees)
    head = np.zeros((478, 3))
    for index, at in {33: (-1.4, 0, 0), 133: (-0.6, 0, 0), 362: (0.6, 0, 0), 263: (1.4, 0, 0), 4: (0, 1, -1.7)}.items():
        head[index] = at
    x = head[:, 0] * np.cos(angle) - head[:, 2] * np.sin(angle)
    mesh = Mesh(np.stack([x, head[:, 1]], 1), np.zeros(478), 1.0)
    assert turned(mesh) == pytest.approx(0.85 * np.tan(angle), abs=1e-6)


def test_a_face_that_is_turned_away(portrait, monkeypatch):
    points = np.zeros((478, 2))
    points[[362, 263]] = (1, 0)
    points[4] = (1.6, 0.4)
    monkeypatch.setattr(doubts, "face_mesh", lambda *_, **__: Mesh(points, np.zeros(478), 1.0))
    assert "is turned away" in str(doubt(portrait, 0))
    monkeypatch.setattr(doubts, "face_mesh", lambda *_, **__: Mesh(points, np.zeros(478), 0.1))
    assert "hardly to be seen" in str(doubt(portrait, 0))


@pytest.mark.parametrize("style", ["comic", "ink", "pop"])
def test_drawings_are_told_from_photos(portrait, style):
    face = portrait.faces[0].image
    assert looks_drawn(draw(face, style), 224) and not looks_drawn(face, 224)
    assert not looks_drawn(draw(face, style), 100)  # too small to tell


@pytest.mark.parametrize("how", ["blurred", "compressed", "enlarged"])
def test_bad_photos_do_not_look_drawn(portrait, how, tmp_path):
    face = portrait.faces[0].image
    if how == "compressed":
        face.save(tmp_path / "a.jpg", quality=12)
        face = Image.open(tmp_path / "a.jpg")
    else:
        face = face.resize((64, 64), Image.Resampling.LANCZOS).resize((256, 256), Image.Resampling.BICUBIC)
    assert not looks_drawn(face, 256)


def test_the_others_of_a_photo_go_on(portrait):
    face = portrait.faces[0]
    tiny = Aligned(face.image, square(10, 10, 40))
    photo = Photo(portrait.image, [tiny, face], "two.jpg", (1, 2), 2)
    left, remarks = without_doubtful(photo)
    assert left.faces == [face] and left.numbers == (2,)
    (remark,) = remarks
    assert remark.startswith("Left out: Face 1 from the left in two.jpg is tiny") and remark.endswith("add --force.")


def test_an_aligned_crop_is_not_doubted(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "crop.png")
    assert without_doubtful(open_photo(tmp_path / "crop.png", 64, aligned=True))[1] == []


def test_far_smaller_than_the_largest():
    sides = [100, 24, 26, 400 / 16]
    assert far_smaller([Aligned(Image.new("RGB", (1, 1)), square(0, 0, side)) for side in sides]) == [
        False, True, False, False,
    ]  # fmt: skip
    assert far_smaller([]) == []

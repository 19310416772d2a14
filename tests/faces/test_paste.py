"""Pasting a cartoon back: against geometry and colours that are known beforehand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylegan_toon.faces.align import Aligned, affine, align, crop, detect_faces
from stylegan_toon.faces.mask import SIDE, HeadMask, head_mask
from stylegan_toon.faces.paste import _Turned, paste_back
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.pipelines.toonify import Toon, ToonFace

PORTRAIT = Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg"


def square(centre, side, degrees) -> np.ndarray:
    """Corners upper left, lower left, lower right, upper right of a square turned clockwise (as seen)."""
    t = math.radians(degrees)
    x = np.array([math.cos(t), math.sin(t)]) * side / 2
    y = np.array([-x[1], x[0]])
    return np.array(centre) + np.stack([-x - y, -x + y, x + y, x - y])


def waves(x, y):
    """A smooth picture with a formula, [.., 3] in 0..255."""
    return np.stack([128 + 90 * np.sin(x / 40), 128 + 90 * np.cos(y / 30), 128 + 60 * np.sin((x + y) / 50)], -1)


def waves_photo(width: int, height: int) -> Image.Image:
    at = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return Image.fromarray(np.rint(waves(*at)).astype("uint8"))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def everywhere(alpha: float = 1.0, person: float = 0.0) -> HeadMask:
    full = partial(np.full, (SIDE, SIDE), dtype=np.float32)
    return HeadMask(full(alpha), full(1), full(person), full(person))


@pytest.fixture(scope="module")
def person() -> tuple[Image.Image, Aligned]:
    """A real portrait of 335 x 410 px, and its head."""
    photo = open_photo(PORTRAIT, 512)
    return photo.image, photo.faces[0]


# Where pixels go


@pytest.mark.parametrize("degrees", [0, 20, -70, 180])
def test_pasting_the_crop_back_changes_nothing(degrees):
    """The crop is computed here, from the formula: `crop` is up to a level too dark, as Pillow's turning is."""
    photo = waves_photo(640, 560)
    quad = square((330, 280), 300, degrees)
    at = (np.arange(512) + 0.5) / 512
    x, y = (np.stack([*np.meshgrid(at, at), np.ones((512, 512))], -1) @ affine(quad, 1).T).transpose(2, 0, 1)
    picture = Image.fromarray(np.rint(waves(x, y)).astype("uint8"))
    for mask in (None, everywhere()):
        result = paste_back(photo, Aligned(picture, quad), picture, mask=mask)
        error = np.abs(pixels(result) - pixels(photo))
        assert result.size == photo.size
        # A level; where photo, crop, its reduction and its turning are rounded against each other, in few places, two.
        assert error.max() <= 1 or (error.max() == 2 and degrees % 90 and (error > 1).mean() < 0.001)


def test_pasting_a_portraits_crop_back_changes_nearly_nothing(person):
    photo, head = person
    error = pixels(paste_back(photo, head, head.image)) - pixels(photo)
    assert 10 * math.log10(255**2 / (error**2).mean()) > 45


@pytest.mark.parametrize("size", [64, 500])
def test_every_pixel_goes_where_it_came_from(size):
    photo = waves_photo(900, 700)
    quad = square((450, 350), 500, -25)
    aligned = Aligned(crop(photo, quad, size), quad)
    marked = aligned.image.copy()
    marked.paste("red", tuple(round(v * size) for v in (0.375, 0.5625, 0.4375, 0.625)))  # centred at 0.40625, 0.59375
    plain = paste_back(photo, aligned, aligned.image, mask=everywhere(person=1))
    difference = pixels(paste_back(photo, aligned, marked, mask=everywhere(person=1))) - pixels(plain)
    rows, columns = np.nonzero(np.abs(difference).max(-1) > 60)
    expected = quad[0] + 0.40625 * (quad[3] - quad[0]) + 0.59375 * (quad[1] - quad[0])
    np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], expected, atol=1)


def test_turning_in_cells_is_as_turning_pixel_by_pixel():
    """Large heads are turned coarsely and enlarged, in bands; the truth is Pillow's own transform in one piece."""
    picture = waves_photo(64, 64)
    quad = square((520, 500), 800, 17)
    turned = _Turned(np.asarray(picture, np.float32), quad, (100, 100, 931, 905))
    assert turned.cell > 3
    bands = np.concatenate([pixels(turned.rows(start, min(start + 256, 805))) for start in range(0, 805, 256)])
    inverse = np.linalg.inv(np.vstack([affine(quad, 64), (0, 0, 1)])) @ [[1, 0, 100], [0, 1, 100], [0, 0, 1]]
    turn = ((831, 805), Image.Transform.AFFINE, inverse[:2].ravel().tolist(), Image.Resampling.BICUBIC)
    truth = np.stack([np.asarray(band.convert("F").transform(*turn)) for band in picture.split()], -1)
    x, y = np.meshgrid(np.arange(831) + 0.5, np.arange(805) + 0.5)
    at = np.stack([x, y, np.ones_like(x)], -1) @ inverse[:2].T
    inside = ((at > 3) & (at < 61)).all(-1)
    assert inside.mean() > 0.5
    difference = np.abs(bands - truth)[inside]
    assert difference.max() < 6 and difference.mean() < 0.5


def test_nothing_changes_outside_the_mask(person):
    photo, head = person
    cartoon = Image.new("RGB", (300, 300), (250, 20, 20))
    mask = head_mask(head, cartoon, photo.size)
    changed = (pixels(paste_back(photo, head, cartoon)) != pixels(photo)).any(-1)
    # Where the mask of the crop lies in the photo, and the two pixels next to it that interpolation reaches.
    rows, columns = np.nonzero(changed)
    inverse = np.linalg.inv(np.vstack([affine(head.quad, SIDE), (0, 0, 1)]))[:2]
    at = np.floor(np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], -1) @ inverse.T).astype(int)
    assert ((at >= -3) & (at < SIDE + 3)).all()
    padded = np.pad(mask.alpha, 8)
    near = np.max([padded[at[:, 1] + 8 + dy, at[:, 0] + 8 + dx] for dy in range(-3, 4) for dx in range(-3, 4)], axis=0)
    assert near.min() > 0 and 0.2 < changed.mean() < 0.6
    # Background that the crop shows is left alone: the feathered square would have changed it.
    assert mask.alpha[40, 8:24].max() == 0 and head.image.getpixel((32, 80)) != (250, 20, 20)


def test_in_place_is_the_same():
    photo = waves_photo(300, 200)
    aligned = Aligned(Image.new("RGB", (32, 32)), square((140, 100), 150, 40))
    picture = waves_photo(64, 64)
    expected = paste_back(photo, aligned, picture)
    assert paste_back(photo, aligned, picture, in_place=True) is photo
    np.testing.assert_array_equal(pixels(photo), pixels(expected))


def test_a_face_over_the_edge_reaches_it():
    photo = waves_photo(300, 200)
    aligned = Aligned(Image.new("RGB", (32, 32)), square((280, 20), 250, 10))
    mask = replace(everywhere(), alpha=head_mask(aligned, aligned.image, photo.size).alpha)
    result = paste_back(photo, aligned, Image.new("RGB", (256, 256), "white"), mask=replace(mask, photo=1 + mask.photo))
    assert result.size == (300, 200)
    assert pixels(result)[30:60, 270:].min() > 200
    np.testing.assert_array_equal(pixels(result)[:, :120], pixels(photo)[:, :120])


@pytest.mark.parametrize("size", [(32, 32), (40, 33)])
def test_a_tiny_photo(size):
    photo = waves_photo(*size)
    aligned = Aligned(photo.resize((64, 64)), square((16, 16), 20, 5))
    result = paste_back(photo, aligned, Image.new("RGB", (512, 512), "white"))
    assert result.size == size and not np.array_equal(pixels(result), pixels(photo))


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_grey_and_transparent_photos(mode, face_picture, tmp_path):
    photo = Image.new("RGB", (400, 360), (108, 128, 150))
    photo.paste(face_picture, (70, 50))
    if mode == "RGBA":
        photo.putalpha(200)
    elif mode == "L":
        photo = photo.convert("L")
    else:
        photo = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    photo.save(tmp_path / "photo.png")
    opened = open_photo(tmp_path / "photo.png", 128)
    toon = Toon(opened.image, [ToonFace(face, face.image) for face in opened.faces])
    assert toon.pasted().mode == "RGB" and toon.pasted().size == (400, 360)
    error = pixels(toon.pasted()) - pixels(opened.image)
    assert 10 * math.log10(255**2 / (error**2).mean()) > 35


# The mask


@pytest.mark.parametrize("seed", range(4))
def test_the_mask_is_between_nothing_and_everything(seed, person):
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cartoon = Image.fromarray(noise)
    head = person[1]
    others = [Aligned(cartoon, head.quad + 40 * seed)]
    mask = head_mask(replace(head, image=cartoon), head.image, (335, 410), others=others)
    for field in (mask.alpha, mask.kept, mask.photo, mask.cartoon):
        assert field.shape == (SIDE, SIDE) and field.min() >= 0 and field.max() <= 1 and field.dtype == np.float32


def test_the_mask_shows_the_head_and_fades_at_the_crops_border(person):
    photo, head = person
    alpha = head_mask(head, head.image, photo.size).alpha
    assert alpha[90:200, 80:176].min() > 0.99  # the face
    for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
        assert edge.max() < 0.02
    assert np.abs(np.diff(alpha, axis=0)).max() < 0.4 and np.abs(np.diff(alpha, axis=1)).max() < 0.4


def test_no_border_where_the_photo_ends(person):
    head = person[1]
    whole = Aligned(head.image, square((256, 256), 512, 0))
    alpha = head_mask(whole, head.image, (512, 512)).alpha
    assert alpha[-1, 110:146].min() > 0.9  # the neck, at the lower edge
    assert head_mask(whole, head.image, (512, 600)).alpha[-1].max() < 0.02  # there is more photo below


def test_hair_of_both_pictures_is_covered(person):
    photo, head = person
    moved = Image.fromarray(np.roll(np.asarray(head.image), 40, axis=1))
    mask = head_mask(head, moved, photo.size)
    both = np.maximum(mask.photo, mask.cartoon) * mask.kept
    both[199:] = 0  # below the chin only the cartoon's counts
    assert (mask.alpha[both > 0.9] > 0.85).all()
    assert (mask.photo - mask.cartoon).max() > 0.9 and (mask.cartoon - mask.photo).max() > 0.9


# Several faces


def test_overlapping_faces_keep_their_own_cartoons():
    photo = waves_photo(700, 400)
    quads = [square((250, 200), 260, 8), square((420, 190), 300, -6)]
    faces = [ToonFace(Aligned(crop(photo, quad, 64), quad), picture) for quad, picture in zip(quads, solid())]
    for order in (faces, faces[::-1]):
        result = pixels(Toon(photo, order).pasted())
        for quad, channel in ((quads[0], 0), (quads[1], 2)):
            x, y = quad.mean(0).round().astype(int)
            near = result[y - 20 : y + 20, x - 20 : x + 20].mean((0, 1))
            assert near[channel] > 180 and near[1] < 100
    np.testing.assert_array_equal(pixels(Toon(photo, faces).pasted()), pixels(Toon(photo, faces[::-1]).pasted()))


def solid() -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), colour) for colour in ((250, 10, 10), (10, 10, 250))]


# Colours at the seam


@pytest.mark.parametrize("shift", [(30, 30, 30), (25, -10, -30)])
def test_a_constant_shift_of_colour_does_not_show_at_the_seam(person, shift):
    photo, head = person
    levels = np.clip(pixels(head.image), 40, 215)  # so that the shift clips nothing
    head = replace(head, image=Image.fromarray(levels.astype(np.uint8)))
    photo = paste_back(photo, head, head.image, mask=everywhere())
    cartoon = Image.fromarray((levels + shift).astype(np.uint8))
    mask = head_mask(head, cartoon, photo.size)
    change = np.abs(pixels(paste_back(photo, head, cartoon, mask=mask)) - pixels(photo)).max(-1).astype(float)
    placed = Aligned(head.image, head.quad)
    alpha = pixels(paste_back(Image.new("RGB", photo.size), placed, Image.new("RGB", (64, 64), "white"),
                              mask=replace(mask, photo=mask.photo * 0 + 1, cartoon=mask.cartoon * 0 + 1,
                                           kept=mask.kept * 0 + 1)))[..., 0] / 255  # fmt: skip
    largest = max(abs(v) for v in shift)
    edge = (alpha > 0.02) & (alpha < 0.6)
    assert edge.sum() > 2000
    assert change[edge].mean() < 0.12 * largest  # cross-fading alone leaves 0.02 to 0.6 of it, 0.25 on average
    assert (alpha[edge] * largest).mean() > 0.2 * largest
    assert np.abs(np.diff(change, axis=0)).max() < 0.45 * largest  # no line appears


def test_the_face_keeps_the_cartoons_colours(person):
    """Only what is near the seam is moved."""
    photo, head = person
    levels = np.clip(pixels(head.image), 40, 215)
    cartoon = Image.fromarray((levels + np.array([25, -10, -30])).astype(np.uint8))
    before, after = (paste_back(photo, head, picture) for picture in (Image.fromarray(levels.astype("uint8")), cartoon))
    x, y = head.quad.mean(0).round().astype(int)
    moved = (pixels(after) - pixels(before))[y - 20 : y + 20, x - 20 : x + 20].mean((0, 1))
    np.testing.assert_allclose(moved, (25, -10, -30), atol=4)


def test_a_detected_face_is_pasted_where_it_is(face_picture):
    photo = Image.new("RGB", (640, 560), (108, 128, 150))
    photo.paste(face_picture.resize((300, 300)), (180, 130))
    (face,) = detect_faces(photo)
    aligned = align(photo, face, 256)
    error = pixels(paste_back(photo, aligned, aligned.image)) - pixels(photo)
    assert 10 * math.log10(255**2 / (error**2).mean()) > 45

"""EXIF and ICC profiles: what is kept of a photo, and that its colours stay what they are."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from icc import as_srgb, profile
from PIL import Image, ImageCms

from stylegan_toon.data.images import save_image
from stylegan_toon.data.metadata import MAX_EXIF, Metadata, metadata_of
from stylegan_toon.faces.photo import open_photo


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    """``[64, 64, 3]``: mild colours, which both spaces have."""
    y, x = np.mgrid[0:64, 0:64]
    return np.stack([90 + x * 1.5, 110 + y, 100 + (x + y) / 2], -1).round().astype(np.uint8)


def test_the_profile_is_what_it_says():
    parsed = ImageCms.ImageCmsProfile(io.BytesIO(profile()))
    assert ImageCms.getProfileDescription(parsed).strip() == "made for a test"


def test_crops_are_srgb_and_the_photo_stays_as_it_is(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "p3.png", icc_profile=profile())
    photo = open_photo(tmp_path / "p3.png", 64, aligned=True)
    assert np.array_equal(np.asarray(photo.image), colours) and photo.metadata.profile == profile()
    truth = as_srgb(colours)
    assert np.abs(truth - colours).max() > 8  # without a conversion the test would fail
    assert np.abs(np.asarray(photo.faces[0].image) - truth).max() < 2
    back = np.asarray(photo.metadata.from_srgb(photo.faces[0].image)).astype(int)
    assert np.abs(back - colours).max() <= 2


@pytest.mark.parametrize("given", ["sRGB", "none", "damaged", "grey"])
def test_nothing_is_converted_without_need(tmp_path, colours, given):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = {"sRGB": srgb, "none": None, "damaged": profile()[:300], "grey": profile().replace(b"RGB ", b"GRAY")}[given]
    Image.fromarray(colours).save(tmp_path / "a.png", icc_profile=data)
    photo = open_photo(tmp_path / "a.png", 64, aligned=True)
    assert np.array_equal(np.asarray(photo.faces[0].image), colours)
    assert photo.metadata.profile == (None if given in ("none", "grey") else data)


def test_a_profile_of_another_mode_is_left_out(tmp_path):
    Image.new("CMYK", (64, 64), (10, 20, 30, 40)).save(tmp_path / "a.jpg", icc_profile=profile())
    assert metadata_of(tmp_path / "a.jpg").profile is None


def photo_with_exif() -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x013B] = 6, "Camera", "someone"
    exif.get_ifd(0x8769).update({0x9003: "2026:01:02 03:04:05", 0x927C: b"secret" * 100, 0xA002: 40, 0xA003: 30})
    exif.get_ifd(0x8825).update({1: "N", 2: (50.0, 6.0, 7.5)})
    return Image.new("RGB", (40, 30), "red"), exif


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_what_is_kept_of_exif(tmp_path, ending):
    """Date, camera, author and place; not the orientation, which is applied, nor sizes, maker's notes, thumbnails."""
    picture, exif = photo_with_exif()
    data = exif.tobytes()
    # A thumbnail: a second directory behind the first, with its own picture.
    picture.save(tmp_path / f"a.{ending}", exif=data)
    metadata = metadata_of(tmp_path / f"a.{ending}")
    assert metadata.exif and b"secret" not in metadata.exif
    save_image(picture, tmp_path / "b.png", metadata)
    kept = Image.open(tmp_path / "b.png").getexif()
    assert kept[0x010F] == "Camera" and kept[0x013B] == "someone" and 0x0112 not in kept
    assert kept.get_ifd(0x8769) == {0x9003: "2026:01:02 03:04:05"}
    assert kept.get_ifd(0x8825) == {1: "N", 2: (50.0, 6.0, 7.5)}


def test_thumbnails_are_left_out(tmp_path):
    """A second directory with a JPEG, as cameras write it: its bytes are nowhere in what is kept."""
    thumbnail = b"\xff\xd8" + b"face as it was" * 20 + b"\xff\xd9"
    first = struct.pack(">H", 1) + struct.pack(">HHI4s", 0x010F, 2, 4, b"Cam\0")
    second_at = 8 + len(first) + 4
    size = 2 + 2 * 12 + 4
    second = struct.pack(">H", 2) + struct.pack(">HHII", 0x0201, 4, 1, second_at + size)
    second += struct.pack(">HHII", 0x0202, 4, 1, len(thumbnail)) + struct.pack(">I", 0)
    data = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + first + struct.pack(">I", second_at) + second + thumbnail
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=data)
    assert b"face as it was" in (tmp_path / "a.jpg").read_bytes()
    metadata = metadata_of(tmp_path / "a.jpg")
    assert metadata.exif and b"Cam" in metadata.exif and b"face" not in metadata.exif


def test_damaged_or_huge_exif_is_left_out(tmp_path):
    picture = Image.new("RGB", (40, 30))
    for name, data in {
        "cut": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 30,
        "loop": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08",
        "text": b"no exif at all",
    }.items():
        picture.save(tmp_path / f"{name}.png", exif=data)
        metadata = metadata_of(tmp_path / f"{name}.png")
        save_image(picture, tmp_path / f"{name}-out.png", metadata)
        Image.open(tmp_path / f"{name}-out.png").load()
    exif = Image.Exif()
    exif[0x010E] = "x" * (MAX_EXIF + 1)
    picture.save(tmp_path / "huge.png", exif=exif)
    assert metadata_of(tmp_path / "huge.png") == Metadata()

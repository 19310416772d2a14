"""EXIF and ICC profiles: what is kept of a photo, and that its colours stay what they are."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from stylegan_toon.data.images import save_image
from stylegan_toon.data.metadata import MAX_EXIF, Metadata, metadata_of
from stylegan_toon.faces.photo import open_photo

# XYZ of the primaries as profiles hold them, adapted to D50 (Display P3: SMPTE EG 432-1 with white D65).
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def profile(primaries=P3) -> bytes:
    """An ICC profile (version 4.3) of these primaries with the curve of sRGB, written by hand from the standard."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    text = "made for a test".encode("utf-16-be")
    words = b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(text), 28) + text
    curve = b"para" + struct.pack(">IHH", 0, 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    white = (0.9642, 1.0, 0.82491)
    tags = {b"desc": words, b"cprt": words, b"wtpt": b"XYZ \0\0\0\0" + fixed(*white)}
    for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries):
        tags[name] = b"XYZ \0\0\0\0" + fixed(*xyz)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body + b"\0" * (-len(body) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"\0\0\0\0", 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(*white)
    return header + b"\0" * (128 - len(header)) + table + data


def as_srgb(levels: np.ndarray) -> np.ndarray:
    """Levels in Display P3 as levels in sRGB, by the formulas; clipped to what sRGB has."""
    c = levels / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    linear = (linear @ np.array(P3) @ np.linalg.inv(np.array(SRGB))).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    """``[64, 64, 3]``: mild colours, which both spaces have."""
    y, x = np.mgrid[0:64, 0:64]
    return np.stack([90 + x * 1.5, 110 + y, 100 + (x + y) / 2], -1).round().astype(np.uint8)


def test_the_profile_is_what_it_says():
    parsed = ImageCms.ImageCmsProfile(__import__("io").BytesIO(profile()))
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

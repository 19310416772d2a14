"""The filters on pictures with known changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from stylegan_toon.dataset_builder.filters import (
    BLUR,
    DUPLICATE,
    GLASSES,
    HEAD,
    blur,
    duplicates,
    glasses,
    head_pose,
    perceptual_hash,
    remove_background,
)
from stylegan_toon.errors import ToonError


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """About the vertical axis, then the horizontal, then in the picture; x right, y down, z away."""
    a, b, c = (math.radians(v) for v in (yaw, pitch, roll))
    turn = np.array([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]])
    nod = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    tilt = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return tilt @ nod @ turn


angle = st.floats(-60, 60)


@settings(max_examples=100, deadline=None)
@given(angle, st.floats(-40, 40), angle, st.floats(0.1, 10), st.floats(-500, 500))
def test_pose_of_the_generic_head_is_recovered(yaw, pitch, roll, scale, shift):
    landmarks = scale * (HEAD @ rotation(yaw, pitch, roll).T)[:, :2] + shift
    np.testing.assert_allclose(head_pose(landmarks), (yaw, pitch, roll), atol=0.01)


def test_signs_of_the_angles():
    straight = HEAD[:, :2].copy()
    np.testing.assert_allclose(head_pose(straight), 0, atol=1e-6)
    for (dx, dy), which in (((8, 0), 0), ((0, 8), 1)):
        nose = straight.copy()
        nose[2] += (dx, dy)
        assert head_pose(nose)[which] > 5
    mirrored = (straight + np.array([[0, 0], [0, 0], [8, 0], [0, 0], [0, 0]])) * (-1, 1)
    assert head_pose(mirrored[[1, 0, 2, 4, 3]])[0] < -5
    assert head_pose(np.zeros((5, 2)))[0] == 90  # no face at all is turned away


def noise_picture(seed: int, side: int = 256) -> Image.Image:
    """A random picture with the spectrum of natural ones, amplitude 1 / frequency."""
    rng = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    spectrum = np.fft.fft2(rng.standard_normal((side, side))) / np.maximum(np.hypot(fx, fy), 1 / side)
    grey = np.fft.ifft2(spectrum).real
    grey = 127.5 + 50 * (grey - grey.mean()) / grey.std()
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")


def test_blur_grows_with_known_blur_and_not_with_contrast():
    picture = noise_picture(0)
    values = [blur(picture.filter(ImageFilter.GaussianBlur(sigma))) for sigma in (0, 0.5, 1, 1.5, 2, 3, 5)]
    assert values == sorted(values) and values[0] < BLUR < values[4]
    assert abs(blur(ImageEnhance.Contrast(picture).enhance(0.5)) - values[0]) < 0.02
    assert abs(blur(picture.rotate(90)) - values[0]) < 1e-9
    along = Image.fromarray(np.asarray(picture.resize((256, 24)).resize((256, 256), Image.Resampling.BICUBIC)))
    assert blur(along) > BLUR  # blurred in one direction only
    assert blur(Image.new("RGB", (64, 64), "red")) == 1


def test_enlarged_pictures_are_called_blurred():
    picture = noise_picture(1)
    assert blur(picture.resize((48, 48), Image.Resampling.LANCZOS).resize((256, 256), Image.Resampling.BICUBIC)) > BLUR
    assert blur(picture.resize((128, 128), Image.Resampling.LANCZOS)) < BLUR


@pytest.mark.parametrize(
    "change",
    [
        lambda im: im.resize((80, 80), Image.Resampling.LANCZOS),
        lambda im: im.resize((700, 700), Image.Resampling.BICUBIC),
        lambda im: ImageEnhance.Brightness(im).enhance(1.1),
        lambda im: ImageEnhance.Contrast(im).enhance(0.7),
        lambda im: im.filter(ImageFilter.GaussianBlur(2)),
        lambda im: im.convert("L").convert("RGB"),
    ],
)
def test_the_hash_survives_known_changes(change, face_picture):
    for picture in (face_picture, *map(noise_picture, range(5))):
        assert (perceptual_hash(picture) ^ perceptual_hash(change(picture))).bit_count() <= DUPLICATE


def test_different_pictures_hash_far_apart():
    hashes = [perceptual_hash(noise_picture(seed, 64)) for seed in range(60)]
    distances = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 2 * DUPLICATE
    assert all(0 <= value < 2**256 for value in hashes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0, 3, 24]))
def test_duplicates_equal_the_plain_search(seed, distance):
    rng = np.random.default_rng(seed)
    hashes: list[int] = []
    for _ in range(40):  # new ones, and old ones with some bits flipped
        value = int.from_bytes(rng.bytes(32), "big")
        if hashes and rng.random() < 0.6:
            flips = rng.choice(256, rng.integers(0, 2 * distance + 2), replace=False)
            value = hashes[rng.integers(len(hashes))] ^ sum(1 << int(bit) for bit in flips)
        hashes.append(value)
    kept, expected = [], {}
    for i, value in enumerate(hashes):
        near = [k for k in kept if bin(hashes[k] ^ value).count("1") <= distance]
        if near:
            expected[i] = near[0]
        else:
            kept.append(i)
    assert duplicates(hashes, distance) == expected


def with_glasses(face: Image.Image, bridge: bool) -> Image.Image:
    drawn = face.copy()
    draw = ImageDraw.Draw(drawn)
    for x in (96, 160):
        draw.ellipse((x - 26, 104, x + 26, 140), outline=(30, 26, 24), width=3)
    if bridge:
        draw.line((120, 112, 136, 112), fill=(30, 26, 24), width=3)
    return drawn


def test_a_bridge_across_the_nose_is_glasses(face_picture):
    bare = glasses(face_picture)
    assert bare < GLASSES < glasses(with_glasses(face_picture, bridge=True))
    assert glasses(with_glasses(face_picture, bridge=False)) < GLASSES  # it is the bridge that is looked for
    assert glasses(with_glasses(face_picture, bridge=True).resize((512, 512), Image.Resampling.BICUBIC)) > GLASSES


def test_background_becomes_transparent_and_the_face_stays(face_picture):
    cut = remove_background(face_picture)
    alpha = np.asarray(cut.getchannel("A"))
    assert cut.mode == "RGBA" and cut.size == face_picture.size
    assert alpha[4:60, 4:40].mean() < 20 and alpha[4:60, -40:-4].mean() < 20  # the upper corners
    assert alpha[110:200, 96:160].min() > 235  # eyes to mouth
    np.testing.assert_array_equal(np.asarray(cut)[..., :3], np.asarray(face_picture))


def test_a_missing_matting_package_is_one_sentence(face_picture, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rembg", None)
    with pytest.raises(ToonError, match="pip install"):
        remove_background(face_picture, "rembg")

"""Detection rate, and how alike photos and toons are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.errors import ToonError
from stylegan_toon.faces.align import has_face
from stylegan_toon.faces.photo import open_photo
from stylegan_toon.features.hub import Unavailable
from stylegan_toon.metrics import Suite, evaluate_pictures
from stylegan_toon.metrics import face_networks as module
from stylegan_toon.metrics.photo_pairs import evaluate_pairs, match

PORTRAIT = Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg"


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """The aligned face of the portrait, 128 px."""
    return open_photo(PORTRAIT, 128).faces[0].image


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8))


def test_a_face_and_noise(face, noise):
    assert has_face(Image.open(PORTRAIT).convert("RGB")) and has_face(face) and has_face(face.resize((64, 64)))
    assert not has_face(noise) and not has_face(Image.new("RGB", (300, 200), "white"))


def test_detection_rate_of_a_set(tmp_path, face, noise):
    for name, image in {"a": face, "b": noise, "c": face, "d": noise, "e": noise}.items():
        image.save(tmp_path / f"{name}.png")
    assert evaluate_pictures(ImageDataset(tmp_path), None, ["detection"], batch=2) == {"detection": pytest.approx(0.4)}


@pytest.fixture
def folders(tmp_path, face, noise) -> tuple[Path, Path]:
    """Two photos with toons (the face itself; the face mirrored and darker) and two without."""
    photos, toons = tmp_path / "photos", tmp_path / "toons"
    (photos / "more").mkdir(parents=True)
    toons.mkdir()
    for name in ("same.jpg", "more/other.jpg", "alone.jpg"):
        (photos / name).write_bytes(PORTRAIT.read_bytes())
    noise.save(photos / "nobody.png")
    face.save(toons / "same-toon.png")
    face.transpose(Image.Transpose.FLIP_LEFT_RIGHT).point(lambda v: v // 2).save(toons / "other.png")
    face.save(toons / "nobody-toon.png")
    face.save(toons / "same-sheet.png")
    return photos, toons


def test_toons_are_matched_by_name(folders):
    photos, toons = folders
    result = [(photo.relative_to(photos).as_posix(), toon.name) for photo, toon in match(photos, toons)]
    assert result == [("more/other.jpg", "other.png"), ("nobody.png", "nobody-toon.png"), ("same.jpg", "same-toon.png")]


def test_photos_and_toons_in_one_folder(folders):
    _, toons = folders
    (toons / "same.jpg").write_bytes(PORTRAIT.read_bytes())
    assert [(a.name, b.name) for a, b in match(toons, toons)] == [("same.jpg", "same-toon.png")]


def test_unmatched_pictures(folders, tmp_path):
    photos, _ = folders
    with pytest.raises(ToonError, match="a folder of each"):
        match(photos / "alone.jpg", photos)
    (tmp_path / "none").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "none" / "x.png")
    with pytest.raises(ToonError, match="NAME-toon"):
        match(photos, tmp_path / "none")


@pytest.fixture(scope="module")
def suite() -> Suite:
    return Suite(["identity-dlib", "detection"])


def test_identity_of_pairs(folders, suite):
    """About 1 for the same face (it is resized again), lower for a mirrored, darker one; noise is left out."""
    (other, nobody, same) = match(*folders)
    with pytest.warns(UserWarning, match=r"nobody\.png is left out: No face"):
        result = evaluate_pairs([other, nobody, same], suite)
    alone = evaluate_pairs([same], suite).metrics["identity-dlib"]
    assert result.count == 2 and result.metrics["detection"] == 1
    assert alone > 0.998 > 0.996 > result.metrics["identity-dlib"]
    assert result.sheet.width > 4 * 128


def test_no_pair_is_left(folders, suite):
    with pytest.warns(UserWarning), pytest.raises(ToonError, match="No pair is left"):
        evaluate_pairs([match(*folders)[1]], suite)
    with pytest.raises(ToonError, match="not measured on pairs"):
        evaluate_pairs([], Suite(["fd-mine"], networks={"mine": torch.nn.Identity()}))


def test_facenet_without_its_weights(monkeypatch):
    def fail():
        raise Unavailable("no download from there (no answer)")

    monkeypatch.setattr(module, "load_facenet", fail)
    with pytest.raises(ToonError, match=r"no answer.*identity-dlib"):
        Suite(["identity"])

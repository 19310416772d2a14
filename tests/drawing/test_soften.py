"""Softened lines: strokes painted on a generated face, of which the photo has none, a faint one, or the same one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from stylegan_toon import load_network
from stylegan_toon.data.images import to_pil
from stylegan_toon.drawing.colour import to_oklab
from stylegan_toon.drawing.soften import SIDE, skin_area, soften_lines
from stylegan_toon.faces import mesh as M
from stylegan_toon.faces.mesh import Mesh, face_mesh
from stylegan_toon.pipelines.generate import latents


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """The face of seed 8 of the shipped network, without spectacles, 512 px."""
    G = load_network("faces")
    with torch.no_grad():
        return to_pil(G(latents([8], G.config.z_dim), psi=0.5, noise_mode="const", resolution=SIDE)[0])


@pytest.fixture(scope="module")
def landmarks(face) -> Mesh:
    return face_mesh(face)


def stroke(face: Image.Image, landmarks: Mesh, grey: int, blend: float = 1.0) -> tuple[Image.Image, np.ndarray]:
    """The face with a stroke down its left cheek, and where the middle of the stroke is, ``[H, W]``."""
    sheet = Image.new("L", face.size)
    ends = landmarks.points[[50, 207]]  # the cheekbone, and beside the mouth
    ImageDraw.Draw(sheet).line([tuple(map(float, end)) for end in ends], fill=255, width=5)
    mask = np.asarray(sheet, np.float32)[..., None] / 255 * blend
    painted = np.asarray(face, np.float32) * (1 - mask) + grey * mask
    inner = Image.new("L", face.size)
    ImageDraw.Draw(inner).line([tuple(map(float, end)) for end in ends], fill=255, width=1)
    return Image.fromarray(painted.round().astype(np.uint8)), np.asarray(inner) > 0


def lightness(picture: Image.Image, where: np.ndarray) -> float:
    return float(to_oklab(np.asarray(picture))[..., 0][where].mean())


def test_a_line_that_the_photo_does_not_have_almost_goes(face, landmarks):
    drawn, line = stroke(face, landmarks, 30)
    softened = soften_lines(face, drawn)
    gone = (lightness(softened, line) - lightness(drawn, line)) / (lightness(face, line) - lightness(drawn, line))
    assert 0.7 < gone <= 1.05


def test_a_line_that_the_photo_has_stays_at_half_its_depth_or_more(face, landmarks):
    drawn, line = stroke(face, landmarks, 30)
    softened = soften_lines(drawn, drawn)
    left = (lightness(face, line) - lightness(softened, line)) / (lightness(face, line) - lightness(drawn, line))
    assert 0.5 < left < 0.95


def test_half_the_amount_takes_half_away(face, landmarks):
    drawn, line = stroke(face, landmarks, 30)
    before, half, whole = (lightness(soften_lines(face, drawn, amount), line) for amount in (0, 0.5, 1))
    assert half - before == pytest.approx((whole - before) / 2, rel=0.1)


def test_the_rest_stays_as_it_is(face, landmarks):
    """Away from the stroke, in features and outside the face: within the rounding of a change of colour space."""
    drawn, _ = stroke(face, landmarks, 30)
    change = np.abs(np.asarray(soften_lines(face, drawn), int) - np.asarray(drawn, int)).max(-1)
    outside = skin_area(face_mesh(drawn, looks=2)) == 0
    assert change[outside].max() <= 1
    assert outside.mean() > 0.5
    plain = np.abs(np.asarray(soften_lines(face, face), int) - np.asarray(face, int)).max(-1)
    assert np.quantile(plain, 0.9) <= 4


def test_skin_has_no_eyes_brows_or_lips(face, landmarks):
    skin = skin_area(landmarks)
    for name in ("LEFT_IRIS", "RIGHT_IRIS", "LEFT_BROW_UPPER", "RIGHT_BROW_LOWER", "LIPS_OUTER_LOWER", "FACE_OVAL"):
        x, y = landmarks.points[list(getattr(M, name))].round().astype(int).T
        assert skin[y, x].max() < 0.35, name
    x, y = landmarks.points[[50, 280, 151, 199]].round().astype(int).T  # cheeks, forehead, chin
    assert skin[y, x].min() > 0.95


def test_other_sizes_are_softened_alike(face, landmarks):
    drawn, _ = stroke(face, landmarks, 30)
    small = soften_lines(face, drawn.resize((256, 256), Image.Resampling.BOX))
    large = soften_lines(face, drawn).resize((256, 256), Image.Resampling.BOX)
    assert np.abs(np.asarray(small, float) - np.asarray(large, float)).mean() < 1.0


def test_nothing_to_do_gives_the_cartoon_itself(face):
    empty = Image.new("RGB", (SIDE, SIDE), (90, 120, 200))
    assert soften_lines(face, empty) is empty
    assert soften_lines(face, face, 0) is face

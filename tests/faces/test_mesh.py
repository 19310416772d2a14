"""Landmarks: the network against MediaPipe's own runtime, and the named curves against the geometry of a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from stylegan_toon.errors import ToonError
from stylegan_toon.faces import mesh as module
from stylegan_toon.faces.mesh import Mesh, face_mesh, mesh_network, outline

HERE = Path(__file__).parent
CURVES = [
    name for name, value in vars(module).items()
    if name.isupper() and isinstance(value, tuple) and name not in ("FACE_OVAL", "FIRST_BOX") and "IRIS" not in name
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """uint8 ``[3, 192, 192, 3]``."""
    return np.stack(np.split(np.array(Image.open(HERE / "faces.png").convert("RGB")), 3, axis=1))


@pytest.fixture(scope="module")
def face(pictures) -> Image.Image:
    """An aligned crop: the network's picture with the margin that alignment leaves above it."""
    return Image.fromarray(np.pad(pictures[1], ((14, 0), (7, 7), (0, 0)), mode="edge"))


def test_equals_mediapipe(pictures):
    """reference.npz holds the output of MediaPipe 0.10.21; make_reference.py made it."""
    reference = np.load(HERE / "reference.npz")
    points, presence = mesh_network()(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(points, torch.from_numpy(reference["points"]), atol=2e-3, rtol=0)
    torch.testing.assert_close(presence.sigmoid(), torch.from_numpy(reference["score"]), atol=1e-4, rtol=0)


def test_one_picture_at_a_time_or_all_at_once(pictures):
    img = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    together = mesh_network()(img)[0]
    torch.testing.assert_close(together, torch.cat([mesh_network()(one[None])[0] for one in img]), atol=1e-3, rtol=0)


def test_the_centre_of_the_first_pixel_is_half(face):
    """An enlarged crop has the same landmarks, enlarged: so the origin is the outer corner, not a pixel's centre."""
    side = face.width
    small = face_mesh(face).points
    large = face_mesh(face.resize((3 * side, 3 * side), Image.Resampling.BICUBIC)).points
    assert np.abs(large / 3 - small).mean() < 0.1  # by centres of pixels it would be 1/3
    assert abs((large / 3 - small).mean()) < 0.05


def test_a_shifted_crop_has_shifted_landmarks(face):
    result = face_mesh(face).points
    shifted = Image.fromarray(np.pad(np.asarray(face), ((8, 0), (5, 3), (0, 0)), mode="edge"))
    moved = face_mesh(shifted).points - result
    assert np.abs(moved.mean(0) - (5, 8)).max() < 0.25
    assert np.hypot(*(moved - (5, 8)).T).mean() < 0.6


def test_scaled(face):
    result = face_mesh(face)
    double = result.scaled(2)
    np.testing.assert_array_equal(double.points, 2 * result.points)
    np.testing.assert_array_equal(double.depth, 2 * result.depth)
    assert double.score == result.score


@pytest.mark.parametrize("name", CURVES)
def test_curves_follow_their_documented_order(face, name):
    at = face_mesh(face).points[list(getattr(module, name))]
    if name == "NOSE_BRIDGE" or name.endswith("WING"):
        assert (np.diff(at[:, 1]) > 0).all()
    elif name == "JAW":
        bottom = at[:, 1].argmax()
        assert (np.diff(at[: bottom + 1, 1]) > 0).all() and (np.diff(at[bottom:, 1]) < 0).all()
        assert at[0, 0] < at[bottom, 0] < at[-1, 0]
    else:
        assert (np.diff(at[:, 0]) > 0).all()


@pytest.mark.parametrize(
    "names", [name for name in CURVES if name.endswith("UPPER")], ids=lambda name: name.removesuffix("_UPPER").lower()
)
def test_upper_curves_are_above_lower_ones(face, names):
    points = face_mesh(face).points
    upper, lower = (points[list(getattr(module, names.replace("UPPER", which)))] for which in ("UPPER", "LOWER"))
    inner = slice(1, -1)
    assert (upper[inner, 1] <= np.interp(upper[inner, 0], *lower.T) + 0.2).all()


@pytest.mark.parametrize("name", [name for name in (*CURVES, "LEFT_IRIS", "FACE_OVAL") if "RIGHT" not in name])
def test_left_and_right_change_places_in_a_mirror(face, name):
    """So "left" and "right" name the same parts, and curves across the face are symmetric."""
    points, mirrored = face_mesh(face).points, face_mesh(ImageOps.mirror(face)).points
    here = points[list(getattr(module, name))]
    there = mirrored[list(getattr(module, name.replace("LEFT", "RIGHT")))] * (-1, 1) + (face.width, 0)
    if name == "LEFT_IRIS":
        there = there[[0, 3, 2, 1, 4]]
    elif name == "FACE_OVAL":
        there = np.roll(there[::-1], 1, axis=0)
    elif name != "NOSE_BRIDGE" and not name.endswith("WING"):
        there = there[::-1]
    assert np.hypot(*(here - there).T).max() < 0.015 * face.width


def test_an_iris_is_where_the_eye_is_dark(face):
    """The centre of the dark disc, found without the network: the centroid of dark pixels between the lids."""
    large = face.convert("L").resize((4 * face.width,) * 2, Image.Resampling.BICUBIC)
    grey = np.asarray(large, np.float64)
    points = 4 * face_mesh(face).points
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]] + 0.5
    for side in ("LEFT", "RIGHT"):
        iris = points[list(getattr(module, f"{side}_IRIS"))]
        upper, lower = (points[list(getattr(module, f"{side}_EYE_{which}"))] for which in ("UPPER", "LOWER"))
        eye = (y > np.interp(x, *upper.T)) & (y < np.interp(x, *lower.T)) & (x > upper[0, 0]) & (x < upper[-1, 0])
        dark = eye & (grey < (grey[eye].min() + grey[eye].max()) / 2)
        dark &= abs(x - iris[0, 0]) < 0.3 * (upper[-1, 0] - upper[0, 0])  # not the lashes in the corners
        radius = np.hypot(*(iris[1] - iris[3])) / 2
        assert abs(x[dark].mean() - iris[0, 0]) < 0.35 * radius


def test_the_score(face):
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    assert face_mesh(face).score > 0.99
    assert face_mesh(Image.fromarray(noise)).score < 0.1


@pytest.mark.parametrize("size", [(200, 201), (31, 31)])
def test_only_square_crops(size):
    with pytest.raises(ToonError, match="align the photo first"):
        face_mesh(Image.new("RGB", size))


def test_the_outline_is_the_hull():
    """Of a circle with points inside: the circle's, going round clockwise as seen (y points down)."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([100 + 50 * np.cos(angle), 100 + 50 * np.sin(angle)], 1)
    inside = np.random.default_rng(0).uniform(80, 120, (438, 2))
    result = outline(Mesh(np.concatenate([inside, circle]), np.zeros(478), 1.0))
    assert len(result) == 40 and np.allclose(np.hypot(*(result - 100).T), 50)
    turned = np.unwrap(np.arctan2(*(result - 100).T[::-1]))
    assert np.allclose(np.diff(turned), 2 * np.pi / 40)


def test_the_outline_of_a_face_goes_around_the_oval(face):
    result = face_mesh(face)
    edge, oval = outline(result), result.points[list(module.FACE_OVAL)]
    assert np.allclose([edge.min(0), edge.max(0)], [result.points.min(0), result.points.max(0)])
    assert np.hypot(*(edge[:, None] - oval).transpose(2, 0, 1)).min(1).max() < 0.04 * face.width

"""Short films are read back as they were written."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stylegan_toon.data.animation import save_animation
from stylegan_toon.data.video import Film
from stylegan_toon.errors import ToonError


@pytest.fixture
def frames() -> list[Image.Image]:
    """Six frames of 64x32 px that grow lighter."""
    return [Image.new("RGB", (64, 32), (40 * i, 30 * i, 200 - 30 * i)) for i in range(6)]


def test_webp_has_all_frames(frames, tmp_path):
    save_animation(frames, tmp_path / "a.webp", rate=10)
    film = Image.open(tmp_path / "a.webp")
    film.load()
    assert film.size == (64, 32) and film.n_frames == 6 and film.info["duration"] == 100


def test_mp4_has_all_frames_and_colours(frames, tmp_path):
    pytest.importorskip("av")
    save_animation(frames, tmp_path / "a.mp4", rate=12)
    film = Film(tmp_path / "a.mp4")
    shown = [np.asarray(frame.image, np.float64) for frame in film]
    assert len(shown) == 6 and float(film.rate) == 12 and shown[0].shape == (32, 64, 3)
    for one, frame in zip(shown, frames):
        assert np.abs(one - np.asarray(frame, np.float64)).mean() < 4


def test_other_files_are_refused(frames, tmp_path):
    with pytest.raises(ToonError, match=r"use \.webp, \.gif or \.mp4"):
        save_animation(frames, tmp_path / "a.avi")
    with pytest.raises(ValueError, match="at least one frame"):
        save_animation([], tmp_path / "a.webp")
    assert not list(tmp_path.iterdir())

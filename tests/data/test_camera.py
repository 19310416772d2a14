"""A camera gives its newest picture; a film in its place."""

from __future__ import annotations

import films
import numpy as np
import pytest

from stylegan_toon.data.camera import Camera
from stylegan_toon.errors import ToonError


def grey(image) -> int:
    return int(np.asarray(image)[48:, 60:].mean())


def test_pictures_come_in_order_and_once(tmp_path):
    path = films.film(tmp_path / "film.mp4", 12, sound=None)
    with Camera(str(path), kind="file") as camera:
        seen = []
        while (image := camera.newest()) is not None:
            seen.append(grey(image))
        assert camera.newest() is None
    assert seen and seen == sorted(seen) and len(seen) == len(set(seen))
    assert abs(seen[-1] - int(films.picture(11)[-1, -1, 0])) <= 4  # the last one is never lost


def test_a_slow_reader_gets_the_newest(tmp_path):
    path = films.film(tmp_path / "film.mp4", 12, sound=None)
    with Camera(str(path), kind="file") as camera:
        camera._thread.join(30)
        assert abs(grey(camera.newest()) - int(films.picture(11)[-1, -1, 0])) <= 4
        assert camera.newest() is None


def test_closing_ends_the_thread(tmp_path):
    path = films.film(tmp_path / "film.mp4", 50, sound=None)
    camera = Camera(str(path), kind="file")
    camera.newest()
    camera.close()
    assert not camera._thread.is_alive()


def test_no_camera_is_one_sentence(tmp_path):
    with pytest.raises(ToonError, match="cannot be opened"):
        Camera(str(tmp_path / "video9"))
    with pytest.raises(ToonError, match="cannot be opened"):
        Camera(str(tmp_path / "none.mp4"), kind="file")


def test_a_camera_that_is_silent_is_told(tmp_path):
    path = films.film(tmp_path / "film.mp4", 3, sound=None)
    with Camera(str(path), kind="file") as camera:
        camera._thread.join(30)
        camera.newest()
        camera._ended = False
        with pytest.raises(ToonError, match=r"no picture for 0\.05 seconds"):
            camera.newest(timeout=0.05)

"""Films: what is read, what is written, and what hostile or odd files end in."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys
from pathlib import Path

import films
import numpy as np
import pytest
from PIL import Image

from stylegan_toon.data.hdr import to_sdr
from stylegan_toon.data.shots import CutFinder
from stylegan_toon.data.video import MAX_SIDE, Film, is_film
from stylegan_toon.data.video_writer import write_film
from stylegan_toon.errors import ToonError


def copied(source: Path, out: Path) -> Path:
    film = Film(source)
    with write_film(out, film) as writer:
        for frame in film:
            writer.write(frame.image, frame.pts)
    return out


def read(path: Path) -> list[np.ndarray]:
    return [np.asarray(frame.image) for frame in Film(path)]


def test_frames_come_as_ffmpeg_decodes_them(tmp_path):
    path = films.film(tmp_path / "film.mp4")
    film = Film(path)
    assert (film.width, film.height, film.rate, film.count, film.sound) == (96, 64, 25, 8, ["aac"])
    frames, truth = list(film), films.shown(path)
    assert [frame.time for frame in frames] == pytest.approx([time for time, _ in truth])
    for number, frame in enumerate(frames):
        assert np.abs(np.asarray(frame.image).astype(int) - films.picture(number)).mean() < 4
    assert len(list(film)) == 8  # again from the start


def test_a_copy_looks_and_sounds_the_same(tmp_path):
    source = films.film(tmp_path / "film.mp4")
    out = copied(source, tmp_path / "copy.mp4")
    assert films.streams(out) == ["h264", "aac"]
    assert films.packets(out) == films.packets(source) and len(films.packets(out)) > 5
    for (t, a), (s, b) in zip(films.shown(out), films.shown(source), strict=True):
        assert t == pytest.approx(s) and np.abs(a.astype(int) - b).mean() < 3
    assert sorted(os.listdir(tmp_path)) == ["copy.mp4", "film.mp4"]


def test_every_frame_keeps_its_time(tmp_path):
    """A variable frame rate, as phones record it."""
    times = [0, 33, 70, 170, 180, 420, 425, 600]
    source = films.film(tmp_path / "film.mp4", times=times)
    out = copied(source, tmp_path / "copy.mp4")
    assert [round(1000 * time) for time, _ in films.shown(out)] == times


def test_sound_that_mp4_does_not_hold_becomes_aac(tmp_path):
    source = films.film(tmp_path / "film.mkv", sound="pcm_s16le", seconds=0.5)
    out = copied(source, tmp_path / "copy.mp4")
    assert films.streams(out)[1] == "aac"
    with films.av.open(str(out)) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(heard[2048 : 2048 + 16384]))
    assert abs(spectrum.argmax() * 48000 / 16384 - 440) < 3  # the tone is there
    assert abs(len(heard) / 48000 - 0.5) < 0.05


def test_a_film_without_sound(tmp_path):
    out = copied(films.film(tmp_path / "film.mp4", sound=None), tmp_path / "copy.mp4")
    assert len(films.streams(out)) == 1


def test_odd_sizes_lose_a_pixel(tmp_path):
    source = films.film(tmp_path / "film.mkv", size=(97, 65), codec="ffv1", pixels="bgr0", sound=None)
    assert read(source)[0].shape == (65, 97, 3)
    out = copied(source, tmp_path / "copy.mp4")
    assert films.shown(out)[0][1].shape == (64, 96, 3)


@pytest.mark.parametrize(("turn", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_phones_are_held_upright(tmp_path, turn, matrix):
    """The matrix of the track header (ISO 14496-12, 8.3.2): (x, y) is shown at (ax + cy, bx + dy)."""
    path = films.film(tmp_path / "film.mp4", sound=None)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times and ids, reserved, layer to volume
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    film = Film(path)
    plain = Image.fromarray(films.picture(0))
    truth = plain.rotate(-turn, expand=True)  # clockwise
    assert (film.width, film.height) == truth.size
    assert np.abs(read(path)[0].astype(int) - np.asarray(truth)).mean() < 4


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    from fractions import Fraction

    path = films.film(tmp_path / "film.mp4", sample_aspect_ratio=Fraction(2))
    assert (Film(path).width, Film(path).height) == (192, 64)


@pytest.mark.parametrize("size", [(96, 64), (1280, 720)])
def test_colours_survive_in_small_and_large_films(tmp_path, size):
    """BT.601 is usual below 720 lines, BT.709 from there on; the result is BT.709 and says so."""
    matrix = 1 if size[1] >= 720 else 5
    source = films.film(tmp_path / "film.mp4", 2, size, sound=None, colorspace=matrix)
    out = copied(source, tmp_path / "copy.mp4")
    truth = films.picture(1, size).astype(int)
    assert np.abs(read(source)[1] - truth)[8:-8, 8:-8].max() <= 24
    assert np.abs(read(source)[1] - truth).mean() < 3 and np.abs(read(out)[1] - truth).mean() < 3


def test_ten_bits_become_eight(tmp_path):
    path = films.film(tmp_path / "film.mkv", codec="libx265", pixels="yuv420p10le", sound=None)
    for number, pixels in enumerate(read(path)):
        assert np.abs(pixels.astype(int) - films.picture(number)).mean() < 4


def pq(nits: float) -> float:
    """Signal, 0 to 1, of a luminance: the inverse EOTF of SMPTE ST 2084, equation 5.2."""
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def test_hdr_is_brought_to_the_range_of_screens():
    """Greys: black stays, half of white is in its place, white is nearly white, and brighter rises without clipping."""
    nits = [0, 203 / 2, 203, 400, 1000, 4000]
    signals = np.array([[round(65535 * pq(n))] * 3 for n in nits], np.uint16)[None]
    grey = to_sdr(signals, 16)[0]
    assert np.ptp(grey.astype(int), axis=1).max() <= 1  # neutral
    levels = grey[:, 1].astype(int)
    assert levels[0] == 0 and levels[1] == pytest.approx(255 * 0.5 ** (1 / 2.4), abs=2)
    assert 230 <= levels[2] < levels[3] < levels[4] < levels[5] <= 255


def test_wide_colours_keep_their_hue():
    """BT.709's red, written with BT.2020's primaries (BT.2087), comes out red."""
    light = np.array([0.6274, 0.0691, 0.0164]) * 0.6  # linear, below the knee
    signal = np.rint(65535 * light ** (1 / 2.4)).astype(np.uint16)[None, None]
    red, green, blue = to_sdr(signal, 14)[0, 0].astype(int)
    assert red == pytest.approx(255 * 0.6 ** (1 / 2.4), abs=3) and max(green, blue) < 25


def test_an_hdr_film_is_read_and_says_so(tmp_path):
    white = np.full((64, 96, 3), round(65535 * pq(203 / 2)), np.uint16)
    path = films.write(
        tmp_path / "film.mkv", [white] * 3, codec="libx265", pixels="yuv420p10le", sound=None,
        color_trc=16, color_primaries=9, colorspace=9,
    )  # fmt: skip
    film = Film(path)
    assert len(film.notes) == 1 and "HDR" in film.notes[0]
    assert np.abs(read(path)[1].astype(int) - 255 * 0.5 ** (1 / 2.4)).mean() < 5


def test_large_frames_are_reduced(tmp_path):
    path = films.film(tmp_path / "film.mp4", 1, (4400, 64), sound=None)
    film = Film(path)
    assert (film.width, film.height) == (MAX_SIDE, 56) and "reduced" in film.notes[0]
    assert read(path)[0].shape == (56, MAX_SIDE, 3)


def test_frames_beyond_8k_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("stylegan_toon.data.video.MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(ToonError, match="96x64 pixels: reduce"):
        Film(films.film(tmp_path / "film.mp4"))


# Odd and hostile files


def test_what_is_left_of_a_film_is_read(tmp_path):
    """A file cut off in the middle, in a container that can be read without its end."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(20)]
    path = films.write(tmp_path / "film.mkv", noise, sound=None)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    film = Film(path)
    frames = list(film)
    assert 4 <= len(frames) <= 14
    out = copied(path, tmp_path / "copy.mp4")
    assert len(films.shown(out)) == len(frames)


def test_a_film_that_ends_before_its_table_says_so(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(20)]
    path = films.write(tmp_path / "film.mp4", noise, sound=None)
    data = path.read_bytes()
    # The table of contents, moved to the front as for the web: its offsets grow by its own length.
    moov = data.index(b"moov") - 4
    table, rest = bytearray(data[moov:]), data[:moov]
    where = table.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", table, where)
    mdat = rest.index(b"mdat") - 4
    for i in range(count):
        (offset,) = struct.unpack_from(">I", table, where + 4 + 4 * i)
        struct.pack_into(">I", table, where + 4 + 4 * i, offset + len(table))
    whole = rest[:mdat] + bytes(table) + rest[mdat:]
    path.write_bytes(whole)
    assert len(list(Film(path))) == 20
    path.write_bytes(whole[: len(whole) - (len(whole) - len(table)) // 2])
    with pytest.warns(UserWarning, match="damaged: .* of 20 frames could be read"):
        frames = list(Film(path))
    assert 4 <= len(frames) <= 14


def test_damage_in_the_middle_costs_frames_and_not_the_film(tmp_path):
    path = films.film(tmp_path / "film.mkv", 12, codec="mpeg4", sound=None)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20] = b"\xff" * 20
    path.write_bytes(data)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert 1 <= len(list(Film(path))) <= 12


def no_film(path: Path) -> str:
    with pytest.raises(ToonError) as raised:
        Film(path)
    sentence = str(raised.value)
    assert sentence.endswith(".") and "\n" not in sentence and path.name in sentence
    return sentence


def test_text_is_no_film(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_text("not a film\n" * 50)
    assert is_film(path)  # by its name, so that the message speaks of films
    assert "no film or damaged" in no_film(path)


def test_nothing_is_no_film(tmp_path):
    path = tmp_path / "film.mkv"
    path.touch()
    no_film(path)
    assert "No such file" in no_film(tmp_path / "missing.mp4")


def test_sound_alone_is_no_film(tmp_path):
    path = films.write(tmp_path / "film.mp4", [])
    assert is_film(path) and "only sound" in no_film(path)


def test_no_frames_are_no_film(tmp_path):
    """The frames of a whole film, overwritten with nothing."""
    path = films.film(tmp_path / "film.mp4", sound=None)
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    no_film(path)


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"])
def test_playlists_open_nothing(tmp_path, text):
    """A playlist could make FFmpeg read any other file of the machine into the result."""
    secret = films.film(tmp_path / "secret.mp4")
    path = tmp_path / "film.mp4"
    path.write_text(text.format(secret))
    no_film(path)


def test_films_are_told_by_their_content(tmp_path):
    for suffix in ("mp4", "mkv", "avi", "ts", "mov"):
        films.film(tmp_path / f"film.{suffix}", 3, sound=None).rename(tmp_path / f"{suffix}.jpg")
        assert is_film(tmp_path / f"{suffix}.jpg"), suffix
    for suffix in ("png", "jpg", "gif", "webp", "avif", "tif"):
        path = tmp_path / f"photo.{suffix}"
        Image.fromarray(films.picture(0)).save(path)
        assert not is_film(path), suffix


# Writing


def test_a_stopped_film_can_be_played(tmp_path):
    source = films.film(tmp_path / "film.mp4", seconds=2.0)
    film, out = Film(source), tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt), write_film(out, film) as writer:
        for frame in itertools.islice(film, 5):
            writer.write(frame.image, frame.pts)
        raise KeyboardInterrupt
    assert len(films.shown(out)) == 5
    assert 0 < len(films.packets(out)) < len(films.packets(source))  # the sound stops with the pictures


@pytest.mark.parametrize("frames", [0, 3])
def test_an_error_leaves_no_film(tmp_path, frames):
    film, out = Film(films.film(tmp_path / "film.mp4")), tmp_path / "out.mp4"
    out.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), write_film(out, film) as writer:
        for frame in itertools.islice(film, frames):
            writer.write(frame.image, frame.pts)
        raise ZeroDivisionError
    assert out.read_bytes() == b"before" and sorted(os.listdir(tmp_path)) == ["film.mp4", "out.mp4"]


def test_without_av_a_sentence_names_the_extra(tmp_path):
    films.film(tmp_path / "film.mp4")
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from stylegan_toon.data.video import Film\n"
        f"try: Film({str(tmp_path / 'film.mp4')!r})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("ToonError") and "stylegan_toon[film]" in done.stdout, done


# Cuts


def scene(seed: int, number: int) -> Image.Image:
    """Blocks of colour that pass slowly, with film grain."""
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.repeat(rng.integers(0, 256, (6, 40, 3)), 12, 0), 12, 1)
    grain = np.random.default_rng(number).normal(0, 6, (72, 128, 3))
    return Image.fromarray((blocks[:, 2 * number : 2 * number + 128] + grain).clip(0, 255).astype(np.uint8))


def test_cuts_are_found_where_they_are():
    shots = [(3, 0), (4, 14), (5, 22)]
    cuts, finder = [], CutFinder()
    for index in range(40):
        seed = next(seed for seed, first in reversed(shots) if index >= first)
        if finder(scene(seed, index)):
            cuts.append(index)
    assert cuts == [14, 22]


def test_movement_and_light_are_no_cuts():
    finder = CutFinder()
    for index in range(40):
        lamp = 1 + 0.25 * np.sin(index)
        assert not finder(scene(6, index).point([min(255, round(lamp * v)) for v in range(256)] * 3)), index

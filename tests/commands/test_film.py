"""`toonify` of a film: what is written, where cartoons are, Ctrl-C and --resume; with networks of 32 px."""

from __future__ import annotations

import importlib
import os
from functools import partial
from pathlib import Path

import films
import numpy as np
import pytest
import shell
import torch
from PIL import Image

from stylegan_toon import load_network
from stylegan_toon.inversion.encoder import Encoder, EncoderConfig
from stylegan_toon.toonify import main

run, refused = partial(shell.run, main), partial(shell.refused, main)
COUNT = 6


@pytest.fixture(scope="session")
def person() -> Image.Image:
    path = Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg"
    return Image.open(path).convert("RGB").resize((134, 164), Image.Resampling.LANCZOS)


@pytest.fixture
def source(tmp_path, person) -> Path:
    return passing(tmp_path / "film.mp4", person, COUNT)


def passing(path: Path, person: Image.Image, count: int) -> Path:
    """A person who passes from left to right, 1 px a frame, with a tone."""
    pictures = []
    for number in range(count):
        picture = Image.new("RGB", (208, 164), (108, 128, 150))
        picture.paste(person, (20 + number, 0))
        pictures.append(np.asarray(picture))
    return films.write(path, pictures)


@pytest.fixture
def tiny_encoder(checkpoint, monkeypatch) -> None:
    """An encoder for the tiny base: random, and with its w_avg."""
    base = load_network(checkpoint)
    network = Encoder(EncoderConfig(rows=(base.num_ws - 3, 3), w_dim=base.config.w_dim, rank=4)).eval()
    random = torch.Generator().manual_seed(0)
    network.mix.normal_(generator=random).mul_(1e-3)
    network.heads.normal_(generator=random).mul_(0.1)
    network.w_avg.copy_(base.mapping.w_avg)
    module = importlib.import_module("stylegan_toon.pipelines.project")
    monkeypatch.setattr(module, "encoder", lambda device: network)


@pytest.fixture
def options(checkpoint, toon_checkpoint, tmp_path, tiny_encoder) -> list[object]:
    return ["--base", checkpoint, "--toon", toon_checkpoint, "--swap", "b16-", "--features", checkpoint, "--quiet",
            "--steps", 3, "--tune", 2, "--device", "cpu", "--out", tmp_path / "out"]  # fmt: skip


def made(*args: object) -> None:
    result = run(*args)
    assert result.exit_code == 0, result.output


def changes(out: Path, source: Path) -> list[np.ndarray]:
    pairs = zip(films.shown(out), films.shown(source), strict=True)
    return [np.abs(a.astype(int) - b).max(-1) for (_, a), (_, b) in pairs]


def test_a_film_becomes_a_cartoon(source, options, tmp_path):
    made(source, *options)
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["film-sheet.png", "film-toon.mp4"]
    assert films.packets(out / "film-toon.mp4") == films.packets(source)
    for number, changed in enumerate(changes(out / "film-toon.mp4", source)):
        face = changed[60:100, 70 + number : 100 + number]
        assert (face > 20).mean() > 0.5, number
        assert (changed[:, :10] > 20).mean() < 0.02 and (changed[:, -12:] > 20).mean() < 0.02
    assert Image.open(out / "film-sheet.png").width > 6 * 300


def test_a_drawn_film(tmp_path, person):
    source = passing(tmp_path / "film.mp4", person, 2)
    made(source, "--draw", "--style", "ink", "--quiet", "--resolution", 64, "--out", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["film-drawing.mp4", "film-sheet.png"]
    colourful = [np.ptp(frame[60:100, 75:100].astype(int), axis=-1).mean()
                 for _, frame in films.shown(tmp_path / "out" / "film-drawing.mp4")]  # fmt: skip
    before = np.ptp(films.shown(source)[0][1][60:100, 75:100].astype(int), axis=-1).mean()
    assert max(colourful) < 0.5 * before  # ink is grey


def test_ctrl_c_leaves_a_film_and_resume_goes_on(source, options, tmp_path, monkeypatch):
    """Stopped while the film is written; the second run searches nothing and makes the film of an unbroken run."""
    cast, film = (importlib.import_module(f"stylegan_toon.pipelines.film{name}") for name in ("_cast", ""))
    out, calls = tmp_path / "out", []
    made(source, *options, "--out", tmp_path / "whole")

    def stopping(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return put_back(*args)

    put_back = film.put_back
    monkeypatch.setattr(film, "put_back", stopping)
    assert run(source, *options).exit_code == 130
    assert sorted(os.listdir(out)) == ["film-toon.mp4", "film-toon.parts"]
    assert len(films.shown(out / "film-toon.mp4")) == 3
    monkeypatch.setattr(film, "put_back", put_back)

    assert "exists already" in refused(source, *options)
    assert "other options" in refused(source, *options, "--resume", "--steps", 4)
    assert len(films.shown(out / "film-toon.mp4")) == 3

    def never(*_, **__):
        raise AssertionError("this was found already")

    monkeypatch.setattr(cast, "search_offset", never)
    monkeypatch.setattr(cast, "tune_with", never)
    monkeypatch.setattr(importlib.import_module("stylegan_toon.pipelines.film_faces"), "Tracker", never)
    made(source, *options, "--resume")
    assert sorted(os.listdir(out)) == ["film-sheet.png", "film-toon.mp4"]
    for (_, a), (_, b) in zip(films.shown(out / "film-toon.mp4"), films.shown(tmp_path / "whole" / "film-toon.mp4")):
        assert np.array_equal(a, b)

    monkeypatch.setattr(film, "put_back", never)
    made(source, *options, "--resume")  # a finished film is left as it is


def test_ctrl_c_in_the_search_keeps_the_faces(source, options, tmp_path, monkeypatch):
    cast = importlib.import_module("stylegan_toon.pipelines.film_cast")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cast, "search_offset", stop)
    assert run(source, *options).exit_code == 130
    assert sorted(os.listdir(tmp_path / "out")) == ["film-toon.parts"]
    assert sorted(os.listdir(tmp_path / "out" / "film-toon.parts")) == ["faces.npz", "key", "latents.npz"]


def test_mistakes_leave_nothing(source, options, checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert "No face was found in bare.mp4" in refused(films.film(tmp_path / "bare.mp4"), *options)
    assert "1 person(s)" in refused(source, *options, "--face", 2)
    assert "leave out --aligned" in refused(source, *options, "--aligned")
    (tmp_path / "text.mp4").write_text("hello")
    assert "no film or damaged" in refused(tmp_path / "text.mp4", *options)
    assert "only sound" in refused(films.write(tmp_path / "sound.mp4", []), *options)
    monkeypatch.undo()  # the real encoder does not fit the tiny base
    assert "Films need the encoder" in refused(source, *options)
    assert not out.exists()

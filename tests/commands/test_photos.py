"""Commands that take a photo, given bad input: one sentence, exit code 2, nothing half-written."""

from __future__ import annotations

import importlib
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
import shell
from PIL import Image

from stylegan_toon.data.images import read_image
from stylegan_toon.errors import ToonError


@pytest.fixture(params=["project", "toonify"])
def case(request, checkpoint, toon_checkpoint) -> tuple[object, list[object]]:
    """The command and the options of a short run, offline."""
    networks = {
        "project": ["--network", checkpoint],
        "toonify": ["--base", checkpoint, "--toon", toon_checkpoint, "--swap", "b16-", "--paste-back"],
    }[request.param]
    command = importlib.import_module(f"stylegan_toon.{request.param}").main
    return command, [*networks, "--features", checkpoint, "--steps", 2, "--tune", 1, "--device", "cpu"]


def run(case, *args: object):
    command, options = case
    return shell.run(command, *options, *args)


def refused(case, *args: object) -> str:
    command, options = case
    return shell.refused(command, *options, *args)


def png_header(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def gradient(path: Path) -> None:
    Image.linear_gradient("L").save(path)


def fifo(path: Path) -> None:
    os.mkfifo(path)


PHOTOS = {
    "pipe.jpg": (fifo, "pipe.jpg is not an ordinary file"),
    "missing.jpg": (lambda path: None, "missing.jpg does not exist"),
    "folder.jpg": (Path.mkdir, ("folder.jpg is a folder", "folder.jpg holds no pictures")),
    "text.jpg": (lambda path: path.write_text("Dear photo,\n"), "text.jpg is not a picture"),
    "empty.png": (Path.touch, "empty.png is not a picture"),
    "speck.png": (Image.new("RGB", (1, 1)).save, "speck.png is only 1x1 pixels"),
    "bomb.png": (lambda path: path.write_bytes(png_header(60_000, 60_000)), "bomb.png is 60000x60000 pixels, over the"),
    "cut.png": (lambda path: path.write_bytes(png_header(12_000, 9_000)), "cut.png is damaged"),
    "nobody.png": (gradient, "No face was found in nobody.png"),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_no_photo_of_a_face(case, tmp_path, name):
    make, sentence = PHOTOS[name]
    if name == "pipe.jpg" and not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    make(tmp_path / name)
    sentences = (sentence,) if isinstance(sentence, str) else sentence
    line = refused(case, tmp_path / name, "--out", tmp_path / "out")
    assert any(sentence in line for sentence in sentences)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [(1, 1), (31, 31), (64, 48)])
def test_no_aligned_crop(case, tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "face.png")
    line = refused(case, tmp_path / "face.png", "--aligned", "--out", tmp_path / "out")
    assert f"face.png is {size[0]}x{size[1]} pixels" in line and not (tmp_path / "out").exists()


def test_a_truncated_checkpoint(case, tmp_path, crop, checkpoint):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    for option in ("--network", "--base", "--toon", "--features"):
        if option in case[1]:
            line = refused(case, crop, "--aligned", option, cut, "--out", tmp_path / "out")
            assert "cut.safetensors" in line and "cut short" in line
            assert not any(tmp_path.glob("out/*"))


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_file_in_the_way_of_the_folder(case, tmp_path, crop, where):
    (tmp_path / "file").write_text("mine")
    line = refused(case, crop, "--aligned", "--out", tmp_path / where)
    assert line == f"error: {tmp_path / 'file'} is a file, not a folder: choose another --out."
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_full_disk(case, tmp_path, crop, monkeypatch, written):
    """The disk is full from some file on: earlier files are complete, of the others nothing exists."""
    names = {
        "project": ["face.safetensors", "face-network.safetensors", "face-projected.png"],
        "toonify": ["face-toon.png", "face-pasted.png", "face-sheet.png"],
    }[case[0].name]
    mkstemp, calls = tempfile.mkstemp, []

    def full(*args, **settings):
        handle, name = mkstemp(*args, **settings)
        calls.append(name)
        if len(calls) > written:  # whatever is written there now meets the real ENOSPC
            os.unlink(name)
            os.symlink("/dev/full", name)
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", full)
    out = tmp_path / "out"
    line = refused(case, crop, "--aligned", "--quiet", "--out", out)
    assert line.startswith(f"error: The disk is full, so {out / names[written]} could not be written")
    assert (sorted(os.listdir(out)) if out.exists() else []) == sorted(names[:written])
    assert out.exists() == bool(written)  # an empty folder is not left behind


def test_nothing_is_overwritten_unasked(case, tmp_path, crop):
    assert run(case, crop, "--aligned", "--out", tmp_path / "out").exit_code == 0
    for path in (tmp_path / "out").iterdir():
        only = tmp_path / f"only-{path.name}"
        only.mkdir()
        (only / path.name).write_bytes(b"mine")
        line = refused(case, crop, "--aligned", "--out", only)
        assert f"{path.name} exists already" in line and "--overwrite" in line
        assert os.listdir(only) == [path.name] and (only / path.name).read_bytes() == b"mine"
        assert run(case, crop, "--aligned", "--out", only, "--overwrite").exit_code == 0
        assert (only / path.name).read_bytes() != b"mine"


@pytest.mark.parametrize("name", ["project", "toonify"])
@pytest.mark.parametrize("options", [["nobody.jpg"], ["--device", "cpu", "nobody.jpg"]])
def test_a_missing_photo_is_reported_before_torch_is_imported(name, options, tmp_path):
    """Also when --device, whose type needs torch, comes first on the command line."""
    code = f"""
import sys
from stylegan_toon.{name} import main
try:
    main({options})
except SystemExit as end:
    print(end.code, sorted({{"torch", "numpy", "PIL"}} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.stdout == "2 []\n" and done.stderr == "error: nobody.jpg does not exist: check the path.\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_the_library_does_not_wait_for_a_named_pipe(tmp_path):
    fifo(tmp_path / "pipe.png")
    with pytest.raises(ToonError, match=r"pipe\.png is not an ordinary file"):
        read_image(tmp_path / "pipe.png")

"""`toonify` with many photos: checked before it begins, bad ones passed over, gone on with, shared by processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shell
from PIL import Image, ImageOps

from stylegan_toon import cli
from stylegan_toon.pipelines import many, toonify_files
from stylegan_toon.pipelines import toonify as pipeline
from stylegan_toon.pipelines.photo_list import Job, Wanted, list_photos
from stylegan_toon.toonify import main

run, refused = partial(shell.run, main), partial(shell.refused, main)


@pytest.fixture
def options(checkpoint, toon_checkpoint, tmp_path) -> list[object]:
    """A short run of the command on aligned crops, offline, into ``out``."""
    return ["--base", checkpoint, "--toon", toon_checkpoint, "--swap", "b16-", "--features", checkpoint, "--aligned",
            "--steps", 0, "--tune", 1, "--device", "cpu", "--out", tmp_path / "out"]  # fmt: skip


@pytest.fixture
def photos(tmp_path, crop) -> Path:
    """Five photos in a folder, two of them in sub-folders, and what is no photo."""
    folder = tmp_path / "photos"
    for place in ("b.png", "a.png", "trip/c.png", "trip/day 2/d.png", "z.png"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(crop, folder / place)
    (folder / "notes.txt").write_text("not a photo")
    (folder / "trip" / "film.mov").write_bytes(b"....ftypqt  ")
    (folder / ".hidden.png").write_text("not a photo")
    (folder / ".thumbnails").mkdir()
    shutil.copy(crop, folder / ".thumbnails" / "e.png")
    return folder


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def results(*stems: str) -> list[str]:
    return sorted(f"{stem}-{what}.png" for stem in stems for what in ("sheet", "toon"))


# Before anything runs


@pytest.fixture
def nothing_runs(monkeypatch):
    """No network may be loaded."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(pipeline, "load_network", load)


def test_names_that_collide(options, tmp_path, crop, nothing_runs):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        shutil.copy(crop, tmp_path / place / "x.png")
    two = tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"
    for places in (two, (tmp_path / "a", tmp_path / "b"), (two[0], two[0])):
        line = refused(*places, *options, "--overwrite")
        assert "the same name" in line and "a/x.png" in line and "rename one" in line
    shutil.copy(crop, tmp_path / "a" / "x.jpg")
    assert "x.jpg" in refused(tmp_path / "a", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", ["other-toon.png", "other-2-toon.png", "other-sheet.png", "other-pasted.png"])
def test_results_that_exist(options, tmp_path, crop, nothing_runs, there):
    """Also those of the last photo, and of single faces, before the first photo is begun."""
    shutil.copy(crop, tmp_path / "other.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / there).write_bytes(b"mine")
    for places in ((crop, tmp_path / "other.png"), (tmp_path / "other.png",)):
        assert f"{there} exists already" in refused(*places, *options, "--paste-back")
    assert (tmp_path / "out" / there).read_bytes() == b"mine" and len(os.listdir(tmp_path / "out")) == 1


def test_what_no_picture_is_called(options, tmp_path, crop, nothing_runs):
    (tmp_path / "letter.doc").write_text("Dear photo")
    assert "letter.doc is not a picture" in refused(crop, tmp_path / "letter.doc", *options)
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused(tmp_path / "empty", *options)
    assert "nobody.png does not exist" in refused(crop, tmp_path / "nobody.png", *options)
    assert not (tmp_path / "out").exists()


def test_a_picture_of_any_name_is_read(options, tmp_path, crop):
    shutil.copy(crop, tmp_path / "face.dat")
    assert run(tmp_path / "face.dat", *options).exit_code == 0
    assert tree(tmp_path / "out") == results("face")


def test_a_name_is_needed(options):
    assert "give a photo" in refused(*options)


@pytest.mark.parametrize("how", ["same", "spelling", "symlink", "hard link"])
def test_no_photo_is_overwritten(options, tmp_path, crop, nothing_runs, how):
    """A photo that has the name of a result, under another spelling or as a link of it, even with --overwrite."""
    here = tmp_path / "here"
    here.mkdir()
    first, second = here / "face.png", here / "face-toon.png"
    shutil.copy(crop, first)
    shutil.copy(crop, tmp_path / "kept.png" if "link" in how else second)
    before = crop.read_bytes()
    given, out = second, here
    if how == "spelling":
        given, out = here / ".." / "here" / "face-toon.png", here / "." / ".." / "here"
    elif how == "symlink":
        second.symlink_to(tmp_path / "kept.png")
        given = tmp_path / "kept.png"
    elif how == "hard link":
        os.link(tmp_path / "kept.png", second)
        given = tmp_path / "kept.png"
    line = refused(first, given, *options, "--out", out, "--overwrite")
    assert "is one of the originals and would be overwritten" in line
    assert given.read_bytes() == first.read_bytes() == before and len(os.listdir(here)) == 2


def test_results_of_faces_may_not_meet_those_of_a_photo(options, tmp_path, two_people, crop):
    two_people.save(tmp_path / "a.png")
    shutil.copy(crop, tmp_path / "a-2.png")
    settings = [option for option in options if option != "--aligned"]
    result = run(tmp_path / "a.png", tmp_path / "a-2.png", *settings, "--draw", "--style", "ink", "--resolution", 64,
                 "--quiet")  # fmt: skip
    assert result.exit_code == 1 and "Face 2 of a.png would be a-2-drawing.png" in result.stderr
    assert not (tmp_path / "out" / "a-1-drawing.png").exists()


# A bad photo among several


def make_bad(folder: Path, crop: Path) -> None:
    (folder / "cut.png").write_bytes(crop.read_bytes()[:900])
    (folder / "text.jpg").write_text("Dear photo,\n")
    Image.new("RGB", (64, 48)).save(folder / "wide.png")


@pytest.mark.parametrize("how", ["named", "folder"])
def test_bad_photos_are_passed_over(options, photos, tmp_path, crop, how):
    make_bad(photos, crop)
    places = (
        [photos] if how == "folder" else [photos / n for n in ("a.png", "cut.png", "text.jpg", "wide.png", "z.png")]
    )
    result = run(*places, *options, "--quiet")
    assert result.exit_code == 1 and result.stdout == f"{tmp_path / 'out'}\n", result.output
    good = ["a", "b", "trip/c", "trip/day 2/d", "z"] if how == "folder" else ["a", "z"]
    assert tree(tmp_path / "out") == sorted(results(*good) + (["toonify.json"] if how == "folder" else []))
    *named, summary, first, second, third = result.stderr.splitlines()
    assert summary == f"{len(good)} photos made, {len(good)} faces; 3 photos passed over:"
    for line, name, reason in zip(
        (first, second, third), ("cut", "text", "wide"), ("is damaged", "is not a picture", "is 64x48 pixels")
    ):
        assert name in line and reason in line
        assert sum(text.startswith("passed over") and name in text for text in named) == 1


def test_the_exit_code_of_one_bad_photo_is_as_ever(options, photos, crop):
    make_bad(photos, crop)
    assert "wide.png is 64x48 pixels" in refused(photos / "wide.png", *options)


def test_a_photo_without_a_face_among_several(options, tmp_path, portrait):
    shutil.copy(portrait, tmp_path / "me.jpg")
    Image.linear_gradient("L").save(tmp_path / "nobody.png")
    result = run(tmp_path / "nobody.png", tmp_path / "me.jpg", "--draw", "--style", "ink", "--resolution", 64,
                 "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 1 and "No face was found in nobody.png" in result.stderr
    assert "me.jpg: 1 face.\n" in result.stderr
    assert tree(tmp_path / "out") == ["me-drawing.png", "me-sheet.png"]


def test_a_defect_of_one_photo_is_named(options, photos, tmp_path, monkeypatch):
    """What the program itself does wrong with one photo is said, and the others are made."""
    real = toonify_files.open_photo

    def fails(path: Path, *args: object, **settings: object):
        if path.name == "b.png":
            raise IndexError("index 3 is out of bounds")
        return real(path, *args, **settings)

    monkeypatch.setattr(toonify_files, "open_photo", fails)
    result = run(photos, *options, "--quiet")
    assert result.exit_code == 1
    assert "b.png: A defect of this program (IndexError: index 3 is out of bounds)" in result.stderr
    assert tree(tmp_path / "out") == sorted([*results("a", "trip/c", "trip/day 2/d", "z"), "toonify.json"])


# Folders


def test_a_folder(options, photos, tmp_path, monkeypatch):
    """Sorted, in the same sub-folders, with networks that are loaded once; again only what is missing."""
    loaded, opened = [], []
    load, open_photo = pipeline.load_network, toonify_files.open_photo
    monkeypatch.setattr(pipeline, "load_network", lambda *a, **k: loaded.append(a) or load(*a, **k))
    monkeypatch.setattr(toonify_files, "open_photo", lambda p, *a, **k: opened.append(p.name) or open_photo(p, *a, **k))
    result = run(photos, *options)
    assert result.exit_code == 0, result.output
    assert opened == ["a.png", "b.png", "z.png", "c.png", "d.png"] and len(loaded) == 2
    assert tree(tmp_path / "out") == sorted([*results("a", "b", "z", "trip/c", "trip/day 2/d"), "toonify.json"])
    assert "Not pictures, and left out: 1 .txt, 1 .mov." in result.stderr
    assert "5/5" in result.stderr and "photo" in result.stderr  # the progress bar
    assert "5 photos made, 5 faces." in result.stderr

    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*-*.png")}
    (tmp_path / "out" / "b-sheet.png").unlink()  # as if it had been stopped between the two
    opened.clear()
    again = run(photos, *options)
    assert again.exit_code == 0 and opened == ["b.png"]
    assert "4 photos finished before." in again.stderr and "1 photo made" in again.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in made.items() if not path.name.startswith("b-"))

    opened.clear()
    loaded.clear()
    assert run(photos, *options).exit_code == 0 and not opened and not loaded
    assert run(photos, *options, "--overwrite").exit_code == 0 and len(opened) == 5


def test_a_folder_of_results_is_made_in_one_way(options, photos, tmp_path):
    assert run(photos, *options).exit_code == 0
    assert "another --strength" in refused(photos, *options, "--strength", 0.5)
    other = tmp_path / "others"
    shutil.copytree(photos, other)
    assert "other photos" in refused(other, *options)
    assert run(photos, *options, "--strength", 0.5, "--overwrite").exit_code == 0
    plan = json.loads((tmp_path / "out" / "toonify.json").read_text())
    assert plan["options"]["strength"] == 0.5 and plan["photos"] == [str(photos)]
    (tmp_path / "out" / "toonify.json").write_text("{")
    assert "--overwrite" in refused(photos, *options, "--strength", 0.5)


def test_results_of_others_are_not_taken_for_finished(options, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "z-sheet.png").write_bytes(b"mine")
    assert "z-sheet.png exists already" in refused(photos, *options)
    assert tree(tmp_path / "out") == ["z-sheet.png"]


def test_results_inside_the_folder_of_photos(options, photos):
    settings = options[:-1]
    assert "cannot be --out too" in refused(photos, *settings, photos)
    for _ in range(2):
        result = run(photos, *settings, photos / "toons")
        assert result.exit_code == 0, result.output
    assert len(tree(photos / "toons")) == 11


def test_named_photos_go_on_with_resume(options, photos, tmp_path):
    two = photos / "a.png", photos / "b.png"
    assert run(two[0], *options).exit_code == 0
    assert "exists already" in refused(*two, *options)
    result = run(*two, *options, "--resume")
    assert result.exit_code == 0 and "1 photo finished before." in result.stderr
    assert tree(tmp_path / "out") == results("a", "b")


def test_thousands_of_files(options, tmp_path, crop, monkeypatch):
    """3,000 photos, of which all but ten are finished; no more than ten are opened, three of them in vain."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    for number in range(3000):
        place = folder / f"{number // 1000}" / f"{number:05d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(crop, place)
    left = {f"{number:05d}" for number in (0, 7, 999, 1000, 1500, 2000, 2001, 2500, 2998, 2999)}
    for bad in ("00007", "01500", "02999"):
        place = folder / bad[1] / f"{bad}.png"
        place.unlink()
        place.write_bytes(crop.read_bytes()[:500])
    opened = []
    read = toonify_files.open_photo
    monkeypatch.setattr(toonify_files, "open_photo", lambda p, *a, **k: opened.append(p.stem) or read(p, *a, **k))
    # A first run that is stopped at once writes the plan.
    monkeypatch.setattr(many, "progress", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(folder, *options).exit_code == 130
    monkeypatch.undo()
    monkeypatch.setattr(toonify_files, "open_photo", lambda p, *a, **k: opened.append(p.stem) or read(p, *a, **k))
    assert tree(out) == ["toonify.json"]
    for number in range(3000):
        if f"{number:05d}" not in left:
            (out / f"{number // 1000}").mkdir(exist_ok=True)
            for ending in ("toon", "sheet"):
                (out / f"{number // 1000}" / f"{number:05d}-{ending}.png").touch()
    result = run(folder, *options, "--quiet")
    assert result.exit_code == 1, result.output
    assert "2990 photos finished before." in result.stderr
    assert "7 photos made, 7 faces; 3 photos passed over:" in result.stderr
    assert opened == sorted(left)
    assert len(tree(out)) == 2 * 2997 + 1


def test_listing_opens_no_picture(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"{number:05d}.jpg").touch()
    opened = []
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a))
    photos = list_photos([folder], tmp_path / "out", Wanted())
    monkeypatch.undo()
    assert not opened and [job.path.name for job in photos.jobs] == [f"{n:05d}.jpg" for n in range(10_000)]
    assert photos.jobs[7] == Job(folder / "00007.jpg", tmp_path / "out", listed=True)


# Stopping


def test_a_full_disk_half_way(options, photos, tmp_path, monkeypatch):
    """What is finished stays, nothing is half-written, and the same command goes on."""
    save = Image.Image.save

    def until_full(self, path, *args, **settings):
        if "c-sheet" in Path(path).name:
            Path(path).write_bytes(b"\x89PNG")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, *args, **settings)

    monkeypatch.setattr(Image.Image, "save", until_full)
    result = run(photos, *options, "--quiet")
    assert result.exit_code == 1
    *_, line = result.stderr.splitlines()
    assert line.startswith("error: The disk is full") and "3 of 5 photos are finished and stay" in line
    assert tree(tmp_path / "out") == sorted([*results("a", "b", "z"), "toonify.json", "trip/c-toon.png"])
    monkeypatch.undo()
    assert run(photos, *options).exit_code == 0
    assert tree(tmp_path / "out") == sorted([*results("a", "b", "z", "trip/c", "trip/day 2/d"), "toonify.json"])


@pytest.mark.parametrize("where", ["search", "pasting"])
def test_ctrl_c_and_on(options, photos, tmp_path, monkeypatch, where):
    """SIGINT while the third photo is tuned, or written: two are finished, of the third there is no draft."""
    count = []
    if where == "search":
        shown = cli.search_progress

        @contextlib.contextmanager
        def with_ctrl_c(*args):
            count.append(args)
            with shown(*args) as move:
                yield (lambda at: signal.raise_signal(signal.SIGINT)) if len(count) == 3 else move

        monkeypatch.setattr(cli, "search_progress", with_ctrl_c)
    else:
        sheet = pipeline.Toon.sheet

        def stopped(self):
            count.append(self)
            if len(count) == 3:
                signal.raise_signal(signal.SIGINT)
            return sheet(self)

        monkeypatch.setattr(pipeline.Toon, "sheet", stopped)
    result = run(photos, *options)
    assert result.exit_code == 130 and "Stopped: 2 of 5 photos are finished and stay" in result.stderr
    assert [name for name in tree(tmp_path / "out") if "sheet" in name] == ["a-sheet.png", "b-sheet.png"]
    monkeypatch.undo()
    again = run(photos, *options)
    assert again.exit_code == 0 and "2 photos finished before." in again.stderr
    assert tree(tmp_path / "out") == sorted([*results("a", "b", "z", "trip/c", "trip/day 2/d"), "toonify.json"])


def test_overwriting_that_is_stopped_goes_on_with_the_new(options, photos, tmp_path, monkeypatch):
    """Results of before are not taken for those of the run that replaces them."""
    assert run(photos, *options).exit_code == 0
    write, count = toonify_files.write_results, []

    def stopped(*args, **settings):
        count.append(args)
        if len(count) == 3:
            raise KeyboardInterrupt
        write(*args, **settings)

    monkeypatch.setattr(toonify_files, "write_results", stopped)
    assert run(photos, *options, "--strength", 0.5, "--overwrite").exit_code == 130
    monkeypatch.undo()
    result = run(photos, *options, "--strength", 0.5)
    assert "2 photos finished before." in result.stderr and "3 photos made" in result.stderr


# Processes


def test_processes_share_the_photos(options, photos, tmp_path, crop):
    """Two processes, as torchrun starts them: each photo is made once, and both end as the worst of them."""
    (photos / "a.png").write_bytes(crop.read_bytes()[:500])  # the first of process 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    command = [sys.executable, "-m", "stylegan_toon.toonify", photos, *options, "--quiet"]
    started = [
        subprocess.Popen(list(map(str, command)), env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [1, 1], said
    assert "Process 1 of 2: 2 photos made, 2 faces; 1 photo passed over:" in said[0]
    assert "Process 2 of 2: 2 photos made, 2 faces." in said[1]
    assert "Together: 4 photos made, 4 faces; 1 passed over." in said[0] and "Together" not in said[1]
    assert tree(tmp_path / "out") == sorted([*results("b", "z", "trip/c", "trip/day 2/d"), "toonify.json"])


def test_numbers_of_processes_that_do_not_fit(options, photos, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    assert "use torchrun" in refused(photos, *options)
    monkeypatch.setenv("RANK", "one")
    assert "use torchrun" in refused(photos, *options)


# Faces


def test_a_far_smaller_face_is_taken_for_a_mistake(tmp_path, portrait):
    """Its number stays its own, and it can be asked for."""
    scene = Image.new("RGB", (900, 500), (108, 128, 150))
    person = Image.open(portrait).convert("RGB")
    scene.paste(ImageOps.contain(person, (90, 90)), (60, 200))
    scene.paste(person, (300, 50))
    scene.save(tmp_path / "two.png")
    drawn = ["--draw", "--style", "ink", "--resolution", 64]
    result = run(tmp_path / "two.png", *drawn, "--out", tmp_path / "one")
    assert result.exit_code == 0, result.output
    assert "two.png: 2 faces, of which 1 from the left is far smaller than the largest and left out" in result.stderr
    assert tree(tmp_path / "one") == ["two-drawing.png", "two-sheet.png"]
    assert run(tmp_path / "two.png", *drawn, "--all-faces", "--force", "--out", tmp_path / "all").exit_code == 0
    assert tree(tmp_path / "all") == ["two-1-drawing.png", "two-2-drawing.png", "two-sheet.png"]
    assert run(tmp_path / "two.png", *drawn, "--face", 1, "--force", "--out", tmp_path / "first").exit_code == 0
    same = [np.asarray(Image.open(tmp_path / name)) for name in ("all/two-1-drawing.png", "first/two-drawing.png")]
    assert np.array_equal(*same)

"""Sets are complete and reproducible, also after an interruption or with damaged files in the source."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.dataset_builder import build as making
from stylegan_toon.dataset_builder.build import make_set
from stylegan_toon.dataset_builder.filters import perceptual_hash
from stylegan_toon.dataset_builder.journal import Journal
from stylegan_toon.dataset_builder.parallel import ordered_map
from stylegan_toon.dataset_builder.recipe import Outcome, Recipe, encoded, prepare
from stylegan_toon.errors import ToonError

INTERRUPTED = """
import os, signal, sys, time
from stylegan_toon.dataset_builder.parallel import ordered_map

if __name__ == "__mp_main__":  # a process that has just been started and imports what it needs
    os.killpg(0, signal.SIGINT)  # Ctrl-C, which the terminal sends to all
    time.sleep(0.2)
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(list(ordered_map(abs, [-1, -2], workers=2)))
    except KeyboardInterrupt:
        sys.exit("stopped")
"""
PLAN = {"what": "a test"}


def picture(index: int, side: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8))


def work(index: int):
    """Every fifth is left out; item 7 gives two pictures."""
    if index % 5 == 4:
        return f"{index}.jpg", index % 2, [Outcome("odd: it ends in 4 or 9", thumbnail=encoded(picture(index), "jpg"))]
    images = [picture(index), picture(100 + index)][: 1 + (index == 7)]
    done = [Outcome(None, encoded(image, "png"), perceptual_hash(image), {"index": index}) for image in images]
    return f"{index}.jpg", index % 2, done


def made(tmp_path: Path, name: str = "set.zip", count: int = 40, **more):
    return make_set(tmp_path / name, range(count), more.pop("work", work), PLAN, quiet=True, **more)


KEPT = [i for i in range(40) if i % 5 != 4]
KEPT.insert(KEPT.index(7), 7)


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX's")
def test_ctrl_c_while_processes_start_is_handled_by_the_parent(tmp_path):
    (tmp_path / "script.py").write_text(INTERRUPTED)
    command = [sys.executable, str(tmp_path / "script.py")]
    environment = {**os.environ, "PYTHONPATH": str(Path(making.__file__).parents[2])}
    done = subprocess.run(
        command, capture_output=True, text=True, start_new_session=True, env=environment, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "stopped\n")


def test_a_zip_in_the_layout_of_nvidia(tmp_path):
    summary = made(tmp_path)
    assert summary.kept == 33 and summary.dropped == {"odd": 8}
    with zipfile.ZipFile(summary.out) as archive:
        names = archive.namelist()
        assert names == [f"00000/img{i:08d}.png" for i in range(33)] + ["dataset.json"]
        labels = json.loads(archive.read("dataset.json"))["labels"]
        assert labels == [[name, i % 2] for name, i in zip(names, KEPT)]
        image = np.asarray(Image.open(io.BytesIO(archive.read(names[5]))))
        np.testing.assert_array_equal(image, picture(KEPT[5]))
    dataset = ImageDataset(summary.out, labels=True)
    assert dataset.label_dim == 2 and [int(dataset.label(i).argmax()) for i in range(33)] == [i % 2 for i in KEPT]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "set-report.csv",
        "set-report.html",
        "set.png",
        "set.zip",
    ]


def test_shards_hold_the_same_pictures_shuffled(tmp_path):
    made(tmp_path)
    made(tmp_path, "shards", per_shard=10)
    sets = [ImageDataset(tmp_path / name, labels=True) for name in ("set.zip", "shards")]
    pictures = [[(bytes(np.asarray(s.image(i))), int(s.label(i).argmax())) for i in range(33)] for s in sets]
    assert pictures[0] != pictures[1] and sorted(pictures[0]) == sorted(pictures[1])
    with tarfile.open(tmp_path / "shards" / "000003.tar") as tar:
        assert [name for name in tar.getnames() if name.endswith("png")] == [f"{i:08d}.png" for i in (30, 31, 32)]
    table = (tmp_path / "shards-report.csv").read_text().splitlines()
    rows = {row["kept as"]: row for row in csv.DictReader(table) if row["kept as"]}
    index = int(rows["00000004.png"]["index"])  # the table says which picture became which
    assert pictures[1][4][0] in (bytes(np.asarray(picture(index))), bytes(np.asarray(picture(100 + index))))


def test_workers_do_not_change_a_byte(tmp_path):
    made(tmp_path)
    made(tmp_path, "two.zip", workers=2)
    assert (tmp_path / "set.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


class Stop(Exception):
    pass


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 39), max_size=3), st.floats(0, 1), st.floats(0, 1))
def test_resuming_gives_the_same_bytes(tmp_path_factory, stops, lines, pictures):
    tmp_path = tmp_path_factory.mktemp("resumed")
    seen = []

    def until(stop):
        def stopping(index):
            if index == stop:
                raise Stop
            seen.append(index)
            return work(index)

        return stopping

    for stop in sorted(stops):
        with pytest.raises(Stop):
            made(tmp_path, work=until(stop))
        part = tmp_path / "set.zip.part"
        for name, share in (("journal.jsonl", lines), ("pictures.bin", pictures)):  # a power cut
            data = (part / name).read_bytes()
            (part / name).write_bytes(data[: round(len(data) * share)])
    made(tmp_path, work=until(None))
    whole = tmp_path_factory.mktemp("whole")
    made(whole)
    for name in ("set.zip", "set-report.csv", "set-report.html", "set.png"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    if lines == pictures == 1:
        assert sorted(seen) == list(range(40))  # nothing was done twice


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_build import made, work
def deadly(index):
    if index == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return work(index)
made(Path(sys.argv[2]), work=deadly, count=120)
"""


def test_kill_9_loses_at_most_a_block(tmp_path):
    args = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), "101"]
    done = subprocess.run(args, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    journal = Journal(tmp_path / "set.zip.part", {**PLAN, "number of pictures": 120, "format": "png"})
    assert journal.done == 96 and len(list(journal.entries())) == 97
    journal.close()
    made(tmp_path, count=120)
    made(tmp_path, "whole.zip", count=120)
    assert (tmp_path / "set.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_another_plan_does_not_resume_the_job(tmp_path):
    def stopping(index):
        if index == 20:
            raise Stop
        return work(index)

    with pytest.raises(Stop):
        made(tmp_path, work=stopping)
    with pytest.raises(ToonError, match=r"begun with another number of pictures.*--overwrite"):
        made(tmp_path, count=41)
    assert made(tmp_path, count=41, overwrite=True).kept == 34
    with pytest.raises(ToonError, match="exists already"):
        made(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious.txt").write_text("mine")
    with pytest.raises(ToonError, match="no set of shards"):
        made(tmp_path, "folder", overwrite=True)
    assert (tmp_path / "folder" / "precious.txt").exists()


def test_a_full_disk_keeps_finished_items(tmp_path, monkeypatch):
    import errno

    real = making.zipfile.ZipFile.writestr

    def full(self, info, data):
        if "7" in info.filename:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, info, data)

    monkeypatch.setattr(making.zipfile.ZipFile, "writestr", full)
    with pytest.raises(ToonError, match="disk is full"):
        made(tmp_path)
    assert not (tmp_path / "set.zip").exists() and not list(tmp_path.glob("*.tmp*"))
    monkeypatch.undo()
    assert made(tmp_path, work=None, overwrite=True).kept == 33  # nothing is worked out again


def test_duplicates_are_left_out_and_shown(tmp_path):
    def repeating(index):
        image = picture(index % 3, 64).resize((64 + index, 64 + index), Image.Resampling.BICUBIC)
        return f"{index}.jpg", None, [Outcome(None, encoded(image, "png"), perceptual_hash(image))]

    summary = made(tmp_path, count=7, work=repeating, distance=24)
    assert summary.kept == 3 and summary.dropped == {"duplicate": 4}
    page = (tmp_path / "set-report.html").read_text()
    assert page.count("of 0.jpg") == 2 and page.count("data:image/jpeg;base64,") == 4
    with zipfile.ZipFile(summary.out) as archive:
        assert json.loads(archive.read("dataset.json"))["labels"] is None
    with pytest.raises(ToonError, match="None of 1 pictures was kept"):
        made(tmp_path, "none.zip", count=1, work=lambda i: ("a", None, [Outcome("no face")]))
    with pytest.raises(ToonError, match="Only 1 of 2 pictures have labels"):
        made(tmp_path, "half.zip", count=2, work=lambda i: (*work(i)[:1], [0, None][i], work(i)[2]))


def test_names_in_the_report_are_escaped(tmp_path):
    name = "<script>alert(1)</script>.jpg"
    made(tmp_path, count=2, work=lambda i: (["=cmd()", name][i], None, [*work(i)[2], Outcome("bad: " + name)]))
    page = (tmp_path / "set-report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page
    assert (tmp_path / "set-report.csv").read_text().splitlines()[1].startswith("'=cmd(),")


def failing(index):
    if index == 3:
        raise ToonError("three is bad.")
    return index * index


def test_ordered_map_keeps_the_order_and_tells_mistakes():
    for workers in (1, 2):
        results = ordered_map(failing, [*range(4, 44), *range(4)], workers)
        assert [next(results) for _ in range(40)] == [i * i for i in range(4, 44)]
        with pytest.raises(ToonError, match="three is bad"):
            list(results)


# One picture


def file(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def one(data: bytes, **recipe) -> Outcome:
    (outcome,) = prepare(data, "x.png", Recipe(**recipe))
    return outcome


def decoded(outcome: Outcome) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(outcome.data)))


def test_centre_crop_is_antialiased():
    checks = (np.indices((480, 640)).sum(0) % 2 * 255).astype(np.uint8)
    grey = decoded(one(file(Image.fromarray(checks)), size=60))
    assert grey.shape == (60, 60, 3) and np.abs(grey.astype(int) - 127).max() < 8
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    assert (decoded(one(file(wide), size=50))[:, 3:-3] == (0, 0, 255)).all()


def test_a_picture_of_the_right_size_is_unchanged():
    for format in ("png", "webp"):
        np.testing.assert_array_equal(decoded(one(file(picture(3, 64)), size=64, format=format)), picture(3, 64))


def test_reasons_for_leaving_pictures_out(face_picture):
    assert one(b"junk").why.startswith("unreadable: x.png is not a picture")
    assert one(file(picture(0, 100)), size=256).why == "too small" and one(file(picture(0, 100)), size=200).why is None
    assert one(file(Image.new("RGB", (40, 50))), size=32, crop="none").why.startswith("no crop: it is 40x50")
    assert one(file(picture(0, 100)), crop="align").why == "no face"
    assert one(file(Image.new("RGB", (100, 100))), size=64, blur=0.5).why == "blurred"
    assert one(file(picture(1, 64)), size=64, blur=0.5).measures["blur"] < 0.5
    left_out = one(file(Image.new("RGB", (500, 300))), crop="align")
    assert Image.open(io.BytesIO(left_out.thumbnail)).size == (96, 58)


def test_faces_are_aligned_judged_and_cut_out(face_picture, face_landmarks):
    photo = Image.new("RGB", (900, 500), (108, 128, 150))
    photo.paste(face_picture.rotate(20, Image.Resampling.BICUBIC, fillcolor=(108, 128, 150)), (100, 100))
    photo.paste(face_picture.resize((180, 180)), (600, 200))
    data = file(photo)
    aligned = one(data, size=128, crop="align", front=30, glasses=False)
    assert aligned.why is None and abs(aligned.measures["yaw"]) < 15
    difference = decoded(aligned).astype(int) - np.asarray(face_picture.resize((128, 128)))
    assert np.abs(difference[40:100, 40:90]).mean() < 12  # upright again, and the larger one
    assert len(prepare(data, "x", Recipe(128, "align", "all"))) == 2
    clear = decoded(one(file(face_picture), size=128, crop="none", background="transparent"))
    assert clear.shape[2] == 4 and clear[10, 10, 3] < 20 and clear[70, 64, 3] > 235
    white = decoded(one(file(face_picture), size=128, crop="none", background="white"))
    assert white[10, 10].min() > 240 and np.abs(white[70, 64] - clear[70, 64, :3].astype(int)).max() < 20
    drawn = decoded(one(file(face_picture), size=128, crop="none", style="comic"))
    assert np.abs(drawn.astype(int) - np.asarray(face_picture.resize((128, 128)))).mean() > 4
    with pytest.raises(ToonError, match="no transparency"):
        Recipe(background="transparent", format="jpg")

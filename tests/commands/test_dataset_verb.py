"""The command `dataset`: the files it writes and the line it prints."""

from __future__ import annotations

import io
import json
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shell
from PIL import Image

from stylegan_toon import cli
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.shards import Shards
from stylegan_toon.dataset_builder import avatars
from stylegan_toon.dataset_builder.avatars import Avatars
from stylegan_toon.dataset_builder.recipe import Recipe
from stylegan_toon.errors import ToonError
from stylegan_toon.pipelines.dataset import dataset

run, refused = partial(shell.run, cli.main, "dataset"), partial(shell.refused, cli.main, "dataset")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Eight pictures of different sizes in two folders, and one damaged file."""
    rng = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + i, 60 - i, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "a" / "bad.jpg").write_bytes(b"damaged")
    return tmp_path / "photos"


def test_source_to_zip_to_shards_and_check(photos, tmp_path):
    out = tmp_path / "set.zip"
    result = run(photos, "--size", 32, "--labels", "folders", "--out", out, "--workers", 1, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].startswith("8 pictures kept, left out: 1 unreadable")
    assert result.stdout.splitlines()[-1] == str(out)
    with zipfile.ZipFile(out) as archive:
        header = json.loads(archive.read("dataset.json"))
        assert header["classes"] == ["a", "b"] and [label for _, label in header["labels"]] == [0, 0, 0, 0, 1, 1, 1, 1]
    again = run("make", out, "--size", 32, "--out", tmp_path / "shards", "--per-shard", 3, "--workers", 1, "--quiet")
    assert again.exit_code == 0, again.output
    first, second = ImageDataset(out, labels=True), ImageDataset(tmp_path / "shards", labels=True)
    sets = [{bytes(np.asarray(s.image(i))): s.label(i).tolist() for i in range(8)} for s in (first, second)]
    assert sets[0] == sets[1] and Shards(tmp_path / "shards").sizes == [3, 3, 2]
    assert run("check", tmp_path / "shards", "--quiet").stdout.startswith("8 pictures of 32x32, all usable")
    (tmp_path / "shards" / "index.json").unlink()
    assert run("check", tmp_path / "shards", "--write-index", "--quiet").exit_code == 0
    index = json.loads((tmp_path / "shards" / "index.json").read_text())["shardlist"]
    assert [len(row["labels"]) for row in index] == [3, 3, 2]


def test_draw_comic(tmp_path, crop):
    (tmp_path / "faces").mkdir()
    crop.rename(tmp_path / "faces" / "0.png")
    result = run("draw", tmp_path / "faces", "--size", 64, "--out", tmp_path / "c.zip", "--workers", 1, "--quiet")
    assert result.exit_code == 0, result.output
    face = np.asarray(Image.open(tmp_path / "faces" / "0.png")).astype(int)
    drawn = np.asarray(ImageDataset(tmp_path / "c.zip").image(0))
    assert 4 < np.abs(drawn - face).mean() < 60


def test_part_of_the_pictures(photos, tmp_path):
    summary = dataset(photos, tmp_path / "part.zip", Recipe(32), start=5, stop=8, quiet=True)
    assert summary.kept == 3 and not summary.dropped
    with pytest.raises(ToonError, match="none of them from 20"):
        dataset(photos, tmp_path / "none.zip", start=20, quiet=True)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["{empty}", "--out", "{out}"], "holds no pictures"),
        (["{out}/nothing", "--out", "{out}/x.zip"], "does not exist"),
        (["{photos}", "--labels", "cartoonset", "--out", "{out}/x.zip"], ".csv"),
        (["{photos}", "--size", "512", "--out", "{out}/x.zip", "--workers", "1"], "None of 9 pictures was kept"),
        (["{photos}", "--format", "jpg", "--background", "transparent"], "no transparency"),
        (["check", "{photos}"], "not square"),
        (["avatars", "--styles", "nobody"], "no style 'nobody'"),
        (["avatars", "--crop", "0.2,0.7"], "--crop is '0.2,0.7'"),
        (["avatars", "--crop", "0.2,0.2,0.9"], "as parts of the drawing"),
        (["make"], "SOURCE"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing_behind(photos, tmp_path, args, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").mkdir()
    places = {name: str(tmp_path / name) for name in ("empty", "out", "photos")}
    assert words in refused(*(arg.format(**places) for arg in args), "--quiet")
    assert not list((tmp_path / "out").glob("*.zip")) and not list((tmp_path / "out").glob("*.part"))


def test_one_corrupt_file_in_ten_thousand(tmp_path):
    """It is left out and named; the others lose nothing."""
    (tmp_path / "many").mkdir()
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((8, 8)).save(buffer, "PNG")
    for i in range(10_000):
        (tmp_path / "many" / f"{i:05d}.png").write_bytes(buffer.getvalue() if i != 7654 else b"no picture")
    out = tmp_path / "set.zip"
    result = run(tmp_path / "many", "--size", 8, "--out", out, "--workers", 1, "--quiet")
    assert result.exit_code == 0 and result.stdout.startswith("9999 pictures kept, left out: 1 unreadable")
    assert "07654.png" in (tmp_path / "set-report.html").read_text()
    assert len(ImageDataset(out)) == 9999
    checked = run("check", tmp_path / "many", "--quiet")
    assert checked.exit_code == 2 and checked.stderr.startswith("error: 1 of 10000 pictures")
    assert checked.stdout.startswith("07654.png in ") and checked.stdout.count("\n") == 1


def test_after_a_run_that_kept_nothing_the_next_needs_no_overwriting(photos, tmp_path):
    options = [photos, "--out", tmp_path / "set.zip", "--workers", 1, "--quiet"]
    assert "None of 9 pictures was kept" in refused(*options, "--size", 512)
    assert run(*options, "--size", 32).exit_code == 0


def test_a_missing_package_is_one_sentence(monkeypatch, tmp_path):
    avatars._style.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "dicebear", None)
    assert "stylegan_toon[avatars]" in refused("avatars", "--out", tmp_path / "a.zip")


def test_avatars_repeat_with_their_seed_and_name_the_artist(tmp_path):
    pytest.importorskip("dicebear")
    pytest.importorskip("resvg_py")
    args = ["avatars", "--count", 7, "--size", 48, "--workers", 1, "--quiet", "--out"]
    for name in ("one.zip", "two.zip"):
        assert run(*args, tmp_path / name).exit_code == 0
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        header = json.loads(archive.read("dataset.json"))
    assert [label for _, label in header["labels"]] == [0, 1, 2, 0, 1, 2, 0]
    assert header["classes"] == [row["style"] for row in header["licences"]] == ["toon-head", "personas", "avataaars"]
    assert [row["artist"] for row in header["licences"]][::2] == ["Johan Melin", "Pablo Stanley"]
    assert all(row["licence"] and row["credit"] for row in header["licences"])
    dataset = ImageDataset(tmp_path / "one.zip")
    pictures = [np.asarray(dataset.image(i)) for i in range(7)]
    assert len({p.tobytes() for p in pictures}) == 7 and min(p.std() for p in pictures) > 20
    assert np.abs(pictures[0].astype(int) - np.asarray(Avatars(size=48, seed=1).draw(0))).mean() > 1
    white = np.asarray(Avatars(size=48, background="white").draw(0))
    assert (white[0, 0] == 255).all() and (pictures[0][0, 0] != 255).any()


def test_a_crop_is_the_same_drawing_larger_then_cut():
    pytest.importorskip("dicebear")
    pytest.importorskip("resvg_py")
    head = Avatars(("toon-head",), 144, background="white", crop=(0.14, 0.12, 0.72)).draw(4)
    whole = Avatars(("toon-head",), 200, background="white").draw(4)
    assert head.size == (144, 144)
    assert np.array_equal(np.asarray(head), np.asarray(whole.crop((28, 24, 172, 168))))

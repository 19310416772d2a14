"""Folders, zips, lmdbs, videos, CartoonSet: the same pictures from each."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylegan_toon.data.archive import Archive
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.shards import Shards, write_shards
from stylegan_toon.data.sources import Lmdb, Video, open_source
from stylegan_toon.dataset_builder.labels import labels_of, read_attributes
from stylegan_toon.errors import ToonError

PIXELS = np.random.default_rng(2).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def filled_lmdb(path: Path, entries: dict[bytes, bytes], **options) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=1 << 20, **options) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    return path


def test_lmdb_of_the_rosinality_layout_gives_its_largest_size(tmp_path):
    small = {f"8-{i:05d}".encode(): png(PIXELS[i, :8, :8]) for i in range(5)}
    large = {f"16-{i:05d}".encode(): png(PIXELS[i]) for i in range(5)}
    path = filled_lmdb(tmp_path / "set", {**small, **large, b"length": b"5"})
    source = open_source(path)
    assert isinstance(source, Lmdb) and source.names == [f"16-{i:05d}" for i in range(5)] and source.labels() is None
    for dataset in (ImageDataset(path), pickle.loads(pickle.dumps(ImageDataset(path / "data.mdb")))):
        for i in range(5):
            np.testing.assert_array_equal(np.asarray(dataset.image(i)), PIXELS[i])


def test_lmdb_with_any_keys(tmp_path):
    path = filled_lmdb(tmp_path / "x.lmdb", {b"\xff\x00": png(PIXELS[0]), b"\x01": b"no picture"}, subdir=False)
    assert open_source(path).names == ["ff00"]
    with pytest.raises(ToonError, match="missing"):
        open_source(path).read("dataset.csv")
    with pytest.raises(ToonError, match="holds no pictures"):
        Lmdb(filled_lmdb(tmp_path / "empty", {b"a": b"b"}))
    (tmp_path / "bad.lmdb").write_bytes(b"damaged" * 1000)
    with pytest.raises(ToonError, match="no readable lmdb"):
        open_source(tmp_path / "bad.lmdb")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Three seconds at 10 frames a second; the brightness of frame i is 8 i. With B-frames and few key frames."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"g": "12", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 5_000_000
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightness(source: Video, name: str) -> float:
    return float(np.asarray(Image.open(io.BytesIO(source.read(name)))).mean())


def test_frames_of_a_video_in_order_and_by_index(video):
    source = open_source(video)
    assert isinstance(source, Video) and len(source.names) == 30 and source.names == sorted(source.names)
    assert [brightness(source, name) for name in source.names] == pytest.approx([8 * i for i in range(30)], abs=4)
    for i in (29, 3, 17, 16, 16, 0):  # backwards, and the same one twice
        assert brightness(source, source.names[i]) == pytest.approx(8 * i, abs=4)
    fresh = pickle.loads(pickle.dumps(source))
    assert fresh.read(fresh.names[13]) == source.read(source.names[13])


@pytest.mark.parametrize(("fps", "frames"), [(2, [0, 5, 10, 15, 20, 25]), (0.5, [0, 20]), (100, range(30))])
def test_frames_per_second(video, fps, frames):
    source = open_source(video, fps=fps)
    assert [brightness(source, name) for name in source.names] == pytest.approx([8 * i for i in frames], abs=4)


def test_bad_videos_are_one_sentence(tmp_path, video):
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(ToonError, match="damaged or no video"):
        open_source(tmp_path / "junk.mp4")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile://{video}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)
    with pytest.raises(ToonError):
        open_source(tmp_path / "list.mp4")


@pytest.mark.parametrize(("package", "name"), [("lmdb", "x.lmdb"), ("av", "x.mp4")])
def test_missing_packages_are_one_sentence(tmp_path, monkeypatch, package, name):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ToonError, match=r"stylegan_toon\[data\]"):
        open_source(tmp_path / name)


def test_open_source_chooses_the_class(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.png", png(PIXELS[0]))
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [("a.png", png(PIXELS[0]), None)], 1)
    assert isinstance(open_source(tmp_path / "set.zip"), Archive)
    assert isinstance(open_source(tmp_path / "shards"), Shards)
    for nothing in ("nothing", "nothing.tar", "nothing.mp4"):
        with pytest.raises(ToonError, match=r"does not exist|check the path"):
            open_source(tmp_path / nothing)


# Labels


def folder(root: Path, names: list[str]) -> Archive:
    for name, pixels in zip(names, PIXELS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(pixels))
    return Archive(root)


def test_folders_become_classes(tmp_path):
    source = folder(tmp_path / "set", ["dog/1/a.png", "cat/b.png", "dog/c.png"])
    labels, about = labels_of("folders", [source])
    assert dict(zip(source.names, labels[0])) == {"cat/b.png": 0, "dog/1/a.png": 1, "dog/c.png": 1}
    assert about == {"classes": ["cat", "dog"]}
    other = folder(tmp_path / "another", ["x.png"])
    assert labels_of("folders", [source, other]) == ([[1, 1, 1], [0]], {"classes": ["another", "set"]})
    with pytest.raises(ToonError, match=r"x\.png lies in no folder"):
        labels_of("folders", [other])


def test_labels_of_the_source_are_kept_or_dropped(tmp_path):
    source = folder(tmp_path, ["a.png", "b.png"])
    assert labels_of("auto", [source]) == ([[None, None]], {})
    (tmp_path / "dataset.json").write_text('{"labels": [["b.png", 1], ["a.png", 0]]}')
    assert labels_of("auto", [Archive(tmp_path)]) == ([[0, 1]], {})
    assert labels_of("none", [Archive(tmp_path)]) == ([[None, None]], {})


def test_cartoonset_attributes_become_one_hot(tmp_path):
    folder(tmp_path, ["0/cs1.png", "1/cs2.png"])
    (tmp_path / "0/cs1.csv").write_text('"eye_angle",0,3\n"hair",2,4\n')
    (tmp_path / "1/cs2.csv").write_text('"eye_angle", 2, 3\n"hair", 1, 4\n')
    labels, about = labels_of("cartoonset", [Archive(tmp_path)])
    assert labels == [[[1, 0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0]]]
    assert about == {"attributes": [("eye_angle", 3), ("hair", 4)]}
    (tmp_path / "1/cs2.csv").write_text('"eye_angle",2,3\n')
    with pytest.raises(ToonError, match=r"1/cs2\.csv.*other attributes"):
        labels_of("cartoonset", [Archive(tmp_path)])
    (tmp_path / "1/cs2.csv").unlink()
    with pytest.raises(ToonError, match=r"1/cs2\.csv"):
        labels_of("cartoonset", [Archive(tmp_path)])


@pytest.mark.parametrize("data", [b"", b"a,1", b"a,3,3", b"a,-1,3", b"a,x,3", b"\xff\xfe\xfd", b"a,0,999999999"])
def test_malformed_cartoonset_tables(data):
    with pytest.raises(ToonError, match="no table of CartoonSet"):
        read_attributes(data, "x.csv")


def test_training_passes_over_damaged_pictures(tmp_path):
    folder(tmp_path, [f"{i}.png" for i in range(5)])
    (tmp_path / "0.png").write_bytes(b"damaged")
    (tmp_path / "3.png").write_bytes(png(PIXELS[3])[:-40])
    (tmp_path / "dataset.json").write_text('{"labels": [["0.png",0],["1.png",1],["2.png",2],["3.png",3],["4.png",4]]}')
    with pytest.raises(ToonError, match=r"0\.png"):
        ImageDataset(tmp_path)
    with pytest.warns(UserWarning, match=r"0\.png.*The next picture takes its place"):
        dataset = ImageDataset(tmp_path, labels=True, skip_bad=True)
    with pytest.warns(UserWarning, match=r"3\.png"):
        shown = [dataset[i] for i in range(5)]
    for (image, label), row in zip(shown, (1, 1, 2, 4, 4)):
        np.testing.assert_array_equal(image.permute(1, 2, 0), PIXELS[row])
        assert int(label.argmax()) == row
    for name in "124":
        (tmp_path / f"{name}.png").write_bytes(b"damaged")
    with pytest.raises(ToonError), pytest.warns(UserWarning):
        ImageDataset(tmp_path, skip_bad=True)

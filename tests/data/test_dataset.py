"""Picture sets: order, labels, unusual files, workers, and a sampler that resumes exactly."""

from __future__ import annotations

import itertools
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from stylegan_toon.data import archive as archive_module
from stylegan_toon.data.archive import Archive
from stylegan_toon.data.datasets import ImageDataset, InfiniteSampler, PairDataset
from stylegan_toon.errors import ToonError

zipfile_info = zipfile.ZipInfo
NAMES = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png"]
PIXELS = np.random.default_rng(5).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "set"
    for name, pixels in zip(reversed(NAMES), reversed(PIXELS)):  # written in another order than read
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name)
    return root


def zipped(folder: Path, compression=zipfile.ZIP_STORED) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def write_labels(folder: Path, labels) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))


@pytest.mark.parametrize("kind", ["folder", "stored", "deflated"])
def test_pictures_in_order_of_name(folder, kind):
    path = folder if kind == "folder" else zipped(folder, getattr(zipfile, f"ZIP_{kind.upper()}"))
    dataset = ImageDataset(path)
    assert dataset.names == NAMES and len(dataset) == 3 and dataset.resolution == 16 and dataset.label_dim == 0
    for i, pixels in enumerate(PIXELS):
        image, label = dataset[i]
        assert image.dtype == torch.uint8 and image.is_contiguous() and label.shape == (0,)
        np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1))
    with pytest.raises(IndexError):
        dataset[3]


def test_mirror_images_follow(folder):
    dataset = ImageDataset(folder, xflip=True)
    assert len(dataset) == 6 and dataset.names == NAMES
    np.testing.assert_array_equal(dataset[4][0], dataset[1][0].flip(2))
    np.testing.assert_array_equal(dataset[-1][0], dataset[5][0])


def test_class_labels_become_one_hot(folder):
    write_labels(folder, [[NAMES[2], 0], [NAMES[0], 3], [NAMES[1], 1], ["not/there.png", 9]])
    dataset = ImageDataset(zipped(folder), labels=True, xflip=True)
    assert dataset.label_dim == 4
    assert [dataset[i][1].tolist() for i in (0, 1, 2, 3)] == [[0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]


def test_vector_labels_are_kept(folder):
    write_labels(folder, [[name, [i, 0.5]] for i, name in enumerate(NAMES)])
    dataset = ImageDataset(folder, labels=True)
    assert dataset.label_dim == 2 and dataset.label(2).tolist() == [2, 0.5]
    dataset.label(2)[:] = 7
    dataset[2][1][:] = 7
    assert dataset.label(2).tolist() == [2, 0.5]  # a caller cannot change the table


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "with labels"),
        ([[NAMES[0], 1]], "no label for 00000/img00000001.png"),
        ([[name, -1] for name in NAMES], "malformed"),
        ([[name, 10**15] for name in NAMES], "malformed"),
        ([[name, "cat"] for name in NAMES], "malformed"),
        ([[name, [1] * (1 + i)] for i, name in enumerate(NAMES)], "malformed"),
        ([[name, [float("nan")]] for name in NAMES], "malformed"),
        ([1, 2, 3], "malformed"),
    ],
)
def test_bad_labels_are_named(folder, labels, words):
    write_labels(folder, labels)
    with pytest.raises(ToonError, match=words):
        ImageDataset(folder, labels=True)


def test_labels_missing_or_not_json(folder):
    with pytest.raises(ToonError, match=r"no dataset\.json"):
        ImageDataset(folder, labels=True)
    (folder / "dataset.json").write_bytes(b"\xff{")
    with pytest.raises(ToonError, match="malformed"):
        ImageDataset(folder, labels=True)
    assert len(ImageDataset(folder)) == 3  # labels are not read unless asked for


def test_odd_files_come_out_as_rgb(tmp_path):
    root = tmp_path / "odd"
    root.mkdir()
    grey = PIXELS[0][..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey).save(root / "a-grey.png")
    Image.fromarray(np.dstack([PIXELS[0], np.full((16, 16), 255, np.uint8)])).save(root / "b-rgba.png")
    Image.fromarray(PIXELS[0]).convert("CMYK").save(root / "c-cmyk.tif")
    Image.fromarray(grey.astype(np.uint16) * 257).save(root / "d-16-bit.png")
    Image.fromarray(np.rot90(PIXELS[0]).copy()).save(root / "e-turned.png", exif=exif)
    dataset = ImageDataset(root)
    for i, expected in enumerate(
        [grey[..., None].repeat(3, 2), PIXELS[0], None, grey[..., None].repeat(3, 2), PIXELS[0]]
    ):
        image = dataset[i][0]
        assert image.shape == (3, 16, 16)
        if expected is not None:
            np.testing.assert_array_equal(image.numpy(), expected.transpose(2, 0, 1))
    assert [dataset.problem(row) for row in range(len(dataset))] == [None] * len(dataset)


def test_bad_files_are_named(folder):
    (folder / NAMES[1]).write_bytes(b"no picture")
    Image.new("RGB", (16, 20)).save(folder / NAMES[2])
    for path in (folder, zipped(folder)):
        dataset = ImageDataset(path)
        for i in (1, 2):
            with pytest.raises(ToonError, match=Path(NAMES[i]).name):
                dataset[i]
        none, first, second = (dataset.problem(row) for row in range(3))
        assert none is None
        assert NAMES[1] in first and NAMES[2] in second and "16x20" in second


def test_resolution_is_checked_or_made(folder):
    with pytest.raises(ToonError, match="16x16, not 32x32"):
        ImageDataset(folder, 32)
    assert ImageDataset(folder, 32, resize=True)[0][0].shape == (3, 32, 32)
    wide = Image.new("RGB", (40, 20), "red")
    wide.paste("blue", (3, 0, 37, 20))  # wider than the square by the filter
    wide.save(folder / NAMES[0])
    with pytest.raises(ToonError, match="not square"):
        ImageDataset(folder)
    cut = ImageDataset(folder, 10, resize=True)[0][0]
    assert (cut.permute(1, 2, 0) == torch.tensor([0, 0, 255])).all()  # not squeezed: cut about the centre
    assert ImageDataset(folder, resize=True).resolution == 20


def test_an_empty_or_missing_set(tmp_path):
    for path, words in ((tmp_path, "holds no pictures"), (tmp_path / "no.zip", "does not exist")):
        with pytest.raises(ToonError, match=words):
            ImageDataset(path)
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(ToonError, match="neither a folder nor a readable zip"):
        ImageDataset(tmp_path / "text.zip")


def test_hidden_files_are_left_out(folder):
    Image.fromarray(PIXELS[0]).save(folder / ".thumb.png")
    (folder / "__MACOSX").mkdir()
    Image.fromarray(PIXELS[0]).save(folder / "__MACOSX" / "img.png")
    assert ImageDataset(folder).names == NAMES


def test_a_table_of_contents_is_not_read_if_it_is_too_large(tmp_path, monkeypatch):
    """It is refused before any entry is parsed, whatever number of entries the end record gives."""
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(100):
            archive.writestr(f"{i}.png", b"")
    size = 100 * 46 + sum(len(f"{i}.png") for i in range(100))  # APPNOTE 4.3.12: 46 bytes and the name each
    path.write_bytes(path.read_bytes()[:-14] + b"\1\0\1\0" + path.read_bytes()[-10:])
    entries = []
    monkeypatch.setattr(zipfile, "ZipInfo", lambda name, *args: entries.append(name) or zipfile_info(name, *args))
    monkeypatch.setattr(archive_module, "MAX_DIRECTORY", size - 1)
    with pytest.raises(ToonError, match=r"many\.zip is a zip with far too many members"):
        Archive(path)
    assert not entries
    monkeypatch.setattr(archive_module, "MAX_DIRECTORY", size)
    assert len(Archive(path).names) == len(entries) == 100


def test_names_with_parent_folders_in_a_zip_write_nothing(tmp_path, folder):
    path = tmp_path / "inner" / "evil.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / NAMES[0], "x.png")
        archive.writestr(zipfile.ZipInfo("../../escape.png"), (folder / NAMES[1]).read_bytes())
        archive.writestr(zipfile.ZipInfo("/tmp/absolute.png"), (folder / NAMES[2]).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    dataset = ImageDataset(path)
    assert len([dataset[i] for i in range(len(dataset))]) == len(dataset) >= 1
    assert sorted(tmp_path.rglob("*")) == before


def test_members_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.png", bytes(1_000_000))
    monkeypatch.setattr(archive_module, "MAX_MEMBER_BYTES", 10_000)
    with pytest.raises(ToonError, match=r"big\.png.*1,000,000 bytes"):
        Archive(path).read("big.png")


def test_damaged_and_missing_members_are_named(folder):
    path = zipped(folder)
    data = bytearray(path.read_bytes())
    where = data.find(b"\x89PNG")
    data[where + 30 : where + 60] = bytes(30)
    path.write_bytes(data)
    archive = Archive(path)
    with pytest.raises(ToonError, match=r"img\d+\.png.*CRC"):
        for name in archive.names:
            archive.read(name)
    with pytest.raises(ToonError, match="does not exist"):
        archive.read("nobody.png")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_pickle_and_workers(folder, kind):
    dataset = ImageDataset(folder if kind == "folder" else zipped(folder), xflip=True)
    dataset[0]  # the zip is open now
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset))[1][0], dataset[1][0])
    loader = DataLoader(dataset, batch_size=3, num_workers=2, sampler=list(range(6)) * 4)
    batches = [images for images, _ in loader]
    expected = torch.stack([dataset[i][0] for i in range(6)])
    assert torch.equal(torch.cat(batches), expected.repeat(4, 1, 1, 1))


def test_pairs_match_rows_to_names(folder):
    table = np.arange(5 * 8).reshape(5, 8).astype(np.float16)
    pairs = PairDataset(ImageDataset(folder), table, first=2)
    image, w = pairs[1]
    assert len(pairs) == 3 and w.dtype == torch.float32
    assert w.tolist() == table[3].tolist()
    np.testing.assert_array_equal(image.numpy(), PIXELS[1].transpose(2, 0, 1))
    every = PairDataset(ImageDataset(folder), table.reshape(5, 2, 4), first=2)
    assert every[1][1].tolist() == table[3].reshape(2, 4).tolist()
    with pytest.raises(ToonError, match="too few rows"):
        PairDataset(ImageDataset(folder), table, first=3)
    with pytest.raises(ToonError, match="mirrored"):
        PairDataset(ImageDataset(folder, xflip=True), table)


def taken(count: int, *args, **kwargs) -> list[int]:
    return list(itertools.islice(InfiniteSampler(*args, **kwargs), count))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31), st.integers(0, 100))
def test_sampler_shares_out_permutations_and_resumes(n, replicas, seed, start):
    whole = taken(3 * n + start + 5 * replicas, n, seed=seed)
    for epoch in range(3):  # every epoch is a permutation
        assert sorted(whole[epoch * n : (epoch + 1) * n]) == list(range(n))
    shares = [taken(5, n, rank, replicas, seed, start) for rank in range(replicas)]
    together = [share[i] for i in range(5) for share in shares]
    assert together == whole[start : start + 5 * replicas]  # nothing twice, nothing lost, whatever the start


def test_sampler_shuffles_anew_by_epoch_and_by_seed():
    first, second = taken(50, 50, seed=1), taken(100, 50, seed=1)[50:]
    assert first != second and first != list(range(50)) and first != taken(50, 50, seed=2)
    for bad in ((0,), (5, 2, 2), (5, -1), (5, 0, 1, 0, -1)):
        with pytest.raises(ValueError):
            InfiniteSampler(*bad)

"""Tar shards: the same samples as a folder, over http too; an order that resumes; malformed shards and indices."""

from __future__ import annotations

import functools
import http.server
import io
import itertools
import json
import pickle
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from stylegan_toon.data import tar_shard
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.sampling import InfiniteSampler, ShardSampler
from stylegan_toon.data.shards import Shards, write_index, write_shards
from stylegan_toon.errors import ToonError
from stylegan_toon.weights import download

PIXELS = np.random.default_rng(11).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 1, 0, 2, 2]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes, **changes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def make_by_hand(folder: Path, sizes=(3, 1, 3)) -> Path:
    """Shards as another tool may write them: label before picture, folders, other files in between, no index."""
    folder.mkdir()
    row = 0
    for number, size in enumerate(sizes):
        with tarfile.open(folder / f"train-{number:04d}.tar", "w") as tar:
            add(tar, "README.md", b"hello")
            for _ in range(size):
                add(tar, f"a/b.c/img{row}.cls", str(LABELS[row]).encode())
                add(tar, f"a/b.c/img{row}.png", png(PIXELS[row]))
                add(tar, f"a/b.c/img{row}.txt", b"a caption")
                row += 1
    return folder


@pytest.fixture
def by_hand(tmp_path) -> Path:
    return make_by_hand(tmp_path / "shards")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address at which ``tmp_path`` is served; fetched shards go to another folder of it."""
    monkeypatch.setenv("STYLEGAN_TOON_HOME", str(tmp_path / "home"))

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def assert_same(dataset: ImageDataset, rows=range(7)) -> None:
    assert len(dataset) == len(rows) and dataset.resolution == 16
    for i, row in enumerate(rows):
        image, label = dataset[i]
        np.testing.assert_array_equal(image.numpy(), PIXELS[row].transpose(2, 0, 1))
        if dataset.label_dim:
            assert label.tolist() == [float(LABELS[row] == k) for k in range(3)]


@pytest.mark.parametrize("place", ["", "train-{0000..0002}.tar", "train-*.tar"])
def test_shards_made_by_other_tools_are_read(by_hand, place):
    dataset = ImageDataset(by_hand / place, labels=True)
    assert_same(dataset)
    assert dataset.names[0] == "train-0000.tar/a/b.c/img0.png" and dataset.names[-1].endswith("img6.png")
    assert_same(pickle.loads(pickle.dumps(dataset)))
    assert_same(ImageDataset(by_hand / "train-0001.tar"), [3])


def test_written_shards_are_plain_tars(tmp_path):
    samples = [(f"{i:04d}.png", png(pixels), label) for i, (pixels, label) in enumerate(zip(PIXELS, LABELS))]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_shards(tmp_path / name, iter(samples), per_shard=3)
    read = []
    for file in sorted((tmp_path / "one").glob("*.tar")):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
        with tarfile.open(file) as tar:
            read += [(member.name, tar.extractfile(member).read()) for member in tar]
    expected = [(name, data) for i in range(7) for name, data in
                ((f"{i:04d}.png", samples[i][1]), (f"{i:04d}.cls", str(LABELS[i]).encode()))]  # fmt: skip
    assert read == expected
    index = json.loads((tmp_path / "one" / "index.json").read_text())
    assert index["wids_version"] == 1 and [row["nsamples"] for row in index["shardlist"]] == [3, 3, 1]
    assert_same(ImageDataset(tmp_path / "one", labels=True))


def test_vector_labels(tmp_path):
    write_shards(tmp_path, [(f"{i}.png", png(PIXELS[i]), [i, 0.5]) for i in range(7)], per_shard=4)
    assert [ImageDataset(tmp_path, labels=True).label(i).tolist() for i in (0, 6)] == [[0, 0.5], [6, 0.5]]
    (tmp_path / "index.json").unlink()  # now they come from the .json members
    assert ImageDataset(tmp_path, labels=True).label(6).tolist() == [6, 0.5]


@pytest.mark.parametrize("place", ["shards/", "shards/index.json", "shards/train-{0000..0002}.tar"])
def test_shards_behind_http_equal_the_folder(by_hand, server, place):
    local = Shards(by_hand)
    write_index(
        by_hand, [(s.name, s.size, LABELS[i * 3 - (i == 2) * 2 :][: s.size]) for i, s in enumerate(local.shards)]
    )
    dataset = ImageDataset(f"{server}/{place}", labels=True)
    assert_same(dataset)
    for file in by_hand.glob("*.tar"):
        file.unlink()
    assert_same(ImageDataset(f"{server}/{place}"))  # from the cache


def test_workers_over_http_give_what_the_folder_gives(by_hand, server):
    write_index(by_hand, [(shard.name, shard.size, None) for shard in Shards(by_hand).shards])
    near, far = ImageDataset(by_hand, xflip=True), ImageDataset(f"{server}/shards/", xflip=True)
    order = list(itertools.islice(far.sampler(seed=3), 12))
    batches = DataLoader(far, batch_size=3, num_workers=2, sampler=order)
    expected = torch.stack([near[i][0] for i in order])
    assert torch.equal(torch.cat([images for images, _ in batches]), expected)


def test_the_cache_stays_within_its_limit(by_hand, server, tmp_path):
    write_index(by_hand, [(shard.name, shard.size, None) for shard in Shards(by_hand).shards])
    size = (by_hand / "train-0000.tar").stat().st_size
    far = Shards(f"{server}/shards/", cache=tmp_path / "cache", cache_bytes=2 * size)
    for name in far.names:
        far.read(name)
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 2


def test_bad_indices_and_digests_over_http_are_refused(by_hand, server, tmp_path):
    with pytest.raises(ToonError, match=r"index\.json could not be fetched"):
        Shards(f"{server}/shards/train-{{0000..0002}}.tar")
    write_index(by_hand, [(shard.name, shard.size, None) for shard in Shards(by_hand).shards])
    index = json.loads((by_hand / "index.json").read_text())
    with pytest.raises(ToonError, match=r"does not list .*train-0003\.tar"):
        Shards(f"{server}/shards/train-{{0000..0003}}.tar")
    index["shardlist"][0]["sha256"] = "0" * 64
    (by_hand / "index.json").write_text(json.dumps(index))
    far = Shards(f"{server}/shards/", cache=tmp_path / "cache")
    with pytest.raises(ToonError, match="not the file it should be"):
        far.read(far.names[0])
    assert not list((tmp_path / "cache").glob("*.tar"))
    index["shardlist"][0]["url"] = "file:///etc/passwd"
    (by_hand / "index.json").write_text(json.dumps(index))
    with pytest.raises(ToonError, match="no tar beside it"):
        Shards(f"{server}/shards/")


@pytest.mark.parametrize("url", ["../other.tar", "/etc/hostname", "a\\b.tar", "http://127.0.0.1/x.tar"])
def test_an_index_on_disk_may_name_files_of_its_folder_only(by_hand, url):
    (by_hand / "index.json").write_text(json.dumps({"shardlist": [{"url": url, "nsamples": 1}]}))
    with pytest.raises(ToonError, match="no tar beside it"):
        Shards(by_hand)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"shardlist": []}', '{"shardlist": [{"url": "a.tar"}]}', "[" * 100_000,
     '{"shardlist": [{"url": "a.tar", "nsamples": -1}]}', '{"shardlist": [{"url": "a.tar", "nsamples": true}]}',
     '{"shardlist": [{"url": "a.tar", "nsamples": 99999999999}]}'],
)  # fmt: skip
def test_a_bad_index_is_one_sentence(by_hand, text):
    (by_hand / "index.json").write_text(text)
    with pytest.raises(ToonError, match="no index of shards"):
        Shards(by_hand)


def test_links_devices_and_hidden_files_are_no_pictures(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "link.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.png", b"", type=tarfile.LNKTYPE, linkname="good.png")
        add(tar, "pipe.png", b"", type=tarfile.FIFOTYPE)
        add(tar, ".hidden.png", png(PIXELS[1]))
        add(tar, "../../climbs.png", png(PIXELS[2]))
        add(tar, "good.png", png(PIXELS[0]))
    before = sorted(tmp_path.parent.rglob("*"))
    dataset = ImageDataset(tmp_path)
    assert [name.rpartition("/")[2] for name in dataset.names] == ["climbs.png", "good.png"]
    assert len([dataset[i] for i in range(2)]) == 2 and sorted(tmp_path.parent.rglob("*")) == before


def test_damaged_shards_are_named(by_hand, monkeypatch):
    whole = (by_hand / "train-0002.tar").read_bytes()
    for data in (whole[:1800], b"no tar at all" * 100):
        (by_hand / "train-0002.tar").write_bytes(data)
        with pytest.raises(ToonError, match=r"train-0002\.tar.*cut short"):
            Shards(by_hand)
    (by_hand / "train-0002.tar").write_bytes(whole)
    shards = Shards(by_hand)
    with pytest.raises(ToonError, match="does not exist"):
        shards.read("train-0002.tar/nobody.png")
    monkeypatch.setattr(tar_shard, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(ToonError, match="take it out"):
        shards.read(shards.names[0])
    monkeypatch.setattr(tar_shard, "MAX_MEMBERS", 2)
    with pytest.raises(ToonError, match="more than 2 files"):
        Shards(by_hand)
    for wrong in ("x{9..1}.tar", "x{0..999999999}.tar"):
        with pytest.raises(ToonError, match="no range of shards"):
            Shards(by_hand / wrong)


def test_an_index_with_wrong_counts_is_refused(by_hand):
    write_index(by_hand, [("train-0000.tar", 2, None)])
    shards = Shards(by_hand)
    with pytest.raises(ToonError, match="holds 3 pictures, the index says 2"):
        shards.names[0]


def test_labels_that_some_samples_lack(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.png", png(PIXELS[0]))
        add(tar, "0.cls", b"1")
        add(tar, "1.png", png(PIXELS[1]))
    with pytest.raises(ToonError, match=r"1\.png.*has no label"):
        ImageDataset(tmp_path, labels=True)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.png", png(PIXELS[0]))
        add(tar, "0.cls", b"cat")
    with pytest.raises(ToonError, match="neither a number nor JSON"):
        ImageDataset(tmp_path, labels=True)


# The order


sizes = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


@settings(max_examples=80, deadline=None)
@given(sizes, st.integers(1, 2), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**31), st.integers(0, 60))
def test_shard_order_is_a_permutation_shared_out_and_resumed(sizes, copies, lanes, replicas, seed, start):
    n = sum(sizes) * copies

    def taken(count, rank=0, of=1, start=0):
        return list(itertools.islice(ShardSampler(sizes, rank, of, seed, start, copies=copies, lanes=lanes), count))

    whole = taken(2 * n + start + 5 * replicas)
    for epoch in range(2):
        assert sorted(whole[epoch * n : (epoch + 1) * n]) == list(range(n))
    shares = [taken(5, rank, replicas, start) for rank in range(replicas)]
    assert [share[i] for i in range(5) for share in shares] == whole[start : start + 5 * replicas]


def test_shards_are_read_front_to_back_and_by_one_process_each():
    sizes, lanes, ranks = [50] * 40, 8, 4
    touched = []
    for rank in range(ranks):
        order = list(itertools.islice(ShardSampler(sizes, rank, ranks, seed=1), sum(sizes) // ranks))
        shards = [i // 50 for i in order]
        for lane in range(lanes // ranks):  # each lane finishes a shard before it begins the next
            visits = [shard for shard, _ in itertools.groupby(shards[lane :: lanes // ranks])]
            assert len(visits) == len(set(visits))
        touched.append(set(shards))
    assert sum(map(len, touched)) == 40  # no shard is read by two ranks
    first, second = (list(itertools.islice(ShardSampler(sizes, seed=s), 100)) for s in (1, 2))
    assert first != second and len({i // 50 for i in first[:8]}) == 8
    with pytest.raises(ValueError):
        ShardSampler([5], lanes=0)


def test_only_shards_have_lanes(by_hand, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.png", png(PIXELS[0]))
    assert type(ImageDataset(tmp_path / "set.zip").sampler()) is InfiniteSampler
    sampler = ImageDataset(by_hand, xflip=True).sampler(seed=4, start=9)
    assert isinstance(sampler, ShardSampler) and sampler.n == 14
    assert (
        list(itertools.islice(sampler, 5))
        == list(itertools.islice(ImageDataset(by_hand, xflip=True).sampler(seed=4), 14))[9:]
    )


def test_http_cannot_redirect_to_files(tmp_path):
    handler = download._Redirects(("http", "https"))
    with pytest.raises(ToonError, match="neither an http nor"):
        handler.redirect_request(None, None, 302, "Found", {}, "file:///etc/passwd")
    with pytest.raises(ToonError, match="neither an http nor"):
        download.fetch("file:///etc/hostname", tmp_path / "x")

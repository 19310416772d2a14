"""A training that was stopped, killed or met a full disk resumes with the same result."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import shell
import torch
from tiny import tiny_discriminator, tiny_generator
from trainings import SERVER, assert_same, find_snapshot, go, picture_set, read_snapshot, start

from stylegan_toon import files
from stylegan_toon.errors import ToonError
from stylegan_toon.train import main
from stylegan_toon.training.config import TrainConfig
from stylegan_toon.training.loop import Trainer
from stylegan_toon.training.snapshots import snapshots
from stylegan_toon.training.stylegan2 import StyleGAN2Task
from stylegan_toon.weights import load_network

KILLS = int(os.environ.get("STYLEGAN_TOON_KILLS", 3))


@pytest.mark.parametrize(
    "options",
    [
        dict(workers=1),
        dict(pairs=True, pairs_kimg=0.04, pairs_weight=0.5, batch_gpu=4, freeze_d=2),
        dict(dtype="bfloat16", cond=True, augment="fixed"),
    ],
    ids=["worker", "pairs", "bfloat16"],
)
def test_two_halves_equal_one_training(pictures, tmp_path, options):
    """Bit for bit: weights, average, optimisers, p, path length mean, ADA's sums; with stops at odd steps."""
    options = {**options, "kimg": 0.072}  # 9 steps, after 5 of pairs where there are any
    whole = go(pictures, tmp_path / "whole", **options)
    for steps in (3, 4):
        go(pictures, tmp_path / "parts", "auto", **options, stop=steps)
    assert_same(whole, go(pictures, tmp_path / "parts", "auto", **options))
    assert read_snapshot(whole).counters["train"].steps == 9


def test_kills_at_random_moments(pictures, tmp_path):
    """kill -9 at any moment loses no more than what follows the last snapshot, and the result is the same."""
    options = dict(snapshot_kimg=0.016, kimg=0.016 * (4 + 2 * KILLS), keep=2)
    folder, chance, done = tmp_path / "killed", random.Random(5), SERVER.Value("q", 0)
    had = 0
    for _ in range(KILLS):
        process = start(go, pictures, folder, "auto", done=done, **options)
        wanted = had + chance.randint(1, 3) * 16
        while done.value < wanted and process.is_alive():
            time.sleep(0.01)
        process.join(chance.random() * 0.5)
        process.kill()
        process.join()
        newest = find_snapshot("auto", folder)
        had = newest.images_seen if newest else 0
        assert done.value - had <= 16
    whole = go(pictures, tmp_path / "whole", **options)
    assert_same(whole, go(pictures, folder, "auto", **options))
    assert len(snapshots(folder)) == 2


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once")
    go(picture_set(folder / "set"), folder / "run", kimg=0.024, snapshot_kimg=0.008)
    return folder / "run"


@pytest.fixture
def three(once, tmp_path):
    """A run with snapshots after 8, 16 and 24 pictures."""
    return Path(shutil.copytree(once, tmp_path / "run"))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-50] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "networks cut short": lambda s: cut_short(s / "networks.safetensors"),
    "a bit of the networks": lambda s: flip_a_bit(s / "networks.safetensors"),
    "optimisers cut short": lambda s: cut_short(s / "optimizers.safetensors"),
    "a bit of the optimisers": lambda s: flip_a_bit(s / "optimizers.safetensors"),
    "no optimisers": lambda s: (s / "optimizers.safetensors").unlink(),
    "no state": lambda s: (s / "state.json").unlink(),
    "state cut short": lambda s: cut_short(s / "state.json"),
    "other networks": lambda s: shutil.copy(s.with_name("snapshot-000000008") / "networks.safetensors", s),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_snapshot_falls_back(three, damage):
    newest = three / "snapshot-000000024"
    DAMAGES[damage](newest)
    with pytest.warns(UserWarning, match=r"snapshot-000000024 is no whole .* going on from the one before it\.$"):
        assert find_snapshot("auto", three).path.name == "snapshot-000000016"
    with pytest.raises(ToonError, match="is no whole snapshot"):
        find_snapshot(str(newest), three)  # named explicitly, it is not replaced by another


def test_without_a_good_snapshot_training_does_not_start_anew(three, tmp_path):
    for path in snapshots(three):
        (path / "state.json").write_text("{}")
    with pytest.warns(UserWarning), pytest.raises(ToonError, match="no whole snapshot"):
        find_snapshot("auto", three)
    (tmp_path / "empty").mkdir()
    assert find_snapshot("auto", tmp_path / "empty") is None
    with pytest.raises(ToonError, match="no whole snapshot"):
        find_snapshot(str(tmp_path / "empty"), three)


@pytest.mark.parametrize(
    "change",
    [
        {"state": {"p": 1e400}}, {"state": {"p": 7}}, {"counters": {"train": {"images": -8}}},
        {"counters": {"train": {"steps": 1.5}}}, {"counters": {"train": {"steps": True}}}, {"counters": {"pairs": 1}},
        {"config": {"batch": "eight"}}, {"config": {"new": 1}}, {"config": []},
        {"format_version": "1"}, {"format_version": 9}, {"sha256": None}, {"counters": None}, {"state": None},
    ],
)  # fmt: skip
def test_an_invalid_state_is_refused(three, change):
    path = three / "snapshot-000000024" / "state.json"
    state = json.loads(path.read_text())
    for key, value in change.items():
        state[key] = {**state[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(state))
    with pytest.raises(ToonError, match=r"no whole snapshot|newer version"):
        read_snapshot(path.parent)


def test_snapshots_are_network_files(three):
    assert [p.name for p in snapshots(three)] == [f"snapshot-{n:09d}" for n in (24, 16, 8)]
    path = three / "snapshot-000000016" / "networks.safetensors"
    for which in ("G_ema", "G", "D"):
        assert load_network(str(path), which=which).config.resolution == 16


def test_a_full_disk_during_a_snapshot(pictures, tmp_path, monkeypatch):
    """One sentence, older snapshots intact, no partial file, tried again, and the same result."""
    options = dict(kimg=0.04, snapshot_kimg=0.008)
    whole, folder, fsync, written = go(pictures, tmp_path / "whole", **options), tmp_path / "full", os.fsync, []

    def full(handle):
        written.append(handle)
        if len(written) in (7, 8):  # in the second snapshot and in the third
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.warns(UserWarning, match="The disk is full") as caught:
        newest = go(pictures, folder, **options)
    assert len(caught) == 2
    assert all(str(w.message).endswith("training goes on and will try again.") for w in caught)
    assert_same(whole, newest)
    assert {p.name for p in snapshots(folder)} == {f"snapshot-{n:09d}" for n in (8, 32, 40)}
    assert all(read_snapshot(path) for path in snapshots(folder))
    assert not list(folder.glob(".*"))


def test_a_half_written_snapshot_is_removed(pictures, tmp_path):
    with pytest.raises(ToonError, match="disk is full"), files.atomic_folder(tmp_path / "it") as folder:
        (folder / "a").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not [path for path in tmp_path.iterdir() if path.name != "set"]


# The command.

SMALL = ["--batch", "4", "--channel-base", "128", "--channel-max", "16", "--workers", "0", "--quiet", "--device", "cpu"]


run, refused = partial(shell.run, main), partial(shell.refused, main)


def test_the_command_resumes(pictures, tmp_path):
    """Options are those of the snapshot unless given anew; the log has no line twice."""
    out = tmp_path / "out"
    usual = ["--data", pictures, "--out", out, "--resume", "auto"]
    first = run(*usual, *SMALL, "--kimg", "0.016", "--lr", "0.001", "--snapshot-kimg", "0.008", "--p", "0.3")
    assert first.exit_code == 0, first.output
    (out / ".snapshot-000000024.abc.tmp").mkdir()  # a process was killed while it wrote
    with open(out / "log.jsonl", "a") as log:
        log.write('{"kimg": 0.018, "G": 1.0}\n{"kimg": 0.0')
    result = run(*usual, "--kimg", "0.032", "--keep", "2", "--quiet", "--device", "cpu")
    assert result.exit_code == 0, result.output
    snapshot = read_snapshot(snapshots(out)[0])
    assert snapshot.counters["train"].images == 32 and snapshot.state.p != 0
    assert (snapshot.config.lr, snapshot.config.keep, snapshot.config.batch) == (0.001, 2, 4)
    kimg = [json.loads(line)["kimg"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert kimg == sorted(set(kimg)) and kimg[-1] == 0.032 and 0.018 not in kimg
    assert not list(out.glob(".*"))
    history = snapshot.networks["G_ema"].provenance
    assert history["verb"] == "train" and history["images_seen"] == 32 and history["parents"] == []


def test_a_training_is_not_overwritten_unasked(pictures, tmp_path):
    out = tmp_path / "out"
    usual = ["--data", pictures, "--out", out, *SMALL, "--kimg", "0.008"]
    assert run(*usual).exit_code == 0
    before = (out / "network.safetensors").read_bytes()
    sentence = refused(*usual)
    assert "--resume auto" in sentence and "--overwrite" in sentence
    assert "b7" in refused(*usual, "--overwrite", "--freeze-g", "b7")  # a mistake costs nothing
    assert (out / "network.safetensors").read_bytes() == before and len(snapshots(out)) == 1
    assert run(*usual, "--overwrite", "--seed", "1").exit_code == 0
    assert len(snapshots(out)) == 1 and (out / "network.safetensors").read_bytes() != before


def test_resuming_from_an_earlier_snapshot_moves_later_ones_aside(pictures, three):
    arguments = ["--data", pictures, "--out", three, "--workers", "0", "--quiet", "--device", "cpu", "--kimg", "0.016"]
    result = run(*arguments, "--resume", three / "snapshot-000000008")
    assert result.exit_code == 0, result.output
    names = {path.name for path in three.glob("snapshot-*")}
    assert names == {"snapshot-000000008", "snapshot-000000016"} | {f"snapshot-0000000{n}.aside" for n in (16, 24)}


def test_another_set_is_noticed(pictures, three):
    (pictures / "11.png").unlink()
    with pytest.warns(UserWarning, match="11 pictures, it had 12"):
        go(pictures, three, "auto", kimg=0.032)


def test_a_snapshot_of_other_networks(three):
    """Tensors that do not fit the optimiser are refused."""
    snapshot = read_snapshot(three / "snapshot-000000024")
    name = next(n for n in snapshot.tensors if n.endswith("conv1.weight.exp_avg"))
    snapshot.tensors[name] = torch.zeros(3)
    networks = (tiny_generator(0, resolution=16, channel_base=128, channel_max=16),
                tiny_discriminator(0, resolution=16, channel_base=128, channel_max=16))  # fmt: skip
    with pytest.raises(ToonError, match="does not fit the network at"):
        Trainer(StyleGAN2Task(*networks, range(12), TrainConfig(batch=8)), three, resume=snapshot)

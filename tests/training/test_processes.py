"""The number of processes and parts does not change a training."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_discriminator, tiny_generator
from trainings import SERVER, assert_one_seed_is_close, go, go_together, read_snapshot, start_together, tensors

from stylegan_toon import distributed
from stylegan_toon.distributed import ProcessGroup, join_processes
from stylegan_toon.errors import ToonError
from stylegan_toon.training.config import TrainConfig
from stylegan_toon.training.stylegan2 import StyleGAN2Task


@pytest.mark.parametrize(("total", "unit", "size"), [(32, 4, 2), (32, 4, 3), (7, 1, 3), (12, 12, 1), (20, 4, 5)])
def test_shares_are_whole_units_and_leave_nothing_out(total, unit, size):
    shares = [ProcessGroup(rank, size).share(total, unit) for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(total))
    assert all(len(share) % unit == 0 for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= unit


@pytest.mark.parametrize("how", ["processes", "parts"])
def test_two_processes_and_parts_give_the_result_of_one(pictures, tmp_path, how):
    """20 steps of one process in one part, with everything on, and the same in two."""

    def train(seed: int) -> tuple[Path, Path]:
        alone = go(pictures, tmp_path / f"alone{seed}", cond=True, seed=seed)
        assert read_snapshot(alone).counters["train"].steps == 20
        two = tmp_path / f"two{seed}"
        if how == "parts":
            return alone, go(pictures, two, cond=True, seed=seed, batch_gpu=4)
        go_together(2, pictures, two, cond=True, seed=seed)
        return alone, two / alone.name

    alone, _ = assert_one_seed_is_close(train)
    p = tensors(alone)["p"]
    assert 0.2 < p < 0.9 and p != 0.6  # p has changed
    assert (tensors(alone)["task.ada.count"] == 0).all() and tensors(alone)["task.path_length"] > 0
    start = tiny_generator(0, c_dim=2, resolution=16, channel_base=128, channel_max=16).state_dict()
    moved = [(tensors(alone)[f"G.{k}"] - v).abs().max() for k, v in start.items() if "weight" in k]
    assert min(moved) > 1e-3  # the networks have changed, so the comparison can fail


def test_uneven_shares(pictures, tmp_path):
    """Three groups of four for two processes: one and two."""

    def train(seed: int) -> tuple[Path, Path]:
        options = dict(batch=12, kimg=0.06, seed=seed)
        one = go(pictures, tmp_path / f"one{seed}", **options)
        go_together(2, pictures, tmp_path / f"two{seed}", **options)
        return one, tmp_path / f"two{seed}" / one.name

    assert_one_seed_is_close(train)


def test_a_dead_process_ends_all_with_a_sentence(pictures, tmp_path):
    done = SERVER.Value("q", 0)
    processes, last_words = start_together(2, pictures, tmp_path / "run", kimg=1000, done=done)
    while done.value < 16:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.01)
    processes[1].kill()
    rank, sentence = last_words.get(timeout=120)
    processes[0].join()
    assert (
        rank == 0 and sentence.startswith("Another process of this training has ended") and "--resume auto" in sentence
    )


def test_a_process_that_cannot_read_a_picture_ends_all(pictures, tmp_path):
    (pictures / "07.png").write_text("not a picture")
    processes, last_words = start_together(2, pictures, tmp_path / "run", kimg=1000)
    messages = dict(last_words.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert sorted("07.png" in sentence for sentence in messages.values()) == [False, True]
    assert sorted("Another process" in sentence for sentence in messages.values()) == [False, True]


def test_processes_that_cannot_connect(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ToonError, match="use torchrun"), join_processes(torch.device("cpu")):
        pass


@pytest.mark.parametrize(
    ("batch", "size", "sentence"), [(6, 1, "multiple of 4"), (4, 2, "give 8 or more"), (8, 3, "give 12 or more")]
)
def test_batches_that_cannot_be_shared_out(batch, size, sentence):
    with pytest.raises(ToonError, match=sentence):
        StyleGAN2Task(
            tiny_generator(), tiny_discriminator(), range(9), TrainConfig(batch=batch), group=ProcessGroup(0, size)
        )


def test_one_process_exchanges_nothing(monkeypatch):
    monkeypatch.setattr(distributed, "dist", None)
    value = torch.ones(2)
    ProcessGroup().sum(value)
    ProcessGroup().broadcast([value])
    assert value.tolist() == [1, 1] and ProcessGroup().minimum(3, value.device) == 3
    assert ProcessGroup().any(True, value.device) and not ProcessGroup().any(False, value.device)
    with contextlib.suppress(KeyError), join_processes(torch.device("cpu")) as (alone, device):
        assert alone == ProcessGroup() and device.type == "cpu"

"""How much of a batch fits into memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from trainings import assert_close, go, picture_set, read_snapshot

from stylegan_toon import memory
from stylegan_toon.memory import free_memory, most_that_fits, saved_bytes

CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path) -> Path:
    return picture_set(tmp_path / "set")


def test_saved_bytes_counts_each_storage_once():
    x, w = torch.randn(100, 10, requires_grad=True), torch.randn(10, 7, requires_grad=True)
    assert saved_bytes(lambda: (x @ w).sum()) == (1000 + 70) * 4
    assert saved_bytes(lambda: (x * x).sum()) == 1000 * 4
    assert saved_bytes(lambda: x.relu().relu().sum()) == 2 * 1000 * 4


@pytest.mark.parametrize(("free", "wanted"), [(1 << 30, 64), (3_000_000, 36), (1, 4)])
def test_batch_that_fits_on_a_cpu(monkeypatch, free, wanted):
    """10,000 floats a sample and 1,000 in all, in units of 4: 40,000 n + 4,000 bytes, half as much on top."""
    shared = torch.randn(1000, requires_grad=True)

    def compute(n: int) -> torch.Tensor:
        x = torch.randn(n, 10_000, requires_grad=True)
        return (x * x).sum() + (shared * shared).sum()

    monkeypatch.setattr(memory, "free_memory", lambda: free)
    assert most_that_fits(compute, 64, 4, CPU) == wanted
    assert most_that_fits(compute, 4, 4, CPU) == 4


def test_processes_share_the_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 3_000_000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    x = nn.Parameter(torch.randn(64, 10_000))
    assert most_that_fits(lambda n: x[:n].clone().square().sum(), 64, 1, CPU) < 36 / 2


def test_on_cuda_the_batch_is_found_by_trying(monkeypatch):
    tried = []

    def compute(n: int) -> torch.Tensor:
        tried.append(n)
        if n > 11:
            raise torch.OutOfMemoryError
        return torch.zeros([], requires_grad=True) * n

    assert most_that_fits(compute, 48, 4, torch.device("cuda")) == 4 and tried == [48, 24, 12]
    assert most_that_fits(compute, 40, 5, torch.device("cuda")) == 10
    assert most_that_fits(compute, 8, 4, torch.device("cuda")) == 8


def test_free_memory_is_plausible():
    assert 1 << 20 < free_memory() < 1 << 44


def test_auto_does_not_change_training_and_is_kept_on_resume(pictures, tmp_path, monkeypatch):
    """The part that is chosen by memory does not change the result; resuming keeps it, so resuming is exact."""
    whole = go(pictures, tmp_path / "whole", kimg=0.032)
    monkeypatch.setattr(memory, "free_memory", lambda: 1)
    auto = go(pictures, tmp_path / "auto", kimg=0.032, batch_gpu="auto")
    assert read_snapshot(auto).state.batch_gpu == 4
    assert_close(whole, auto)
    monkeypatch.undo()
    assert read_snapshot(go(pictures, tmp_path / "auto", "auto", kimg=0.04, batch_gpu="auto")).state.batch_gpu == 4

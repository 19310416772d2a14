"""Fixtures shared by all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from tiny import tiny_discriminator, tiny_generator

from stylegan_toon.nn import Discriminator, Generator
from stylegan_toon.weights import save_networks

# A shell's background job is started deaf to Ctrl-C, which several tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tiny_G() -> Generator:
    return tiny_generator(0)


@pytest.fixture
def tiny_toon() -> Generator:
    return tiny_generator(1)


@pytest.fixture
def tiny_D() -> Discriminator:
    return tiny_discriminator(0)


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_G: Generator, tiny_D: Discriminator) -> Path:
    """A file with ``G_ema`` and ``D``."""
    path = tmp_path / "tiny.safetensors"
    save_networks(path, {"G_ema": tiny_G, "D": tiny_D})
    return path


@pytest.fixture
def toon_checkpoint(tmp_path: Path, tiny_toon: Generator) -> Path:
    path = tmp_path / "toon.safetensors"
    save_networks(path, {"G_ema": tiny_toon})
    return path


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device is visible"))])  # fmt: skip
def device(request) -> torch.device:
    return torch.device(request.param)

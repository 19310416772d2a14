"""Fixtures shared by all tests: networks small enough to run in milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from stylegan_toon.nn import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from stylegan_toon.weights import save_networks

TINY = dict(resolution=32, channel_base=512, channel_max=32)


def tiny_generator(seed: int = 0, **changes) -> Generator:
    """A generator whose every tensor, noise strengths and biases included, is random and depends on ``seed``."""
    config = GeneratorConfig(**{**TINY, "z_dim": 32, "w_dim": 32, "mapping_layers": 2, **changes})
    return _randomised(Generator, config, seed)


def tiny_discriminator(seed: int = 0, **changes) -> Discriminator:
    return _randomised(Discriminator, DiscriminatorConfig(**{**TINY, **changes}), seed)


def _randomised(cls: type[nn.Module], config, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = cls(config).eval()
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.add_(torch.randn(tensor.shape), alpha=0.1)
    return network


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

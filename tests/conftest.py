"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image, ImageDraw, ImageFilter
from tiny import tiny_discriminator, tiny_generator

from stylegan_toon.models import Discriminator, Generator
from stylegan_toon.weights import save_networks

# The projects are no part of the installed package. Appended last, so that the installed package is tested.
sys.path.append(str(Path(__file__).parents[1]))

# A shell starts background jobs with Ctrl-C ignored, and several tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts a time; on a busy machine hypothesis' deadline would fail at random.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# The files that take longest, longest first. Several processes (pytest -n) begin with these, so that no process runs
# one alone at the end.
LONG = (
    "ops/test_nvcc.py",
    "projects/test_cyclegan.py",
    "training/test_resume.py",
    "training/test_processes.py",
    "commands/test_toonify.py",
    "test_install.py",
    "projects/test_animegan.py",
    "ops/test_cuda_on_cpu.py",
    "projects/test_xgan.py",
    "commands/test_finetoon.py",
    "models/test_accelerate.py",
    "training/test_train.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Where several processes test at a time (pytest -n), each takes one thread, as do the processes it starts."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
    if hasattr(config.option, "loadscopereorder"):  # by the number of tests, which says little about the time
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files; the order is otherwise as it was."""
    rank = {Path(__file__).parent / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path, len(LONG)))


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


@pytest.fixture(scope="session")
def face_landmarks() -> np.ndarray:
    """Eyes, nose and mouth corners of `face_picture`, where the FFHQ alignment puts them."""
    return np.array([[96, 120], [160, 120], [128, 168], [104, 188], [152, 188]], np.float64)


def paint_face(
    skin: tuple[int, int, int] = (224, 178, 150), hair: tuple[int, int, int] = (58, 40, 32), sunglasses: bool = False
) -> Image.Image:
    """An FFHQ-aligned face of 256 px, shaded enough for the detector to find it."""
    big = Image.new("RGB", (1024, 1024), (108, 128, 150))
    draw = ImageDraw.Draw(big)
    draw.ellipse((130, 850, 894, 1500), fill=(60, 70, 110))  # shoulders
    draw.rounded_rectangle((400, 760, 624, 980), 60, fill=tuple(round(0.86 * c) for c in skin))  # neck
    draw.ellipse((190, 60, 834, 760), fill=hair)
    draw.ellipse((232, 150, 792, 930), fill=skin)
    draw.chord((232, 130, 792, 560), 180, 360, fill=hair)
    draw.ellipse((262, 250, 762, 560), fill=skin)
    big = big.filter(ImageFilter.GaussianBlur(10))
    shade = Image.new("L", big.size, 0)
    draw = ImageDraw.Draw(shade)
    for x in (384, 640):
        draw.ellipse((x - 88, 420, x + 88, 530), fill=110)
    draw.polygon([(512, 470), (452, 680), (572, 680)], fill=70)
    draw.ellipse((440, 640, 584, 700), fill=90)
    draw.ellipse((400, 820, 624, 880), fill=80)
    big.paste(tuple(round(0.5 * c) for c in skin), (0, 0), shade.filter(ImageFilter.GaussianBlur(16)))
    draw = ImageDraw.Draw(big)
    for x in (384, 640):
        draw.line([(x - 80, 408), (x, 384), (x + 80, 408)], fill=(64, 44, 36), width=24, joint="curve")
        draw.ellipse((x - 62, 450, x + 62, 510), fill=(240, 236, 232))
        draw.ellipse((x - 30, 450, x + 30, 510), fill=(70, 48, 36))
        draw.ellipse((x - 12, 468, x + 12, 492), fill=(12, 10, 10))
        draw.arc((x - 70, 440, x + 70, 530), 190, 350, fill=(40, 26, 22), width=14)
        nostril = 512 + (x - 512) // 3
        draw.ellipse((nostril - 18, 666, nostril + 18, 690), fill=tuple(round(0.4 * c) for c in skin))
    draw.ellipse((416, 716, 608, 800), fill=(186, 92, 88))
    draw.line([(416, 752), (512, 764), (608, 752)], fill=(110, 44, 44), width=12)
    if sunglasses:
        for x in (384, 640):
            draw.rounded_rectangle((x - 108, 420, x + 108, 570), 50, fill=(16, 16, 18))
        draw.line([(384, 450), (640, 450)], fill=(16, 16, 18), width=18)
    return big.filter(ImageFilter.GaussianBlur(5)).resize((256, 256), Image.Resampling.LANCZOS)


@pytest.fixture(scope="session")
def face_picture() -> Image.Image:
    return paint_face()


@pytest.fixture(scope="session", name="paint_face")
def face_painter() -> Callable[..., Image.Image]:
    """`paint_face`, for tests that want another skin or sunglasses."""
    return paint_face

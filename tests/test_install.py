"""What setup.py builds without a CUDA compiler, and without any compiler. Runs in a copy of the checkout."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path) -> Path:
    copy = tmp_path / "checkout"
    copy.mkdir()
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.safetensors")
    for folder in ("csrc", "stylegan_toon", "pretrained"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    return copy


def build(checkout: Path, path: str, **environment: str) -> subprocess.CompletedProcess:
    """``setup.py bdist_wheel`` with this PATH and without the caller's compilers."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("CXX", "CUDA_PATH", "STYLEGAN_TOON_CUDA")}
    environment = {**inherited, "PATH": path, "CUDA_HOME": str(checkout / "none"), **environment}
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


def wheel(checkout: Path) -> tuple[str, list[str]]:
    """Name of the one wheel that was built, and what is in it."""
    (path,) = (checkout / "dist").iterdir()
    with zipfile.ZipFile(path) as archive:
        return path.name, archive.namelist()


def without(program: str) -> str:
    """PATH less the folders that hold a program."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not Path(folder, program).exists())


@pytest.mark.parametrize("environment", [{}, {"CXX": "/nonexistent"}], ids=["nothing", "CXX"])
def test_without_a_compiler(checkout, environment):
    done = build(checkout, str(checkout / "none"), **environment)
    assert done.returncode == 0, done.stderr
    messages = [line for line in done.stdout.splitlines() if line.startswith("stylegan_toon:")]
    assert len(messages) == 1 and "no C++ compiler works" in messages[0] and "PyTorch" in messages[0]
    name, files = wheel(checkout)
    assert name.endswith("-py3-none-any.whl")
    assert {"stylegan_toon/ops/library.py", "stylegan_toon/py.typed"} <= set(files)
    assert not any(file.endswith(".so") for file in files)
    shipped = [path for path in (checkout / "pretrained").rglob("*") if path.is_file()]
    assert {f"stylegan_toon/{path.relative_to(checkout).as_posix()}" for path in shipped} <= set(files)


def test_without_nvcc(checkout):
    if not any(shutil.which(name, path=without("nvcc")) for name in ("g++", "clang++", "c++")):
        pytest.skip("there is no C++ compiler apart from nvcc's folder")
    setup = checkout / "setup.py"
    setup.write_text(setup.read_text().replace('"-O3"', '"-O0"'))  # what is built, not how fast it is
    done = build(checkout, without("nvcc"))
    assert done.returncode == 0, done.stderr
    assert "no CUDA kernels (nvcc was not found)" in done.stdout
    name, files = wheel(checkout)
    assert "-py3-none-" in name and not name.endswith("-any.whl")  # bound to the platform, not to this Python
    assert "stylegan_toon/_kernels.so" in files
    import torch  # noqa: F401  (brings the OpenMP symbols)

    library = ctypes.CDLL(str(checkout / "build" / "kernels" / "_kernels.so"))
    library.toon_build.restype = ctypes.c_char_p
    assert b"CUDA" not in library.toon_build() and not hasattr(library, "toon_cuda_check")


@pytest.mark.parametrize(("value", "sentence"), [("1", "STYLEGAN_TOON_CUDA=1, but"), ("yes", "unset it")])
def test_cuda_demanded(checkout, value, sentence):
    done = build(checkout, without("nvcc"), STYLEGAN_TOON_CUDA=value)
    assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (checkout / "dist").exists()


def program(folder: Path, name: str, output: str) -> None:
    """A program that prints ``output``, or fails where that is empty."""
    (folder / name).write_text(f"#!/bin/sh\nprintf '{output}'\n{'' if output else 'exit 1'}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("here", "every", "flags"),
    [
        ("8.9\\n7.5\\n8.9\\n", False, ["compute_75,code=sm_75", "compute_89,code=sm_89", "compute_89,code=compute_89"]),
        (
            "",
            False,
            ["compute_75,code=sm_75", "compute_80,code=sm_80", "compute_90,code=sm_90", "compute_90,code=compute_90"],
        ),
        ("", True, ["all-major"]),
        ("99.0\\n", False, ["all-major"]),
    ],
    ids=["its GPUs", "usual", "every", "unknown"],
)
def test_architectures(tmp_path, here, every, flags):
    known = "".join(f"compute_{number}\\n" for number in (75, 80, 86, 89, 90, 100))
    program(tmp_path, "nvcc", known)
    program(tmp_path, "nvidia-smi", here)
    code = (
        "import runpy, setuptools, sys; setuptools.setup = lambda **_: None\n"
        f"print(*runpy.run_path('setup.py')['architecture_flags']('nvcc', {every}))"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "STYLEGAN_TOON_CUDA": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert [flag.split("arch=")[1] for flag in done.stdout.split() if "arch=" in flag] == flags, done.stderr

"""Where the compiled library is searched, which files are refused, and the ops without it, with one warning."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stylegan_toon.ops import library, structs

USE = """
import torch, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from stylegan_toon import ops
    for _ in range(2):
        x = torch.randn(1, 2, 4, 4, requires_grad=True)
        y = ops.bias_act(ops.upfirdn2d(x, ops.setup_filter([1, 3, 3, 1]), padding=1), torch.ones(2), act="lrelu")
        y.sum().backward()
        assert x.grad.abs().sum() > 0
print(len([w for w in caught if "stylegan_toon" in str(w.message)]))
print(*[w.message for w in caught], sep="\\n")
print(ops.status())
"""


def use(**environment: str) -> list[str]:
    """Lines printed by a process that uses both ops: how many warnings, which, status()."""
    root = str(Path(library.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", USE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_switched_off_gives_no_warning():
    lines = use(**{library.VARIABLE: "none"})
    assert lines[0] == "0"
    assert f"cpu      reference: switched off by {library.VARIABLE}=none" in lines


def test_missing_library_warns_once(tmp_path):
    lines = use(**{library.VARIABLE: str(tmp_path / "none.so")})
    assert lines[0] == "1" and "there is no compiled library" in lines[1]


@pytest.fixture
def judge(monkeypatch):
    """Judges a library file afresh, and leaves the one in use alone."""

    def kernels(path: Path) -> library._Kernels:
        monkeypatch.setenv(library.VARIABLE, str(path))
        return library._kernels.__wrapped__()

    return kernels


def test_files_that_are_no_library(tmp_path, judge):
    path = tmp_path / "text.so"
    path.write_text("not a library")
    assert judge(path).handle is None and "does not load" in judge(path).reason


def test_another_abi_version_is_refused(judge, monkeypatch):
    if not library.available("cpu"):
        pytest.skip(f"compiled kernels: {library.why_not('cpu')}")
    path = Path(library._kernels().path)
    assert judge(path).handle is not None
    monkeypatch.setattr(library, "ABI_VERSION", library.ABI_VERSION + 1)
    assert judge(path).handle is None and "reinstall" in judge(path).reason


def test_a_struct_of_another_size_is_refused(judge, monkeypatch):
    if not library.available("cpu"):
        pytest.skip(f"compiled kernels: {library.why_not('cpu')}")

    class Haar(structs.Parameters):
        _fields_ = (*structs.Haar._fields_, ("more", ctypes.c_int64))

    path = Path(str(library._kernels().path))
    monkeypatch.setattr(structs, "ALL", (*structs.ALL, Haar))
    assert judge(path).handle is None and "ToonHaar" in judge(path).reason


def test_search_order(tmp_path, monkeypatch):
    package = tmp_path / "stylegan_toon"
    monkeypatch.setattr(library, "__file__", str(package / "ops" / "library.py"))
    beside, built = package / "_kernels.so", tmp_path / "build" / "kernels" / "_kernels.so"
    for folder in (package, built.parent):
        folder.mkdir(parents=True)
    assert library._find() == beside
    built.touch()
    assert library._find() == beside  # not a checkout: ignored
    (tmp_path / "setup.py").touch()
    assert library._find() == built
    beside.touch()
    assert library._find() == beside

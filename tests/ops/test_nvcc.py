"""What nvcc reports of the CUDA kernels, on the oldest architecture it knows and on Hopper."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"


@pytest.mark.skipif(not shutil.which("nvcc") or not CSRC.is_dir(), reason="needs nvcc and the sources in csrc")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
@pytest.mark.parametrize("kernel", ["bias_act", "upfirdn2d"])
def test_no_kernel_spills(kernel, architecture, tmp_path):
    """64 registers suffice for every kernel, so that an SM holds 1024 threads; nothing goes to local memory."""
    flags = ["-O3", "-std=c++17", f"-arch={architecture}", "-cubin", "-DTOON_ISA=cuda", "-Xptxas=-v"]
    command = ["nvcc", *flags, str(CSRC / f"{kernel}.cu"), "-o", str(tmp_path / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", done.stderr)]
    assert len(memory) == len(registers) == {"bias_act": 4 * 3 * 2, "upfirdn2d": 4 * 5}[kernel]
    assert set(memory) == {("0", "0", "0")}
    assert max(registers) <= 64

"""What nvcc reports of the CUDA kernels, on the oldest architecture it knows and on Hopper."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"


# How many kernels a source has (by dtype, width, ...), and the registers that they stay within.
KERNELS = {"bias_act": (3 * (3 * 2 + 1), 64), "upfirdn2d": (3 * 3 * 2 + 4 * 2, 112), "epilogue": (3 * 2 + 4 * 4, 112),
           "epilogue_grad": (4 * 4, 96), "haar": (4 * 2, 64)}  # fmt: skip


@pytest.mark.skipif(not shutil.which("nvcc") or not CSRC.is_dir(), reason="needs nvcc and the sources in csrc")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
@pytest.mark.parametrize("source", KERNELS)
def test_no_kernel_spills(source, architecture, tmp_path):
    """Nothing goes to local memory, and an SM holds 512 threads of every kernel, 1024 of most."""
    flags = ["-O3", "-std=c++17", f"-arch={architecture}", "-cubin", "-DTOON_ISA=cuda", "-Xptxas=-v"]
    command = ["nvcc", *flags, str(CSRC / f"{source}.cu"), "-o", str(tmp_path / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", done.stderr)]
    count, most = KERNELS[source]
    assert len(memory) == len(registers) == count
    assert set(memory) == {("0", "0", "0")}
    assert max(registers) <= most

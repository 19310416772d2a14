"""The CPU kernels run in torch's own OpenMP threads, and in as many of them as torch.set_num_threads says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stylegan_toon.ops import library

COUNT = """
import os, torch
from stylegan_toon import ops
def pools():
    names = ("libgomp", "libomp", "libiomp")
    return {line.split()[-1] for line in open("/proc/self/maps") if any(name in line for name in names)}
def threads():
    return len(os.listdir("/proc/self/task"))
x = torch.randn(4, 64, 64, 64)
f = ops.setup_filter([1, 3, 3, 1])
before = pools()
counts = []
for size in (1, 3):
    torch.set_num_threads(size)
    counts.append(threads())  # some versions of torch start other threads in there
    ops.bias_act(x, act="relu"), ops.upfirdn2d(x, f)
    counts.append(threads())
torch.relu(x)
print(len(before), len(pools() - before), counts[1] - counts[0], counts[3] - counts[2], threads() - counts[3])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_thread_pool_of_the_size_set_in_torch():
    if not library.available("cpu"):
        pytest.skip(f"compiled kernels: {library.why_not('cpu')}")
    environment = {**os.environ, "PYTHONPATH": str(Path(library.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pools, more_pools, of_one, of_three, more_threads = map(int, done.stdout.split())
    assert (pools, more_pools) == (1, 0)
    assert of_one == 0  # one thread: the caller
    assert of_three == 2  # two that we woke ...
    assert more_threads == 0  # ... and that torch goes on with

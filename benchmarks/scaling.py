"""Speed and memory of training, measured, and estimates for many GPUs: the tables of docs/scaling.md.

    python benchmarks/scaling.py

Measured here: pictures a second and peak memory against batch, resolution and processes (steps as in `training.py`,
small networks, one thread a process), and how many pictures a second one process reads. Computed: bytes exchanged by a
step, and from them, published step times and stated bandwidths, the speed of 8, 64 and 512 GPUs.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import describe, resident
from training import Job, ours, rate, write_pictures

from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.shards import write_shards
from stylegan_toon.models import Discriminator, Generator, preset
from stylegan_toon.training.batches import BatchRows, batches

# stylegan2-ada-pytorch's README: seconds a thousand pictures, `auto` on one V100 (the middle of its range).
PUBLISHED = {128: 13.25, 256: 22.9, 512: 73.7, 1024: 158.0}
BANDWIDTHS = {"150 GB/s (NVLink)": 150e9, "25 GB/s (InfiniBand)": 25e9, "1.6 GB/s (100 Gbit/s for 8)": 12.5e9 / 8}
COUNTS = (8, 64, 512)


# ------------------------------------------------------------ measured


def measure(job: Job, processes: int) -> tuple[float, int]:
    """Pictures a second and peak MiB of one process, of a training in processes of its own."""
    start = [sys.executable] + ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] * (processes > 1)
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    command = [*start, __file__, "--one", json.dumps(asdict(job))]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    pictures, mib = json.loads(output.splitlines()[-1])
    return pictures, mib


def one(job: Job) -> None:
    """Measure as a process of `measure`; the first one prints."""
    torch.set_num_threads(job.threads)
    times, numbers = defaultdict(list), iter(job.numbers)

    @contextmanager
    def turn() -> Iterator[None]:
        number, start = next(numbers), time.perf_counter()
        yield
        times[number].append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder:
        ours(job, write_pictures(Path(folder) / "pictures.zip", job.resolution), turn)
    times[16].pop(0)  # warm-up
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps([rate(job, times), resident("VmHWM")]))


def reading(resolution: int, suffix: str, shards: bool, seconds: float = 2.0) -> float:
    """Pictures a second that one process reads and decodes."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(32):
        small = Image.fromarray(rng.integers(0, 256, (resolution // 4, resolution // 4, 3), np.uint8))
        data = io.BytesIO()
        small.resize((resolution, resolution), Image.Resampling.BICUBIC).save(data, suffix)
        samples.append((f"{number:08d}.{suffix}", data.getvalue(), None))
    with tempfile.TemporaryDirectory() as folder:
        if shards:
            write_shards(Path(folder), samples, 16)
        for name, data, _ in [] if shards else samples:
            (Path(folder) / name).write_bytes(data)
        pictures = ImageDataset(folder)
        feed = batches(BatchRows(pictures, 8, range(8), 0, 0), device=torch.device("cpu"), workers=0, channels=3)
        next(feed)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            count += len(next(feed)[0])
        return count / (time.perf_counter() - start)


# ------------------------------------------------------------ computed


def exchanged(resolution: int) -> float:
    """Bytes of gradients that a process exchanges in a step: the mean over a cycle, configuration `auto`."""
    row = preset("auto", resolution)
    with torch.device("meta"):
        networks = Generator(row.generator(resolution)), Discriminator(row.discriminator(resolution))
    g, d = (4 * sum(parameter.numel() for parameter in network.parameters()) for network in networks)
    return g * (1 + 1 / 4) + d * (1 + 1 / 16)


def speed(resolution: int, gpus: int, bandwidth: float) -> tuple[float, float]:
    """Pictures a second of ``gpus``, each with the batch of one, and the share of a step that is exchange.

    A ring sends and receives 2 (n - 1) / n of the bytes; here the exchange follows the backward pass, unhidden.
    """
    batch = preset("auto", resolution).batch
    computing = PUBLISHED[resolution] * batch / 1000
    sending = exchanged(resolution) * 2 * (gpus - 1) / gpus / bandwidth
    return gpus * batch / (computing + sending), sending / (computing + sending)


# ------------------------------------------------------------ tables


def table(*columns: str) -> None:
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)


def measured() -> None:
    print(describe())
    table("training, measured", "processes x threads", "img/s", "peak MiB of one")
    plans = [(64, batch, 1, 1) for batch in (4, 8, 16, 32)]
    plans += [(32, 8, 1, 1), (128, 8, 1, 1), (64, 8, 1, 2), (64, 8, 2, 1)]
    for resolution, batch, processes, threads in plans:
        job = Job(batch, resolution, channel_base=4096, channel_max=128, threads=threads, rounds=1)
        pictures, mib = measure(job, processes)
        print(f"| {resolution} px, batch {batch} | {processes} x {threads} | {pictures:.1f} | {mib} |", flush=True)
    table("reading, measured", "folder img/s", "tar shards img/s")
    for resolution, suffix in itertools.product((256, 1024), ("png", "jpeg")):
        rates = [reading(resolution, suffix, shards) for shards in (False, True)]
        print(f"| {resolution} px {suffix} | {rates[0]:.0f} | {rates[1]:.0f} |", flush=True)


def computed() -> None:
    table("configuration `auto`", "batch a GPU", "s/kimg of a V100 (published)", "s a step", "MiB exchanged a step")
    for resolution, seconds in PUBLISHED.items():
        batch = preset("auto", resolution).batch
        mib = exchanged(resolution) / 2**20
        print(f"| {resolution} px | {batch} | {seconds} | {seconds * batch / 1000:.3f} | {mib:.0f} |")
    table("img/s (share of a step that is exchange), computed", *(f"{count} GPUs" for count in COUNTS))
    for resolution, (name, bandwidth) in itertools.product((256, 1024), BANDWIDTHS.items()):
        cells = (speed(resolution, count, bandwidth) for count in COUNTS)
        print(f"| {resolution} px, {name} | " + " | ".join(f"{img:.0f} ({part:.0%})" for img, part in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--computed", action="store_true", help="only the computed tables")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(Job(**json.loads(args.one)))
    if not args.computed:
        measured()
    return computed()


if __name__ == "__main__":
    main()

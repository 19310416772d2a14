"""Pictures a second of training, compared with the published implementation.

    python benchmarks/training.py --peer PATH_OF_STYLEGAN2_ADA_PYTORCH

Whole steps as configuration `auto` has them: G and D, path length in every fourth step, R1 in every sixteenth, ADA's
pipe bgc at p, moving average, optimisers, pictures read from a zip. Each kind of step is timed a few times (median);
a cycle of 16 has 12 plain ones, 3 with path length, 1 with both. Each side is a separate process with its own
memory settings; they alternate step by step, so both see the same load. Ours is `train` itself. The published loop
requires CUDA, so its steps are assembled here from its own parts (loss, networks, pipe, data set), with the second
derivative of its sampler, which it has for old versions of torch only.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import describe, peer_module, resident

from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.distributed import join_processes
from stylegan_toon.memory import keep_pages
from stylegan_toon.models import Discriminator, Generator, preset
from stylegan_toon.training.config import TrainConfig
from stylegan_toon.training.loop import Trainer
from stylegan_toon.training.stylegan2 import StyleGAN2Task

KINDS = {1: 12, 4: 3, 16: 1}  # number of a step that is plain, has path length, has R1 too -> how many in a cycle


@dataclass(frozen=True)
class Job:
    """The work of both sides."""

    batch: int
    resolution: int = 128
    channel_base: int = 8192
    channel_max: int = 256
    p: float = 0.3
    dtype: str = "float32"
    threads: int = 2
    rounds: int = 2

    @property
    def numbers(self) -> list[int]:
        """Numbers of the steps; the first is a warm-up."""
        return [16] + [number for _ in range(self.rounds) for number in (1, *KINDS)]


def write_pictures(path: Path, resolution: int, count: int = 64) -> Path:
    """A zip of smooth random PNG files, in NVIDIA's layout."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(count):
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            with archive.open(f"00000/img{number:08d}.png", "w") as file:
                small.resize((resolution, resolution), Image.Resampling.BICUBIC).save(file, "PNG")
    return path


def ours(job: Job, data: Path, turn: Callable[[], contextlib.AbstractContextManager]) -> None:
    """Train the steps of the job, each within ``turn()``."""
    numbers = iter(job.numbers)

    class Timed(Trainer):
        def step(self, phase: str, batches: Iterator[Any]) -> None:
            self.task.counters[phase].steps = next(numbers)
            with turn():
                super().step(phase, batches)

    keep_pages()
    row = preset("auto", job.resolution)
    sizes = dict(channel_base=job.channel_base, channel_max=job.channel_max, num_fp16_res=0, conv_clamp=None)
    G = Generator(replace(row.generator(job.resolution), **sizes))
    D = Discriminator(replace(row.discriminator(job.resolution), **sizes))
    config = TrainConfig(
        kimg=len(job.numbers) * job.batch / 1000, batch=job.batch, dtype=job.dtype, lr=row.lr, p=job.p, workers=0,
        gamma=0.0002 * job.resolution**2 / job.batch, ema_kimg=job.batch * 10 / 32, ema_rampup=row.ema_rampup,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, join_processes(torch.device("cpu")) as (group, _):
        Timed(StyleGAN2Task(G, D, ImageDataset(data), config, group=group), Path(folder), quiet=True).run()


def theirs(checkout: Path, job: Job, data: Path, turn: Callable[[], contextlib.AbstractContextManager]) -> None:
    """The same steps with the parts of a checkout of stylegan2-ada-pytorch."""
    networks, losses, augment, dataset = (
        peer_module(checkout, f"training.{name}") for name in ("networks", "loss", "augment", "dataset")
    )
    sampler: Any = peer_module(checkout, "torch_utils.ops.grid_sample_gradfix")

    def gradient(ctx, *args: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.save_for_backward(args[2])
        return torch.ops.aten.grid_sampler_2d_backward(*args, 0, 0, False, [True, False])

    sampler._should_use_custom_op = lambda: True
    sampler._GridSample2dBackward.forward = staticmethod(gradient)

    sizes = dict(channel_base=job.channel_base, channel_max=job.channel_max)
    G = networks.Generator(
        512, 0, 512, job.resolution, 3, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=sizes
    ).train()
    D = networks.Discriminator(0, job.resolution, 3, epilogue_kwargs={"mbstd_group_size": 4}, **sizes).train()
    G_ema = networks.Generator(512, 0, 512, job.resolution, 3, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=sizes)
    G_ema.load_state_dict(G.state_dict())
    flags = "xflip rotate90 xint scale rotate aniso xfrac brightness contrast lumaflip hue saturation"
    pipe = augment.AugmentPipe(**dict.fromkeys(flags.split(), 1)).train()
    pipe.p.fill_(job.p)
    gamma = 0.0002 * job.resolution**2 / job.batch
    loss = losses.StyleGAN2Loss("cpu", G.mapping, G.synthesis, D, pipe, r1_gamma=gamma)
    phases = []
    for name, network, interval in (("G", G, 4), ("D", D, 16)):
        ratio = interval / (interval + 1)
        adam = torch.optim.Adam(network.parameters(), lr=0.0025 * ratio, betas=(0.0, 0.99**ratio), eps=1e-8)
        phases += [(f"{name}main", network, adam, 1), (f"{name}reg", network, adam, interval)]
    pictures = dataset.ImageFolderDataset(str(data))
    order = itertools.cycle(torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).tolist())
    feed = iter(torch.utils.data.DataLoader(pictures, sampler=order, batch_size=job.batch))
    for network in (G, D, G_ema):
        network.requires_grad_(False)

    def step(number: int) -> None:
        real = next(feed)[0].float() / 127.5 - 1
        z, c = torch.randn(len(phases), job.batch, 512), torch.zeros(job.batch, 0)
        for latents, (name, network, adam, interval) in zip(z, phases, strict=True):
            if number % interval:
                continue
            adam.zero_grad(set_to_none=True)
            network.requires_grad_(True)
            loss.accumulate_gradients(name, real, c, latents, c, sync=True, gain=interval)
            network.requires_grad_(False)
            for parameter in network.parameters():
                if parameter.grad is not None:
                    torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
            adam.step()
        beta = 0.5 ** (job.batch / max(min(job.batch * 10 / 32 * 1000, number * job.batch * 0.05), 1e-8))
        for mean, new in zip(G_ema.parameters(), G.parameters(), strict=True):
            mean.copy_(new.lerp(mean, beta))
        for mean, new in zip(G_ema.buffers(), G.buffers(), strict=True):
            mean.copy_(new)

    for number in job.numbers:
        with turn():
            step(number)


def worker(checkout: Path | None, job: Job, data: Path, line: Connection) -> None:
    """Run in a separate process: one step for each message, answered with its seconds and the peak in MiB."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)

    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        line.recv()
        start = time.perf_counter()
        yield
        line.send((time.perf_counter() - start, resident("VmHWM")))

    theirs(checkout, job, data, turn) if checkout else ours(job, data, turn)


def alternate(sides: list[tuple[Path | None, Job]], data: Path) -> list[tuple[float, int]]:
    """Pictures a second and peak MiB of each side, taking turns; a side is a checkout (None: ours) and its job."""
    context = multiprocessing.get_context("spawn")
    lines, peaks, times = [], [0] * len(sides), [defaultdict(list) for _ in sides]
    for side in sides:
        here, there = context.Pipe()
        context.Process(target=worker, args=(*side, data, there), daemon=True).start()
        there.close()  # so that the end of the other process raises EOFError
        lines.append(here)
    for count, number in enumerate(sides[0][1].numbers):
        for side, line in enumerate(lines):
            line.send(None)
            seconds, peaks[side] = line.recv()
            print(f"side {side}, step {number}: {seconds:.2f} s", file=sys.stderr)
            if count > 0:
                times[side][number].append(seconds)
    return [(rate(job, mine), peak) for (_, job), mine, peak in zip(sides, times, peaks, strict=True)]


def rate(job: Job, times: dict[int, list[float]]) -> float:
    """Pictures a second over a cycle of 16 steps, from the seconds of steps of each kind."""
    return 16 * job.batch / sum(KINDS[number] * statistics.median(seconds) for number, seconds in times.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of NVlabs/stylegan2-ada-pytorch")
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--channel-base", type=int, default=8192)
    parser.add_argument("--channel-max", type=int, default=256)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], help="of ours; the peer's is float32")
    parser.add_argument("--p", type=float, default=0.3, help="ADA's probability")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(describe())
    print(f"channel_base {args.channel_base}, channel_max {args.channel_max}, p {args.p}\n")
    print("| training | ours img/s | ours MiB |" + (" peer img/s | peer MiB | ratio |" if args.peer else ""))
    print("|---|---|---|" + ("---|---|---|" if args.peer else ""), flush=True)
    for batch in args.batch:
        job = Job(
            batch, args.resolution, args.channel_base, args.channel_max, args.p, threads=args.threads,
            rounds=args.rounds,
        )  # fmt: skip
        sides: list[tuple[Path | None, Job]] = [(None, replace(job, dtype=dtype)) for dtype in args.dtype]
        sides += [(args.peer, job)] * bool(args.peer)
        with tempfile.TemporaryDirectory() as folder:
            results = alternate(sides, write_pictures(Path(folder) / "pictures.zip", args.resolution))
        for dtype, (here, mib) in zip(args.dtype, results, strict=False):
            line = f"| {args.resolution} px, batch {batch}, {dtype} | {here:.2f} | {mib} |"
            for other, more in results[len(args.dtype) :]:
                line += f" {other:.2f} | {more} | {here / other:.2f}x |"
            print(line, flush=True)


if __name__ == "__main__":
    main()

"""The training loop: steps, counters, log, snapshots, resume and the way to stop, the same for every task.

Nothing random is stored. Before each step torch's random numbers are made those of the step's number
(`keyed_random.seed_torch`), and the order of the pictures is a function of the seed (`data.sampling.InfiniteSampler`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.images import save_image
from ..weights import save_networks
from .keyed_random import seed_torch
from .log import Log, Sink, with_warning
from .snapshots import FINAL, Snapshot, restore_task, write_snapshot
from .stop import stop_requests
from .task import Task

TICK = 20.0  # seconds between lines of the log


class Trainer:
    """One training of a task.

    Args:
        task: what is trained.
        folder: gets ``fakes-IMAGES.png``, ``snapshot-IMAGES/`` and, at the end, ``network.safetensors``.
        sinks: where numbers and pictures go.
        provenance: what the networks say about their making, see `weights.descend`; the task adds to it.
        resume: a snapshot to go on from; the task's networks are those of the snapshot.
        quiet: show no progress bar.

    Raises:
        ToonError: the snapshot does not fit the task.
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        *,
        sinks: Sequence[Sink] = (),
        provenance: Mapping[str, Any] | None = None,
        resume: Snapshot | None = None,
        quiet: bool = False,
    ) -> None:
        self.task, self.folder, self.provenance = task, folder, dict(provenance or {})
        if resume is not None:
            restore_task(task, resume)
        for network in task.networks.values():
            task.group.broadcast(network.state_dict().values())
        self.log = Log(sinks, quiet=quiet or task.group.rank > 0)
        self._saved = task.images_seen if resume else None

    def run(self) -> Path:
        """Train to the end; returns the path of ``network.safetensors``.

        Ctrl-C or SIGTERM: the step is finished and a snapshot written, then KeyboardInterrupt is raised.

        Raises:
            ToonError: a picture cannot be read, another process has ended, or the training has diverged.
        """
        task, final = self.task, self.folder / FINAL
        with stop_requests(patient=task.group.size > 1) as stop_requested, contextlib.closing(self.log):
            for phase in task.phases:
                self._run_phase(phase, stop_requested)
            self.snapshot()
        if task.group.rank == 0:
            published = {name: task.networks[name] for name in task.published or task.networks}
            save_networks(final, published, provenance=self._provenance(), overwrite=True)
        return final

    def _run_phase(self, phase: str, stop_requested: Callable[[], bool]) -> None:
        """Steps until the phase has its pictures, with a line in the log and a snapshot now and then."""
        task, counters = self.task, self.task.counters[phase]
        total, every = task.images_wanted(phase), max(int(task.config.snapshot_kimg * 1000), 1)
        if counters.images >= total:
            return
        batches = task.batches(phase)
        self.log.start(phase, total, counters.images)
        ticked, due = time.monotonic(), 0.0
        while counters.images < total:
            before = counters.images
            self.step(phase, batches)
            self.log.advance(task.config.batch)
            now = time.monotonic()
            if now >= due or counters.images >= total:
                task.check(self.log.tick(task.images_seen, **task.status(), seconds=now - ticked))
                ticked, due = now, now + TICK
            if task.group.any(stop_requested(), task.device):
                self.snapshot()
                raise KeyboardInterrupt
            if counters.images // every > before // every and counters.images < total:
                self.snapshot()

    def step(self, phase: str, batches: Iterator[Any]) -> None:
        """One step on the next batch, logged and counted."""
        counters = self.task.counters[phase]
        batch = next(batches)
        seed_torch(self.task.config.seed, counters.steps)
        self.log.report(**self.task.step(phase, batch))
        counters.steps += 1
        counters.images += self.task.config.batch

    def snapshot(self) -> None:
        """Write the whole state and a picture of samples; if the disk refuses, warn and go on training."""
        task, seen = self.task, self.task.images_seen
        if seen == self._saved:
            return
        if metrics := task.measure():
            self.log.metrics(seen, metrics)
        if task.group.rank > 0:
            self._saved = seen
            return
        picture = self.folder / f"fakes-{seen:09d}.png"

        def write() -> None:
            write_snapshot(self.folder, task, self._provenance())
            self._saved = seen
            save_image(task.samples_in_eval_mode(), picture)
            self.log.picture(seen, "fakes", picture)

        with_warning(write)

    def _provenance(self) -> dict[str, Any]:
        return {**self.provenance, **self.task.provenance()}

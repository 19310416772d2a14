"""A training of any networks with any step, as one page: what the projects stand on.

The project brings networks (each of a kind in `weights.KINDS`), an Adam for some of them, and a function that does one
step; `Run` feeds it, counts, shows, and writes snapshots from which the training goes on bit for bit. Nothing random
is stored: before each step torch's random numbers are made those of the step's number (`draws.reseed`), and the order
of the pictures is a function of the seed (`data.sampling.InfiniteSampler`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from ..config import from_values, option
from ..data.datasets import ImageDataset
from ..data.images import save_image
from ..errors import ToonError
from ..weights import save_networks
from .config import LoopConfig
from .draws import reseed
from .feed import Rows, batches
from .log import Log, Sink, with_warning
from .snapshots import FINAL, newest_whole, optimizer_tensors, read_folder, restore_optimizer, write_folder
from .stop import stop_requests

Step = Callable[[dict[str, Tensor]], Mapping[str, Tensor | float]]
C = TypeVar("C", bound="RunConfig")
TICK = 10.0  # seconds between lines of the log


@dataclass(frozen=True)
class RunConfig(LoopConfig):
    """The options of every project."""

    dtype: str = option(
        "float32", "float32, or mixed precision: bfloat16, or float16 with scaled gradients (CUDA).",
        choices=("float32", "bfloat16", "float16"),
    )  # fmt: skip


@dataclass
class Counters:
    """How far a run is: steps, and pictures of each set."""

    steps: int = 0
    images: int = 0


@dataclass
class Saved:
    """A snapshot read back: networks in eval mode on the CPU, the other tensors, counters, and the config of then."""

    path: Path
    networks: dict[str, nn.Module]
    tensors: dict[str, Tensor]
    counters: Counters
    config: RunConfig


def find_run(resume: str, folder: Path, config_class: type[C]) -> Saved | None:
    """What ``--resume`` means for a run in ``folder``, see `snapshots.newest_whole`."""

    def counters(values: dict[str, Any]) -> Counters:
        found = from_values(Counters, values)
        if not (0 <= found.steps < 2**53 and 0 <= found.images < 2**53):
            raise ValueError("the counters are no numbers from 0 up")
        return found

    def read(path: Path) -> Saved:
        return Saved(path, *read_folder(path, counters, lambda values: from_values(config_class, values)))

    return newest_whole(resume, folder, read)


class Run:
    """One training.

    Args:
        folder: gets ``fakes-IMAGES.png``, ``snapshot-IMAGES/`` and, at the end, ``network.safetensors``.
        config: how long, in which precision, and so on.
        networks: all there are, by name, on the device to train on; put into training mode.
        optimizers: an Adam by name; each holds parameters of these networks.
        extras: tensors that change in place while training (a pool of pictures), saved and restored with the rest.
        provenance: what the networks say about their making, see `weights.descend`.
        sinks: who is told numbers and pictures.
        resume: go on from here; ``networks`` are those of the snapshot.

    Attributes:
        counters: how far it is.
        device: that of the networks.

    Raises:
        ToonError: float16 without CUDA; a snapshot that does not fit the optimisers.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Adam],
        *,
        extras: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
        sinks: Sequence[Sink] = (),
        quiet: bool = False,
        resume: Saved | None = None,
    ) -> None:
        self.folder, self.config, self.networks, self.optimizers = folder, config, dict(networks), dict(optimizers)
        self.extras, self.provenance = dict(extras or {}), dict(provenance or {})
        self.device = next(next(iter(networks.values())).parameters()).device
        self.dtype = getattr(torch, config.dtype)
        if self.dtype == torch.float16 and self.device.type != "cuda":
            raise ToonError("--dtype float16 trains on CUDA only: use bfloat16.")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.counters = Counters()
        for network in self.networks.values():
            network.train()
        if resume is not None:
            self._restore(resume)
        self.log = Log(sinks, quiet=quiet)
        self._saved = self.counters.images if resume else None

    # ------------------------------------------------------------ for the step

    def autocast(self) -> torch.autocast:
        """Mixed precision inside this context, if the config asks for it."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def minimise(self, name: str, loss: Tensor) -> None:
        """One step of the optimiser ``name`` down the gradient of ``loss``, scaled if float16."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        self.scaler.update()

    def rate(self, name: str, lr: float) -> None:
        """Set the learning rate of optimiser ``name``: at the start of every step, to a function of ``counters``."""
        for group in self.optimizers[name].param_groups:
            group["lr"] = lr

    # ------------------------------------------------------------ the whole training

    def train(
        self,
        sets: Mapping[str, ImageDataset],
        step: Step,
        paint: Callable[[], Image.Image],
        *,
        publish: Sequence[str] | None = None,
    ) -> Path:
        """Train to the end of ``config.kimg``.

        Args:
            sets: pictures by name, in no relation to each other; each has an order of its own.
            step: gets a batch float32 ``[batch, 3, R, R]`` in [-1, 1] of each set; returns losses to tell.
            paint: a picture that shows how far it is; networks are in eval mode.
            publish: networks that go into the final file, all if None.

        Returns:
            path of the final file.

        Ctrl-C or SIGTERM: the step is finished and a snapshot written, then KeyboardInterrupt is raised.

        Raises:
            ToonError: a picture cannot be read, or a loss is not finite.
        """
        config, counters = self.config, self.counters
        total, every = int(config.kimg * 1000), max(int(config.snapshot_kimg * 1000), 1)
        with stop_requests() as asked, contextlib.closing(self.log):
            feeds = {name: self._feed(data, number) for number, (name, data) in enumerate(sorted(sets.items()))}
            self.log.start("train", total, counters.images)
            ticked, due = time.monotonic(), 0.0
            while counters.images < total:
                before = counters.images
                self.do(step, {name: next(feed) for name, feed in feeds.items()})
                self.log.advance(config.batch)
                now = time.monotonic()
                if now >= due or counters.images >= total:
                    told = self.log.tick(counters.images, seconds=now - ticked)
                    refuse_broken(told)
                    ticked, due = now, now + TICK
                if asked():
                    self.snapshot(paint)
                    raise KeyboardInterrupt
                if counters.images // every > before // every and counters.images < total:
                    self.snapshot(paint)
            self.snapshot(paint)
        final = self.folder / FINAL
        chosen = {name: self.networks[name] for name in publish or self.networks}
        save_networks(final, chosen, provenance=self._history(), overwrite=True)
        return final

    def do(self, step: Step, batch: dict[str, Tensor]) -> None:
        """One step on ``batch``, counted."""
        reseed(self.config.seed, self.counters.steps)
        self.log.report(**step(batch))
        self.counters.steps += 1
        self.counters.images += self.config.batch

    def _feed(self, data: ImageDataset, number: int) -> Iterator[Tensor]:
        batch = self.config.batch
        # Sets of one size must not be read in one order; 2 ** 32 is beyond every seed.
        rows = Rows(data, batch, range(batch), self.config.seed + (number << 32), self.counters.images)
        return (pictures for pictures, _ in batches(rows, device=self.device, workers=self.config.workers, channels=3))

    # ------------------------------------------------------------ to disk and back

    def snapshot(self, paint: Callable[[], Image.Image]) -> None:
        """Write the picture and the whole state; a disk that refuses is told of, and training goes on."""
        if self.counters.images == self._saved:
            return
        picture = self.folder / f"fakes-{self.counters.images:09d}.png"

        def write() -> None:
            write_folder(
                self.folder, self.counters.images, self.networks, self._tensors(), self.counters, self.config,
                provenance=self._history(), keep=self.config.keep,
            )  # fmt: skip
            self._saved = self.counters.images
            save_image(self.painted(paint), picture)
            self.log.picture(self.counters.images, "fakes", picture)

        with_warning(write)

    @torch.no_grad()
    def painted(self, paint: Callable[[], Image.Image]) -> Image.Image:
        """``paint()`` with the networks in eval mode."""
        modes = {name: network.training for name, network in self.networks.items()}
        for network in self.networks.values():
            network.eval()
        try:
            return paint()
        finally:
            for name, network in self.networks.items():
                network.train(modes[name])

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"extra.{name}": tensor for name, tensor in self.extras.items()}
        scaler = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.scaler.state_dict().items()}
        tensors |= {f"scaler.{name}": value for name, value in scaler.items()}
        for name, optimizer in self.optimizers.items():
            for part, network in self.networks.items():
                tensors |= optimizer_tensors(f"{name}.{part}", optimizer, network)
        return tensors

    def _restore(self, saved: Saved) -> None:
        if saved.networks.keys() != self.networks.keys():
            raise ToonError(f"{saved.path} holds {', '.join(saved.networks)}: go on with a run of this project.")
        self.counters = saved.counters
        try:
            for name, tensor in self.extras.items():
                tensor.copy_(saved.tensors[f"extra.{name}"])
        except (KeyError, RuntimeError) as error:
            raise ToonError(f"{saved.path} does not fit these options at {name}: leave them as they were.") from error
        scaler = {name: saved.tensors.get(f"scaler.{name}") for name in self.scaler.state_dict()}
        if scaler and None not in scaler.values():  # the last run may have had another precision
            kinds = self.scaler.state_dict()
            self.scaler.load_state_dict({name: type(kinds[name])(value) for name, value in scaler.items()})
        for name, optimizer in self.optimizers.items():
            mine = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            for part, network in self.networks.items():
                if any(id(parameter) in mine for parameter in network.parameters()):
                    restore_optimizer(f"{name}.{part}", optimizer, network, saved.tensors)

    def _history(self) -> dict[str, Any]:
        return {**self.provenance, "config": asdict(self.config), "images_seen": self.counters.images}


def refuse_broken(told: Mapping[str, float]) -> None:
    """Raise ToonError when a loss is not finite: nothing is learnt any more."""
    for name, value in told.items():
        if not math.isfinite(value):
            raise ToonError(
                f"The loss {name} is {value}, so nothing is learnt any more: go on from an earlier snapshot with a "
                "smaller --lr, or with --dtype float32."
            )

"""The log of a training: a progress bar on the screen, numbers and pictures to files and services."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..errors import ToonError
from ..files import append_line, atomic_path
from ..progress import progress


class Sink(Protocol):
    """Where numbers and pictures go; ``images`` is how many pictures the training has seen."""

    def numbers(self, images: int, values: dict[str, float]) -> None:
        """Write numbers by name."""

    def picture(self, images: int, name: str, path: Path) -> None:
        """Show a picture that has been written to ``path``."""

    def close(self) -> None:
        """Finish writing."""


class JsonLines:
    """``log.jsonl``: one JSON object a line. When a training goes on from ``images``, lines beyond that are removed."""

    def __init__(self, folder: Path, images: int = 0) -> None:
        self._path = folder / "log.jsonl"
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            with atomic_path(self._path) as temporary:
                temporary.write_text("".join(line for line in lines if _kimg(line) <= images / 1000), encoding="utf-8")

    def numbers(self, images: int, values: dict[str, float]) -> None:
        append_line(self._path, json.dumps({"kimg": images / 1000, **{k: round(v, 5) for k, v in values.items()}}))

    def picture(self, images: int, name: str, path: Path) -> None:
        """Does nothing: the picture is a file already."""

    def close(self) -> None:
        """Does nothing: no file is kept open."""


def _kimg(line: str) -> float:
    try:
        return float(json.loads(line)["kimg"])
    except (ValueError, KeyError, TypeError):  # cut short when the process was killed
        return math.inf


class TensorBoard:
    """Event files in ``tensorboard/``. Raises ImportError where the package is missing."""

    def __init__(self, folder: Path, images: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=images + 1 if images else None)

    def numbers(self, images: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, images)

    def picture(self, images: int, name: str, path: Path) -> None:
        self._writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), images, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Weights & Biases; the run goes on under the same name when the training does.

    Raises:
        ToonError: the package is missing.
    """

    def __init__(self, folder: Path, project: str, config: dict[str, Any], images: int = 0) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ToonError("--wandb needs the package wandb: pip install wandb, or leave the option out.") from None
        self._module = wandb
        id_file = folder / "wandb.id"
        name = id_file.read_text(encoding="utf-8").strip() if images and id_file.exists() else None
        self._run = wandb.init(project=project, config=config, dir=str(folder), id=name, resume="allow")
        id_file.write_text(self._run.id, encoding="utf-8")

    def numbers(self, images: int, values: dict[str, float]) -> None:
        self._run.log({"kimg": images / 1000, **values}, step=images)

    def picture(self, images: int, name: str, path: Path) -> None:
        self._run.log({name: self._module.Image(str(path))}, step=images)

    def close(self) -> None:
        self._run.finish()


def open_sinks(
    folder: Path, images: int, *, wandb: str | None = None, config: dict[str, Any] | None = None
) -> list[Sink]:
    """``log.jsonl``, TensorBoard if it is installed, and Weights & Biases if ``wandb`` names a project.

    Args:
        folder: of the training.
        images: pictures the training has seen; 0 for a new one.
        wandb: project of Weights & Biases.
        config: options to show there.
    """
    sinks: list[Sink] = [JsonLines(folder, images)]
    with contextlib.suppress(ImportError):  # an extra; log.jsonl has the same numbers
        sinks.append(TensorBoard(folder, images))
    if wandb:
        sinks.append(WandB(folder, wandb, config or {}, images))
    return sinks


class Log:
    """Averages what is reported and passes it on: ``report`` at every step, ``tick`` now and then.

    Args:
        sinks: where numbers and pictures go. Empty in processes that write nothing.
        quiet: show no bar.
    """

    def __init__(self, sinks: Sequence[Sink] = (), *, quiet: bool = False) -> None:
        self.sinks, self._quiet = list(sinks), quiet
        self._sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._bar: tqdm[Any] | None = None

    def start(self, name: str, total: int, done: int) -> None:
        """A new bar of ``total`` pictures, of which ``done`` are from before."""
        self.close_bar()
        self._bar = progress(total=total, initial=done, desc=name, unit="img", quiet=self._quiet)

    def report(self, **values: float | torch.Tensor) -> None:
        """Add numbers, or the means of tensors. Tensors stay on their device until the tick, so that no step waits."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + (value.detach().mean() if isinstance(value, torch.Tensor) else value)
            self._counts[name] += 1

    def advance(self, images: int) -> None:
        """Move the bar by so many pictures."""
        if self._bar is not None:
            self._bar.update(images)

    def tick(self, images: int, **values: float) -> dict[str, float]:
        """Write the means since the last tick, with ``values``, and return them."""
        means = {name: float(self._sums[name]) / self._counts[name] for name in self._sums}
        self._sums.clear()
        self._counts.clear()
        line = {**means, **values}
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in line.items()}, refresh=False)
        for sink in self.sinks:
            with_warning(lambda sink=sink: sink.numbers(images, line))
        return line

    def metrics(self, images: int, values: dict[str, float]) -> None:
        """Print and write metrics at once."""
        if not self._quiet:
            text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            tqdm.write(f"{images / 1000:g} kimg: {text}", file=sys.stderr)
        for sink in self.sinks:
            with_warning(lambda sink=sink: sink.numbers(images, values))

    def picture(self, images: int, name: str, path: Path) -> None:
        """Pass a picture on that has been written to ``path``."""
        for sink in self.sinks:
            with_warning(lambda sink=sink: sink.picture(images, name, path))

    def close_bar(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()

    def close(self) -> None:
        """End the bar and close all sinks."""
        self.close_bar()
        for sink in self.sinks:
            with_warning(sink.close)


def with_warning(act: Callable[[], object]) -> bool:
    """Call ``act``; if the disk or a service refuses, warn in one sentence instead of ending. True if it succeeded."""
    try:
        act()
    except (ToonError, OSError) as error:
        warnings.warn(f"{str(error).rstrip('.')}; training goes on and will try again.", stacklevel=2)
        return False
    return True

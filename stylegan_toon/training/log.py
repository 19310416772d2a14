"""What a training tells: a progress bar, numbers and pictures to whoever wants them."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..data.images import image_grid, save_image, to_pil
from ..errors import ToonError
from ..files import append_line, atomic_path
from ..models import Generator


class Sink(Protocol):
    """Where numbers and pictures go; ``images`` is how many pictures the training has seen."""

    def numbers(self, images: int, values: dict[str, float]) -> None: ...
    def picture(self, images: int, name: str, path: Path) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """``log.jsonl``: one object a tick. When a training is taken up at ``images``, lines beyond that are dropped."""

    def __init__(self, folder: Path, images: int = 0) -> None:
        self._path = folder / "log.jsonl"
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            with atomic_path(self._path) as temporary:
                temporary.write_text("".join(line for line in lines if _kimg(line) <= images / 1000), encoding="utf-8")

    def numbers(self, images: int, values: dict[str, float]) -> None:
        append_line(self._path, json.dumps({"kimg": images / 1000, **{k: round(v, 5) for k, v in values.items()}}))

    def picture(self, images: int, name: str, path: Path) -> None:
        """The file itself is all there is to keep."""

    def close(self) -> None:
        """Nothing is open."""


def _kimg(line: str) -> float:
    try:
        return float(json.loads(line)["kimg"])
    except (ValueError, KeyError, TypeError):  # a line cut short when the process was killed
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
            import wandb
        except ImportError:
            raise ToonError("--wandb needs the package wandb: pip install wandb, or leave the option out.") from None
        self._module = wandb
        known = folder / "wandb.id"
        name = known.read_text(encoding="utf-8").strip() if images and known.exists() else None
        self._run = wandb.init(project=project, config=config, dir=str(folder), id=name, resume="allow")
        known.write_text(self._run.id, encoding="utf-8")

    def numbers(self, images: int, values: dict[str, float]) -> None:
        self._run.log({"kimg": images / 1000, **values}, step=images)

    def picture(self, images: int, name: str, path: Path) -> None:
        self._run.log({name: self._module.Image(str(path))}, step=images)

    def close(self) -> None:
        self._run.finish()


def sinks(folder: Path, images: int, *, wandb: str | None = None, config: dict[str, Any] | None = None) -> list[Sink]:
    """``log.jsonl``, TensorBoard if it is installed, and Weights & Biases if a project is named."""
    found: list[Sink] = [JsonLines(folder, images)]
    with contextlib.suppress(ImportError):  # an extra; log.jsonl has the same numbers
        found.append(TensorBoard(folder, images))
    if wandb:
        found.append(WandB(folder, wandb, config or {}, images))
    return found


class Log:
    """Averages what is reported and passes it on: ``report`` often, ``tick`` now and then.

    Args:
        sinks: who is told. None in processes that keep silent.
        quiet: no bar.
    """

    def __init__(self, sinks: Sequence[Sink] = (), *, quiet: bool = False) -> None:
        self.sinks, self._quiet = list(sinks), quiet
        self._sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._bar: tqdm | None = None

    def start(self, name: str, total: int, done: int) -> None:
        """A new bar of ``total`` pictures, ``done`` of them from before."""
        self.close_bar()
        self._bar = tqdm(total=total, initial=done, desc=name, unit="img", disable=self._quiet, dynamic_ncols=True)

    def report(self, **values: float | torch.Tensor) -> None:
        """Numbers, or tensors whose mean counts; these stay where they are until the tick, so nothing waits."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + (value.detach().mean() if isinstance(value, torch.Tensor) else value)
            self._counts[name] += 1

    def advance(self, images: int) -> None:
        self._bar.update(images)

    def tick(self, images: int, **values: float) -> dict[str, float]:
        """Tell the means since the last tick, with ``values``, and return them."""
        means = {name: float(self._sums[name]) / self._counts[name] for name in self._sums}
        self._sums.clear()
        self._counts.clear()
        told = {**means, **values}
        self._bar.set_postfix({k: f"{v:.3g}" for k, v in told.items()}, refresh=False)
        for sink in self.sinks:
            with_warning(lambda sink=sink: sink.numbers(images, told))
        return told

    def figures(self, images: int, values: dict[str, float]) -> None:
        """Tell numbers as they are, at once."""
        if not self._quiet:
            text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            tqdm.write(f"{images / 1000:g} kimg: {text}", file=sys.stderr)
        for sink in self.sinks:
            with_warning(lambda sink=sink: sink.numbers(images, values))

    def picture(self, images: int, name: str, path: Path) -> None:
        for sink in self.sinks:
            with_warning(lambda sink=sink: sink.picture(images, name, path))

    def close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def close(self) -> None:
        self.close_bar()
        for sink in self.sinks:
            with_warning(sink.close)


def with_warning(act: Any) -> bool:
    """Do what a training can live without; a disk's refusal is told in one sentence. True if it was done."""
    try:
        act()
    except (ToonError, OSError) as error:
        warnings.warn(f"{str(error).rstrip('.')}; training goes on and will try again.", stacklevel=2)
        return False
    return True


class SampleGrid:
    """The same latents painted again and again, so that progress can be seen; with labels, one column a class."""

    def __init__(self, G: Generator, count: int = 32, seed: int = 0, resolution: int | None = None) -> None:
        self.resolution = resolution
        generator = torch.Generator().manual_seed(seed)
        device = G.mapping.w_avg.device
        self.z = torch.randn(count, G.config.z_dim, generator=generator).to(device)
        self.columns = math.ceil(math.sqrt(2 * count))
        c_dim = G.config.c_dim
        self.c = torch.eye(c_dim, device=device)[torch.arange(count) % self.columns % c_dim] if c_dim else None

    @torch.no_grad()
    def save(self, G: Generator, path: Path, psi: float = 0.7) -> None:
        """Paint the grid at truncation ``psi`` and write it, replacing an older one."""
        labels = [None] * len(self.z) if self.c is None else self.c.split(8)
        batches = (G(z, c, psi=psi, resolution=self.resolution) for z, c in zip(self.z.split(8), labels))
        images = [to_pil(img) for batch in batches for img in batch]
        save_image(image_grid(images, columns=self.columns), path)

"""What the projects share: a task with mixed precision, the training command, loading and converting folders."""

from __future__ import annotations

import contextlib
import functools
import io
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click
import torch
from PIL import Image
from torch import Tensor, nn

from stylegan_toon import cli
from stylegan_toon.config import Config, option, read_toml
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import SUFFIXES, image_grid, read_image, save_image
from stylegan_toon.data.sources import open_source
from stylegan_toon.distributed import process_count
from stylegan_toon.errors import ToonError
from stylegan_toon.files import output_folder, refuse_overwrite
from stylegan_toon.memory import keep_pages
from stylegan_toon.training.batches import BatchRows, batches
from stylegan_toon.training.config import LoopConfig
from stylegan_toon.training.curves import draw_log
from stylegan_toon.training.log import open_sinks
from stylegan_toon.training.loop import Trainer
from stylegan_toon.training.snapshots import Snapshot, find_snapshot, refuse_another, snapshots, start_folder
from stylegan_toon.training.task import Task
from stylegan_toon.weights import load_networks
from stylegan_toon.weights.provenance import descend, provenance_of

SHEET = 8  # pairs on a sheet
N = TypeVar("N", bound=nn.Module)


# ---------------------------------------------------------------- the task


@dataclass(frozen=True)
class ProjectConfig(LoopConfig):
    """The options that every project has; each project adds its own."""

    dtype: str = option(
        "float32", "float32, or mixed precision: bfloat16, or float16 with scaled gradients (CUDA).",
        choices=("float32", "bfloat16", "float16"),
    )  # fmt: skip


class ProjectTask(Task):
    """A task that trains on unpaired sets of pictures, in one process, with torch's own mixed precision.

    ``step`` gets a batch float32 ``[batch, 3, R, R]`` in [-1, 1] of each set.

    Args:
        config: how to train.
        networks: by name, on the device to train on.
        optimizers: Adams by name.
        sets: datasets by name; each is read in its own random order.

    Raises:
        ToonError: float16 without CUDA.
    """

    config_class: ClassVar[type[LoopConfig]] = ProjectConfig

    def __init__(
        self,
        config: ProjectConfig,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Adam],
        sets: Mapping[str, ImageDataset],
    ) -> None:
        super().__init__(config, networks, optimizers)
        self.sets, self.dtype = dict(sets), getattr(torch, config.dtype)
        if self.dtype == torch.float16 and self.device.type != "cuda":
            raise ToonError("--dtype float16 trains on CUDA only: use bfloat16.")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def batches(self, phase: str) -> Iterator[dict[str, Tensor]]:
        """Endless batches of every set."""
        config, readers = self.config, {}
        for number, (name, data) in enumerate(sorted(self.sets.items())):
            # Sets of the same size must not be read in the same order; seeds are below 2 ** 32.
            seed = config.seed + (number << 32)
            rows = BatchRows(data, config.batch, range(config.batch), seed, self.counters[phase].images)
            readers[name] = batches(rows, device=self.device, workers=config.workers)
        while True:
            yield {name: next(reader)[0] for name, reader in readers.items()}

    def network(self, name: str, kind: type[N]) -> N:
        """The network ``name``, checked to be of class ``kind``.

        Raises:
            ToonError: it is of another class.
        """
        network = self.networks[name]
        if not isinstance(network, kind):
            raise ToonError(f"The network {name} is of another project: go on with a training of this one.")
        return network

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

    def set_learning_rate(self, name: str, lr: float) -> None:
        """Set the rate of the optimiser ``name``: at the start of every step, to a function of the counters."""
        for group in self.optimizers[name].param_groups:
            group["lr"] = lr

    @property
    def images(self) -> int:
        """Pictures of each set so far."""
        return self.counters["train"].images

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Task.load_tensors`; the gradient scaler starts anew if the training had another precision before."""
        state = self.scaler.state_dict()
        stored = {name: tensors[f"scaler.{name}"] for name in state if f"scaler.{name}" in tensors}
        if state and len(stored) == len(state):
            self.scaler.load_state_dict({name: type(state[name])(value) for name, value in stored.items()})
        scaler = {name: tensor for name, tensor in self.tensors().items() if name.startswith("scaler.")}
        super().load_tensors({**scaler, **tensors})

    def tensors(self) -> dict[str, Tensor]:
        """The state of the gradient scaler."""
        state = self.scaler.state_dict()
        return {f"scaler.{name}": torch.tensor(value, dtype=torch.float64) for name, value in state.items()}


def first_pictures(data: ImageDataset, count: int, device: torch.device | str) -> Tensor:
    """The first pictures of a set, ``[count, 3, R, R]`` in [-1, 1]; a smaller set is repeated."""
    pictures = torch.stack([data[row % len(data)][0] for row in range(count)])
    return pictures.to(device, torch.float32) / 127.5 - 1


def load_of_project(path: Path, name: str, kind: type[N], project: str, device: torch.device | str = "cpu") -> N:
    """The network ``name`` of a file that a project's `train` wrote.

    Raises:
        ToonError: no such file or network, damaged, or of another class than ``kind``.
    """
    network = load_networks(path, which=(name,), device=device)[name]
    if not isinstance(network, kind):
        raise ToonError(f"{path} is of another project: give a network that projects.{project}.train made.")
    return network


def add_up(losses: Iterable[Tensor]) -> Tensor:
    """The sum of scalar losses, one or more."""
    return functools.reduce(operator.add, losses)


def fade_out(kimg: float, images: int, over: float) -> float:
    """Factor of a learning rate: 1, then straight down to 0 over the last ``over`` of ``kimg`` thousand pictures."""
    return min(1.0, (kimg * 1000 - images) / (over * 1000)) if over else 1.0


# ---------------------------------------------------------------- the command


@dataclass(frozen=True)
class Session(Config):
    """Options of one run of the command, which snapshots do not store."""

    config: Path | None = option(None, "TOML file of options, instead of the project's own config.toml.")
    resume: str | None = option(None, "Go on exactly: auto (the newest in --out, if any), a snapshot, or a run.")
    wandb: str | None = option(None, "Log to this project of Weights & Biases, too.", metavar="PROJECT")


@dataclass(frozen=True)
class Start:
    """The arguments of a training, from the command line.

    Attributes:
        folder: for the results.
        config: how to train, an instance of the project's config.
        sources: what to train on, an instance of the project's other config.
        snapshot: the snapshot to go on from, if any.
        device: where to train.
        provenance: for the files of the networks, see `descend`.
        quiet: show no progress bar.
        wandb: project of Weights & Biases, if any.
    """

    folder: Path
    config: Any
    sources: Any
    snapshot: Snapshot | None
    device: torch.device
    provenance: dict[str, Any]
    quiet: bool = True
    wandb: str | None = None

    def networks(self, new: Callable[[], Mapping[str, nn.Module]]) -> dict[str, nn.Module]:
        """The networks of the snapshot, or ``new()`` ones, on the device."""
        networks = self.snapshot.networks if self.snapshot else new()
        return {name: network.to(self.device) for name, network in networks.items()}

    def train(self, task: ProjectTask, **provenance: str) -> Path:
        """Run the training. An earlier one in the folder is removed only here, after all arguments were checked."""
        history = self.provenance | provenance
        trainer = Trainer(task, self.folder, provenance=history, resume=self.snapshot, quiet=self.quiet)
        start_folder(output_folder(self.folder), self.snapshot)
        trainer.log.sinks += open_sinks(self.folder, task.images, wandb=self.wandb, config=asdict(self.config))
        return trainer.run()


def training_command(
    example: str,
    task_class: type[ProjectTask],
    sources_class: type[Config],
    file: Path,
    panels: Sequence[Sequence[str]],
) -> Callable[[Callable[[Start], Path]], click.Command]:
    """Decorator: make a function the command that trains a project.

    Its options are the fields of ``sources_class``, of `Session` and of the task's config class, and ``--out``,
    ``--device``, ``--quiet`` and ``--overwrite``. What is not given on the command line has the value of ``--config``,
    or of ``file``. Ctrl-C ends the training after a snapshot. At the end ``curves.png`` shows the numbers named in
    ``panels``.
    """
    config_class = task_class.config_class

    def decorate(function: Callable[[Start], Path]) -> click.Command:
        project = file.parent.name

        @functools.wraps(function)
        def main(
            sources: Config, session: Session, out: Path, device: torch.device, overwrite: bool, quiet: bool,
            **values: Any,
        ) -> None:  # fmt: skip
            if process_count() > 1:
                raise ToonError("This project trains in one process: start it without torchrun.")
            given = {name: value for name, value in values.items() if value is not None}
            snapshot = find_snapshot(session.resume, out, task_class) if session.resume else None
            if snapshot is not None:
                config = replace(snapshot.config, **given)
            else:
                config = read_toml(config_class, session.config or file, given)
                if not overwrite:
                    refuse_another(out)
            keep_pages()
            torch.manual_seed(config.seed)
            provenance = _provenance(f"projects.{project}.train", config, sources, snapshot)
            start = Start(out, config, sources, snapshot, device, provenance, quiet, session.wandb)
            try:
                final = function(start)
            except KeyboardInterrupt:
                if snapshots(out):
                    click.echo(f"Stopped; --resume auto goes on from what is in {out}.", err=True)
                raise click.Abort from None
            draw_log(out, panels)
            click.echo(final)

        command: Callable[..., Any] = main
        for decorator in (
            cli.with_config(sources_class, name="sources"),
            cli.with_config(Session, name="session"),
            cli.out(f"runs/{project}"),
            cli.options_of(config_class, unset=True),
            cli.device(),
            cli.overwrite(),
            cli.quiet(),
        )[::-1]:
            command = decorator(command)
        return cli.command(example)(command)

    return decorate


def _provenance(command: str, config: LoopConfig, sources: Config, snapshot: Snapshot | None) -> dict[str, Any]:
    """The provenance of the networks; a resumed training keeps that of its snapshot."""
    if snapshot is not None:
        earlier = provenance_of(next(iter(snapshot.networks.values())))
        return {key: value for key, value in earlier.items() if key not in ("name", "sha256")}
    # Names, not paths: folders of this machine mean nothing on another.
    names = {key: Path(value).name for key, value in asdict(sources).items()}
    return descend(command, names | asdict(config), [])


# ---------------------------------------------------------------- converting pictures


def each_picture(
    source: str | Path,
    out: Path,
    convert: Callable[[Image.Image], Image.Image],
    *,
    suffix: str = "",
    labels: tuple[str, str] = ("in", "out"),
    size: int = 128,
    limit: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """Convert a picture, or every picture of a folder or set, each on its own.

    Args:
        source: a picture file, or anything `open_source` takes.
        out: a folder; gets ``NAME{suffix}.png`` for each picture, folders in the name joined by "-", and
            ``sheet.png`` with the first few beside their results.
        convert: what to do with a picture.
        labels: above the columns of the sheet, whose cells have ``size`` pixels.
        limit: only so many pictures, in order of name.

    Returns:
        the files written, without the sheet.

    Raises:
        ToonError: the source does not exist, a file exists, or no picture could be used. One bad picture among
            others causes a warning and is left out.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        read, names = (lambda name: read_image(path)), [path.name]
    else:
        opened = open_source(source)
        read, names = (lambda name: read_image(io.BytesIO(opened.read(name)), name=name)), list(opened.names)[:limit]
    files = {name: out / f"{Path(name).with_suffix('').as_posix().replace('/', '-')}{suffix}.png" for name in names}
    if len(set(files.values())) < len(files):
        raise ToonError(f"Two pictures of {source} would be written to one file: rename them.")
    refuse_overwrite([*files.values(), out / "sheet.png"], overwrite)
    new = not out.exists()
    output_folder(out)
    written, shown = [], []
    try:
        for name in cli.progress(names, quiet=quiet, unit="img"):
            try:
                image = read(name)
                made = convert(image)
            except ToonError as error:
                if len(names) == 1:
                    raise
                warnings.warn(f"{error} It is left out.", stacklevel=2)
                continue
            save_image(made, files[name])
            written.append(files[name])
            shown += [image, made] if len(shown) < 2 * SHEET else []
        if not written:
            raise ToonError(f"None of the pictures of {source} could be used: see the warnings.")
    finally:
        if new and not written:
            with contextlib.suppress(OSError):  # somebody put a file there meanwhile
                out.rmdir()
    columns = 4 if len(shown) > 2 else 2
    heads = (labels * 2)[:columns]
    save_image(image_grid(shown, columns, size=size, column_labels=heads), out / "sheet.png")
    return written

"""What a training has and how its parts work together; `loop` says what it does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from ..data.datasets import ImageDataset, PairDataset
from ..distributed import Team
from ..errors import ToonError
from ..memory import most_that_fits
from ..models import Discriminator, Generator
from ..models.swap import freeze_layers
from .augment import AdaController, build_augment
from .config import TrainConfig
from .draws import Draws
from .feed import Rows, batches
from .log import Log, SampleGrid, Sink, with_warning
from .losses import PathLength, mixed_ws
from .pairs import pair_loss
from .snapshots import optimizer_tensors, restore_optimizer, write_folder
from .state import Progress, Snapshot
from .update import Learner, Terms, follow

G_MAIN, PATH_LENGTH, D_MAIN, R1, PAIRS = range(5)  # part of the key of random numbers: see `draws`


class Engine:
    """Owns the networks, optimisers and counters of one training.

    Args:
        G, D: the networks to train, on the device to train on.
        G_ema: where the moving average starts; a copy of G if None.
        pictures: the training set. Labels are used if the networks are conditional.
        folder: gets ``fakes-IMAGES.png``, ``snapshot-IMAGES/`` and ``network.safetensors``.
        pairs: pictures with known latents, for ``pairs_kimg`` and ``pairs_weight``.
        perceptual: distance used on pairs beside L1.
        provenance: what the networks say about their making.
        team: the processes that train together.
        sinks: who is told numbers and pictures.
        measure: G_ema -> figures by name, called by all processes at every snapshot.
        resume: go on from here; ``G``, ``D`` and ``G_ema`` are those of the snapshot.

    Raises:
        ToonError: a batch that cannot be cut up as asked, or layers to freeze that are not there.
    """

    def __init__(
        self,
        G: Generator,
        D: Discriminator,
        pictures: ImageDataset,
        folder: Path,
        config: TrainConfig,
        *,
        G_ema: Generator | None = None,
        pairs: PairDataset | None = None,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        provenance: dict | None = None,
        team: Team = Team(),  # noqa: B008 (frozen)
        sinks: Sequence[Sink] = (),
        measure: Callable[[Generator], dict[str, float]] | None = None,
        resume: Snapshot | None = None,
        quiet: bool = False,
    ) -> None:
        self.G, self.D, self.folder, self.config, self.team = G, D, folder, config, team
        self.G_ema = copy.deepcopy(G) if G_ema is None else G_ema
        self.G_ema.eval().requires_grad_(False)
        self.pictures, self.pairs, self.perceptual, self.measure = pictures, pairs, perceptual, measure
        self.provenance = provenance or {}
        self.device = G.mapping.w_avg.device
        self.dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
        self.resolution = D.config.resolution  # G may be able to make larger pictures
        self.unit = min(D.config.mbstd_group_size or config.batch, config.batch)
        check_batch(config, self.unit, team)
        G.train().requires_grad_(True)
        D.train().requires_grad_(True)
        self.fixed = freeze_layers(G, config.freeze_g)
        D.freeze_layers(config.freeze_d)
        if config.no_noise:
            G.silence()
            self.G_ema.silence()

        self.pipe = build_augment(config.augment, config.augpipe, config.p)
        self.ada = AdaController(self.pipe, target=config.ada_target, kimg=config.ada_kimg).to(self.device)
        self.path_length = PathLength(self.device)
        adams = {
            "G": (G, adam(G, config.lr, config.g_reg_interval if config.pl_weight else None)),
            "D": (D, adam(D, config.lr, config.d_reg_interval if config.gamma else None)),
            "pairs": (G.synthesis, torch.optim.Adam(G.synthesis.parameters(), config.pairs_lr, betas=(0.5, 0.99))),
        }
        self.learners = {name: Learner(name, *parts, team) for name, parts in adams.items()}
        size = config.batch if config.batch_gpu is None else 0 if config.batch_gpu == "auto" else int(config.batch_gpu)
        self.progress = Progress(p=config.p, batch_gpu=size, pictures=len(pictures))
        if resume is not None:
            self._restore(resume)
        team.share_out([*G.state_dict().values(), *D.state_dict().values(), *self.G_ema.state_dict().values()])
        self.log = Log(sinks, quiet=quiet or team.rank > 0)
        self.grid = SampleGrid(G, seed=config.seed, resolution=self.resolution)
        self._saved = self.progress.seen if resume else None

    # ------------------------------------------------------------ an update

    def _update(
        self, name: str, phase: int, terms: Callable[[range], Terms], total: int | None = None, shrink: int = 1
    ) -> Terms:
        """One optimiser step on the first ``total`` samples of the batch; see `update.Learner.update`."""

        def drawn(rows: range) -> Terms:
            with self._draws(phase, rows):
                return terms(rows)

        total = total or self.config.batch
        learner = self.learners[name]
        seen = learner.update(total, self._parts(total, shrink), drawn)
        self.log.report(nonfinite=seen["nonfinite"])
        if "w" in seen and "mapping" not in self.fixed:
            mapping = self.G.mapping
            mapping.w_avg.lerp_(seen["w"].mean(dim=0), 1 - mapping.w_avg_beta)
        if self.progress.steps % 16 == 0:  # now and then: reading a number makes a GPU wait
            learner.refuse_broken()
        return seen

    def _parts(self, total: int, shrink: int = 1) -> Iterator[range]:
        """This process's share of ``total`` samples, cut up to fit into memory."""
        unit = 1 if total < self.config.batch else self.unit
        size = max(self.progress.batch_gpu // shrink // unit, 1) * unit
        share = self.team.share(total, unit)
        return (range(start, min(start + size, share.stop)) for start in range(share.start, share.stop, size))

    def _draws(self, phase: int, rows: range) -> Draws:
        progress = self.progress
        return Draws(rows, self.config.seed, phase, progress.pairs_steps if phase == PAIRS else progress.steps)

    def _paint(self, rows: range) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pictures from new latents: ``img, ws, c``."""
        c = self._labels(rows)
        z = torch.randn(len(rows), self.G.config.z_dim, device=self.device)
        ws = mixed_ws(self.G, z, c, self.config.style_mixing)
        if torch.is_grad_enabled() and not ws.requires_grad:
            ws.requires_grad_(True)  # a frozen mapping: path length differentiates by ws all the same
        return self.G.synthesis(ws, "random", self.dtype, self.resolution), ws, c

    def _pair_loss(self, rows: range, noise_mode: str) -> Tensor:
        target, w = (self._mine(part, rows) for part in self.pair)
        ws = w.unsqueeze(1).expand(-1, self.G.num_ws, -1) if w.ndim == 2 else w
        return pair_loss(self.G, ws, target, self.perceptual, noise_mode, self.dtype, self.config.pairs_detail)

    def _fetch(self, *, with_pair: bool, with_real: bool = True) -> None:
        """The next batch: this process's pictures and pairs, and everybody's labels."""
        batch = self.config.batch
        self.pair = next(self.known) if with_pair else None
        self.progress.pairs_drawn += batch if with_pair else 0
        if with_real:
            self.pictures_now, c = next(self.real)
            self.labels = None
            if c is not None:
                share = self.team.share(batch, self.unit)
                self.labels = c.new_zeros(batch, c.shape[1])
                self.labels[share.start : share.stop] = c
                self.team.sum(self.labels)

    def _labels(self, rows: range) -> Tensor | None:
        return None if self.labels is None else self.labels[rows.start : rows.stop]

    def _mine(self, tensor: Tensor, rows: range) -> Tensor:
        """Rows of the global batch out of this process's share of it."""
        start = self.team.share(self.config.batch, self.unit).start
        return tensor[rows.start - start : rows.stop - start]

    def _choose_part(self, *terms: Callable[[range], Terms]) -> None:
        """As many samples at a time as fit, for the update that needs most."""
        share = self.team.share(self.config.batch, self.unit)

        def loss(one: Callable[[range], Terms], size: int) -> Tensor:
            rows = range(share.start, share.start + size)
            with self._draws(G_MAIN, rows):
                return one(rows)["loss"].sum()

        fits = [most_that_fits(lambda n, one=one: loss(one, n), len(share), self.unit, self.device) for one in terms]
        self.progress.batch_gpu = self.team.least(min(fits), self.device)

    def _average(self, rampup: float | None) -> None:
        """G_ema follows G with a half-life of ``ema_kimg``, shorter at first."""
        half_life = self.config.ema_kimg * 1000
        if rampup is not None:
            half_life = min(half_life, self.progress.seen * rampup)
        follow(self.G_ema, self.G, beta=0.5 ** (self.config.batch / max(half_life, 1e-8)))

    def _feed(self, data: ImageDataset | PairDataset, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        batch = self.config.batch
        rows = Rows(data, batch, self.team.share(batch, self.unit), seed, start)
        channels = self.G.config.img_channels
        return batches(rows, device=self.device, workers=self.config.workers, channels=channels)

    # ------------------------------------------------------------ to disk and back

    def snapshot(self) -> None:
        """Write the picture grid and the whole state; a disk that refuses is told of, and training goes on."""
        if self.progress.seen == self._saved:
            return
        if self.measure is not None:
            self.log.figures(self.progress.seen, self.measure(self.G_ema))
        if self.team.rank > 0:
            self._saved = self.progress.seen
            return
        picture = self.folder / f"fakes-{self.progress.seen:09d}.png"

        def write() -> None:
            self._write()
            self._saved = self.progress.seen
            self.grid.save(self.G_ema, picture)
            self.log.picture(self.progress.seen, "fakes", picture)

        with_warning(write)

    def _write(self) -> None:
        self.progress.p = self.pipe.p
        networks = {"G": self.G, "G_ema": self.G_ema, "D": self.D}
        tensors = {"path_length": self.path_length.state, **{f"ada.{k}": v for k, v in self.ada.state_dict().items()}}
        for name, learner in self.learners.items():
            tensors[f"broken.{name}"] = learner.broken
            tensors.update(optimizer_tensors(name, learner.optimizer, learner.network))
        write_folder(
            self.folder, self.progress.seen, networks, tensors, self.progress, self.config,
            provenance=self._history(), keep=self.config.keep,
        )  # fmt: skip

    def _restore(self, snapshot: Snapshot) -> None:
        tensors, now, then = snapshot.tensors, self.progress, snapshot.progress
        if now.pictures != then.pictures:
            warnings.warn(f"The set has {now.pictures} pictures, it had {then.pictures}.", stacklevel=3)
        self.progress = replace(then, batch_gpu=now.batch_gpu or then.batch_gpu, pictures=now.pictures)
        self.path_length.state.copy_(tensors["path_length"])
        p = then.p if self.config.augment == "ada" else self.pipe.p
        self.ada.load_state_dict({k: tensors[f"ada.{k}"] for k in self.ada.state_dict()})
        self.pipe.p = p
        for name, learner in self.learners.items():
            learner.broken.copy_(tensors[f"broken.{name}"])
            restore_optimizer(name, learner.optimizer, learner.network, tensors)

    def _history(self) -> dict:
        return {
            **self.provenance,
            "config": asdict(self.config),
            "images_seen": self.progress.images,
            "pairs_seen": self.progress.pairs_images,
            "augment_p": self.pipe.p,
        }


def adam(network: torch.nn.Module, lr: float, interval: int | None) -> torch.optim.Adam:
    """Adam for a network that is regularised every ``interval`` steps.

    That takes (i + 1) / i as many steps; corrected so that what a picture changes stays the same (StyleGAN2, app. B).
    """
    ratio = 1.0 if interval is None else interval / (interval + 1)
    return torch.optim.Adam(network.parameters(), lr=lr * ratio, betas=(0.0, 0.99**ratio), eps=1e-8)


def check_batch(config: TrainConfig, unit: int, team: Team) -> None:
    """Raise ToonError if the batch cannot be shared out in groups of ``unit``."""
    if config.batch % unit:
        raise ToonError(f"--batch {config.batch} must be a multiple of {unit}, the group of the minibatch deviation.")
    least = max(unit * team.size, 2 * team.size if config.pl_weight and config.kimg else 1)
    if config.batch < least:
        raise ToonError(f"--batch {config.batch} is too small for {team.size} processes: give {least} or more.")

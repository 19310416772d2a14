"""StyleGAN2-ADA (Karras et al. 2020, arXiv 1912.04958 and 2006.06676) as a task of `loop.Trainer`.

One step is four updates, each with its own gradient and optimiser step: G, path length (every 4th step), D, R1
(every 16th). An update goes over the global batch in parts that fit into memory and over as many processes as there
are; `distributed` explains why that changes nothing, `optimise` does it. Before the adversarial phase there may be one
in which G learns pictures whose latents are known, see `pairs`.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..data.datasets import ImageDataset, PairDataset
from ..distributed import ProcessGroup
from ..errors import ToonError
from ..memory import most_that_fits
from ..models import Generator
from ..models.swap import freeze_layers
from .augment import AdaController, build_augment
from .batches import BatchRows, batches
from .config import TrainConfig
from .keyed_random import KeyedRandom
from .losses import (
    AnyDiscriminator,
    PathLength,
    discriminator_loss,
    generator_loss,
    mixed_ws,
    path_lengths,
    r1_penalty,
    score,
    scores,
)
from .optimise import Losses, NetworkOptimizer, adam, frozen, update_average
from .pairs import NO_PAIRS, pair_loss, picture_loss
from .samples import SampleGrid
from .stylegan2_state import Batch, StyleGAN2State
from .task import Task

G_MAIN, PATH_LENGTH, D_MAIN, R1, PAIRS = range(5)  # purposes in the key of random numbers, see `KeyedRandom`
WARM_UP = 50  # steps of the pairs phase


class StyleGAN2Task(Task):
    """The networks, optimisers and regularisers of one StyleGAN2-ADA training.

    Args:
        G, D: the networks to train, on the device to train on.
        pictures: the training set. Labels are used if the networks are conditional.
        config: how to train.
        G_ema: where the moving average of G starts; a copy of G if None.
        pairs: pictures with known latents, for ``pairs_kimg`` and ``pairs_weight``.
        perceptual: distance used on pairs beside L1.
        metrics: G_ema -> metrics by name, called by all processes at every snapshot.
        group: the processes that train together.

    Raises:
        ToonError: a batch that cannot be cut up as asked, or layers to freeze that are not there.
    """

    config_class = TrainConfig
    state_class = StyleGAN2State
    phases = ("pairs", "train")
    published = ("G_ema", "D")
    config: TrainConfig
    state: StyleGAN2State

    def __init__(
        self,
        G: Generator,
        D: AnyDiscriminator,
        pictures: ImageDataset,
        config: TrainConfig,
        *,
        G_ema: Generator | None = None,
        pairs: PairDataset | None = None,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        metrics: Callable[[Generator], dict[str, float]] | None = None,
        group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    ) -> None:
        adams = {
            "G": adam(G, config.lr, config.g_reg_interval if config.pl_weight else None),
            "D": adam(D, config.lr, config.d_reg_interval if config.gamma else None),
            "pairs": torch.optim.Adam(G.synthesis.parameters(), config.pairs_lr, betas=(0.5, 0.99)),
        }
        self.G, self.D = G, D
        self.G_ema = copy.deepcopy(G) if G_ema is None else G_ema
        super().__init__(config, {"G": G, "G_ema": self.G_ema, "D": D}, adams, group)
        self.pictures, self.pairs, self.perceptual, self.metrics = pictures, pairs, perceptual, metrics
        self.dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
        self.resolution = D.config.resolution  # G may be able to make larger pictures
        self.unit = min(D.config.mbstd_group_size or config.batch, config.batch)
        check_batch(config, self.unit, group)
        G.requires_grad_(True)
        D.requires_grad_(True)
        self.G_ema.eval().requires_grad_(False)
        self.frozen_layers = freeze_layers(G, config.freeze_g)
        D.freeze_layers(config.freeze_d)
        if config.no_noise:
            G.silence()
            self.G_ema.silence()
        self.pipe = build_augment(config.augment, config.augpipe, config.p)
        self.ada = AdaController(self.pipe, target=config.ada_target, kimg=config.ada_kimg).to(self.device)
        self.path_length = PathLength(self.device)
        trained = {"G": G, "D": D, "pairs": G.synthesis}
        self.updates = {name: NetworkOptimizer(name, trained[name], adams[name], group) for name in adams}
        size = config.batch if config.batch_gpu is None else config.batch_gpu
        self.state = StyleGAN2State(self.pipe.p, 0 if size == "auto" else int(size), pictures=len(pictures))
        self.grid = SampleGrid(G, seed=config.seed, resolution=self.resolution)
        self.batch = Batch()
        self._pair_batches: Iterator[tuple[Tensor, Tensor | None]] | None = None

    # ------------------------------------------------------------ the parts of a task

    def images_wanted(self, phase: str) -> int:
        """Pictures at which a phase ends."""
        return int((self.config.pairs_kimg if phase == "pairs" else self.config.kimg) * 1000)

    def batches(self, phase: str) -> Iterator[Batch]:
        """Endless batches; adversarial training takes pairs in every second step."""
        config, counters = self.config, self.counters[phase]
        if config.batch_gpu == "auto" and counters.images == 0:
            # To be chosen anew: the phases do not need the same memory.
            self.state = replace(self.state, batch_gpu=0)
        if phase == "pairs":
            while True:
                yield Batch(pairs=self._next_pairs())
        for real, c in self._read(self.pictures, config.seed, counters.images):
            turn = config.pairs_only or (config.pairs_weight > 0 and counters.steps % 2 == 0)
            pairs = self._next_pairs() if turn else None
            yield Batch(real, self._gathered_labels(c), pairs)

    def step(self, phase: str, batch: Batch) -> Mapping[str, Tensor | float]:
        """One step of either phase."""
        self.batch = batch
        return self.pairs_step() if phase == "pairs" else self.adversarial_step()

    def samples(self) -> Image.Image:
        """Pictures of G_ema for the same latents every time."""
        return self.grid.sheet(self.G_ema)

    def status(self) -> dict[str, float]:
        """ADA's p."""
        return {"p": self.pipe.p}

    def measure(self) -> dict[str, float]:
        """Metrics of G_ema."""
        return {} if self.metrics is None else self.metrics(self.G_ema)

    def check(self, means: Mapping[str, float]) -> None:
        """Nothing: a single loss may overflow in float16, so gradients are watched instead (`refuse_broken`)."""

    def provenance(self) -> dict[str, Any]:
        """What the networks say about this training."""
        return {
            "config": asdict(self.config),
            "images_seen": self.counters["train"].images,
            "pairs_seen": self.counters["pairs"].images,
            "augment_p": self.pipe.p,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The running mean of path lengths, ADA's sums, and how long gradients have not been finite."""
        sums = {"ada.sum": self.ada.sum, "ada.count": self.ada.count}
        return {
            "path_length": self.path_length.state,
            **{name: tensor for name, tensor in sums.items() if isinstance(tensor, Tensor)},
            **{f"broken.{name}": update.broken for name, update in self.updates.items()},
        }

    def load_state(self, state: StyleGAN2State) -> None:
        """Restore p where ADA moves it, and the size of the parts where none is given."""
        if self.state.pictures != state.pictures:
            warnings.warn(f"The set has {self.state.pictures} pictures, it had {state.pictures}.", stacklevel=4)
        if self.config.augment == "ada":
            self.pipe.p = state.p
        batch_gpu = self.state.batch_gpu or state.batch_gpu
        self.state = replace(state, p=self.pipe.p, batch_gpu=batch_gpu, pictures=self.state.pictures)

    # ------------------------------------------------------------ one step

    def adversarial_step(self) -> Mapping[str, Tensor | float]:
        """G, path length, D, R1, the average of G, and now and then ADA's p."""
        config, step = self.config, self.counters["train"].steps
        if not self.state.batch_gpu:
            regular = [self.length_losses] * bool(config.pl_weight) + [self.r1_losses] * bool(config.gamma)
            self._choose_part(self.generator_losses, self.discriminator_losses, *regular)
        nonfinite: list[Tensor] = []
        log: dict[str, Tensor | float] = {"nonfinite": 0.0}

        with frozen(self.D):
            losses = self._update("G", G_MAIN, self.generator_losses)
        nonfinite.append(losses["nonfinite"])
        log |= {name: losses[name] for name in ("G", "pairs") if name in losses}

        if config.pl_weight and step % config.g_reg_interval == 0:
            losses = self._update_path_length(max(config.batch // 2, 1))  # pl_batch_shrink 2
            nonfinite.append(losses["nonfinite"])
            log["path_length"] = losses["path_length"]

        losses = self._update("D", D_MAIN, self.discriminator_losses)
        nonfinite.append(losses["nonfinite"])
        log |= {"D": losses["loss"], "real": losses["real"]}
        self.ada.observe(losses["real"])

        if config.gamma and step % config.d_reg_interval == 0:
            losses = self._update("D", R1, self.r1_losses)
            nonfinite.append(losses["nonfinite"])
            log["r1"] = losses["r1"]

        self._average(config.ema_rampup)
        log["nonfinite"] = torch.stack(nonfinite)
        if config.augment == "ada" and (step + 1) % self.ada.interval == 0:
            log["sign"] = self.ada.step(config.batch)
        self.state = replace(self.state, p=self.pipe.p)
        return log

    def pairs_step(self) -> Mapping[str, Tensor | float]:
        """No discriminator, and a learning rate that falls along a cosine."""
        config, step = self.config, self.counters["pairs"].steps
        if not self.state.batch_gpu:
            self._choose_part(self.pair_losses)
        share = step / max(int(config.pairs_kimg * 1000) // config.batch, 1)
        # Adam's first steps change every weight by the full rate, before its moments tell signal from noise.
        warm = min(1.0, (step + 1) / WARM_UP)
        for group in self.optimizers["pairs"].param_groups:
            group["lr"] = config.pairs_lr * (1 + math.cos(math.pi * min(share, 1))) / 2 * warm
        losses = self._update("pairs", PAIRS, self.pair_losses)
        self._average(rampup=0.05)
        return {"nonfinite": losses["nonfinite"], "pairs": losses["loss"]}

    # ------------------------------------------------------------ the losses of each update

    def generator_losses(self, rows: range) -> Losses:
        """G: generated pictures that D scores as real (and, now and then, pictures whose latents are known)."""
        if self.config.pairs_only:
            return self._generator_losses_on_pairs(rows)
        img, ws, c = self._generate(rows)
        loss = generator_loss(score(self.D, self.pipe(img), c, self.dtype))
        losses = {"G": loss, "w": ws[:, 0]}
        if self.batch.pairs is not None:
            pairs = self._pair_loss(rows, "random").expand(len(rows))
            loss, losses["pairs"] = loss + 2 * self.config.pairs_weight * pairs, pairs
        return {"loss": loss, **losses}

    def _generator_losses_on_pairs(self, rows: range) -> Losses:
        """D scores the same pictures that are compared with their pairs, and sees them in its own update."""
        config, (target, ws) = self.config, self._pairs_of(rows)
        images = self._pyramid(ws, target)
        self.batch.fakes[rows.start] = images[-1].detach()
        loss = generator_loss(score(self.D, self.pipe(images[-1]), self._labels(rows), self.dtype))
        pairs = picture_loss(images, target, self.perceptual, config.pairs_detail).expand(len(rows))
        return {"loss": loss + config.pairs_weight * pairs, "G": loss, "pairs": pairs}

    def length_losses(self, rows: range, create_graph: bool = True) -> Losses:
        """Path length: how far pictures move for a step in w."""
        img, ws, _ = self._generate(rows)
        return {"loss": path_lengths(img, ws, create_graph=create_graph), "w": ws[:, 0]}

    def discriminator_losses(self, rows: range) -> Losses:
        """D: tell real pictures from generated ones."""
        c, more = self._labels(rows), {}
        if self.config.pairs_only:
            fake = self._fakes_of_pairs(rows)
        else:
            with torch.no_grad():
                fake, ws, c = self._generate(rows)
            more["w"] = ws[:, 0]
        real_logits, fake_logits = scores(self.D, self.pipe(self._real(rows)), self.pipe(fake), c, self.dtype)
        return {"loss": discriminator_loss(real_logits, fake_logits), "real": real_logits, **more}

    def r1_losses(self, rows: range) -> Losses:
        """R1: scores that are flat around real pictures."""
        config, real = self.config, self._real(rows).clone().requires_grad_(True)
        penalty = r1_penalty(score(self.D, self.pipe(real), self._labels(rows), self.dtype), real)
        return {"loss": penalty * (config.gamma / 2 * config.d_reg_interval), "r1": penalty}

    def pair_losses(self, rows: range) -> Losses:
        """Pairs: generate from known latents the pictures they belong to."""
        return {"loss": self._pair_loss(rows, self.config.pairs_noise).expand(len(rows))}

    # ------------------------------------------------------------ an update

    def _update(
        self, name: str, purpose: int, losses: Callable[[range], Losses], total: int | None = None, shrink: int = 1
    ) -> Losses:
        """One optimiser step on the first ``total`` samples of the batch; see `optimise.NetworkOptimizer.update`."""

        def with_random_numbers(rows: range) -> Losses:
            with self._random(purpose, rows):
                return losses(rows)

        total = total or self.config.batch
        update = self.updates[name]
        batch = update.update(total, self._parts(total, shrink), with_random_numbers)
        if "w" in batch and "mapping" not in self.frozen_layers:
            mapping = self.G.mapping
            mapping.get_buffer("w_avg").lerp_(batch["w"].mean(dim=0), 1 - mapping.w_avg_beta)
        if self._steps(purpose) % 16 == 0:  # now and then: reading a number makes a GPU wait
            update.refuse_broken()
        return batch

    def _update_path_length(self, total: int) -> Losses:
        """The mean length of the whole batch is needed before the penalty of any of its samples."""
        config, parts = self.config, list(self._parts(total, shrink=2))
        graph: Losses | None = None
        lengths = torch.zeros(total, device=self.device)
        for rows in parts:
            # If there is one part, its graph fits into memory and is kept: the pictures are not generated twice.
            with self._random(PATH_LENGTH, rows):
                part = self.length_losses(rows, create_graph=len(parts) == 1)
            lengths[rows.start : rows.stop] = part["loss"].detach()
            graph = part if len(parts) == 1 else None
        self.group.sum(lengths)
        self.path_length.move(lengths)

        def losses(rows: range) -> Losses:
            part = self.length_losses(rows) if graph is None else graph
            penalty = self.path_length.penalty(part["loss"])
            weight = config.pl_weight * config.g_reg_interval
            return {"loss": penalty * weight, "path_length": penalty, "w": part["w"]}

        return self._update("G", PATH_LENGTH, losses, total, shrink=2)

    def _parts(self, total: int, shrink: int = 1) -> Iterator[range]:
        """This process's share of ``total`` samples, cut up to fit into memory."""
        unit = 1 if total < self.config.batch else self.unit
        size = max(self.state.batch_gpu // shrink // unit, 1) * unit
        share = self.group.share(total, unit)
        return (range(start, min(start + size, share.stop)) for start in range(share.start, share.stop, size))

    def _choose_part(self, *losses: Callable[[range], Losses]) -> None:
        """As many samples at a time as fit, for the update that needs most."""
        share = self._share

        def loss(one: Callable[[range], Losses], size: int) -> Tensor:
            rows = range(share.start, share.start + size)
            with self._random(G_MAIN, rows):
                return one(rows)["loss"].sum()

        fits = [most_that_fits(lambda n, one=one: loss(one, n), len(share), self.unit, self.device) for one in losses]
        self.state = replace(self.state, batch_gpu=self.group.minimum(min(fits), self.device))

    def _random(self, purpose: int, rows: range) -> KeyedRandom:
        return KeyedRandom(rows, self.config.seed, purpose, self._steps(purpose))

    def _steps(self, purpose: int) -> int:
        return self.counters["pairs" if purpose == PAIRS else "train"].steps

    def _average(self, rampup: float | None) -> None:
        """G_ema follows G with a half-life of ``ema_kimg``, shorter at first."""
        half_life = self.config.ema_kimg * 1000
        if rampup is not None:
            half_life = min(half_life, self.images_seen * rampup)
        update_average(self.G_ema, self.G, beta=0.5 ** (self.config.batch / max(half_life, 1e-8)))

    # ------------------------------------------------------------ pictures, generated and read

    def _generate(self, rows: range) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pictures from new latents: ``img, ws, c``."""
        c = self._labels(rows)
        z = torch.randn(len(rows), self.G.config.z_dim, device=self.device)
        ws = mixed_ws(self.G, z, c, self.config.style_mixing)
        if torch.is_grad_enabled() and not ws.requires_grad:
            ws.requires_grad_(True)  # a frozen mapping: path length differentiates by ws all the same
        return self.G.synthesis(ws, "random", self.dtype, self.resolution), ws, c

    def _pair_loss(self, rows: range, noise_mode: str) -> Tensor:
        target, ws = self._pairs_of(rows)
        return pair_loss(self.G, ws, target, self.perceptual, noise_mode, self.dtype, self.config.pairs_detail)

    def _fakes_of_pairs(self, rows: range) -> Tensor:
        """The pictures of G's update for the same rows; generated again if the batch had other parts."""
        fakes = self.batch.fakes.get(rows.start)
        if fakes is None or len(fakes) != len(rows):
            target, ws = self._pairs_of(rows)
            with torch.no_grad():
                fakes = self._pyramid(ws, target)[-1]
        return fakes

    def _pyramid(self, ws: Tensor, target: Tensor) -> list[Tensor]:
        synthesis: Any = self.G.synthesis  # of either family
        return synthesis.pyramid(ws, self.config.pairs_noise, self.dtype, target.shape[-1])

    def _pairs_of(self, rows: range) -> tuple[Tensor, Tensor]:
        """Pictures and the ws ``[N, num_ws, w_dim]`` behind them."""
        assert self.batch.pairs is not None
        target, w = (self._of_share(part, rows) for part in self.batch.pairs)
        return target, w.unsqueeze(1).expand(-1, self.G.num_ws, -1) if w.ndim == 2 else w

    def _real(self, rows: range) -> Tensor:
        assert self.batch.real is not None
        return self._of_share(self.batch.real, rows)

    def _labels(self, rows: range) -> Tensor | None:
        return None if self.batch.labels is None else self.batch.labels[rows.start : rows.stop]

    def _of_share(self, tensor: Tensor, rows: range) -> Tensor:
        """Rows of the global batch out of this process's share of it."""
        return tensor[rows.start - self._share.start : rows.stop - self._share.start]

    @property
    def _share(self) -> range:
        return self.group.share(self.config.batch, self.unit)

    def _gathered_labels(self, c: Tensor | None) -> Tensor | None:
        """The labels of the whole batch, from this process's labels."""
        if c is None:
            return None
        labels = c.new_zeros(self.config.batch, c.shape[1])
        labels[self._share.start : self._share.stop] = c
        self.group.sum(labels)
        return labels

    def _next_pairs(self) -> tuple[Tensor, Tensor]:
        if self._pair_batches is None:
            if self.pairs is None:
                raise ToonError(NO_PAIRS)
            self._pair_batches = self._read(self.pairs, self.config.seed + 1, self.state.pairs_drawn)
        self.state = replace(self.state, pairs_drawn=self.state.pairs_drawn + self.config.batch)
        pictures, w = next(self._pair_batches)
        assert w is not None
        return pictures, w

    def _read(self, data: ImageDataset | PairDataset, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        rows = BatchRows(data, self.config.batch, self._share, seed, start)
        channels = self.G.config.img_channels
        return batches(rows, device=self.device, workers=self.config.workers, channels=channels)


def check_batch(config: TrainConfig, unit: int, group: ProcessGroup) -> None:
    """Raise ToonError if the batch cannot be shared out in groups of ``unit``."""
    if config.batch % unit:
        raise ToonError(f"--batch {config.batch} must be a multiple of {unit}, the group of the minibatch deviation.")
    least = max(unit * group.size, 2 * group.size if config.pl_weight and config.kimg else 1)
    if config.batch < least:
        raise ToonError(f"--batch {config.batch} is too small for {group.size} processes: give {least} or more.")

"""StyleGAN2-ADA training of one process, as one page."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data.dataset import ImageDataset, InfiniteSampler, PairDataset
from ..errors import ToonError
from ..nn import Discriminator, Generator
from ..weights import save_networks
from .augment import AdaController, build_augment
from .log import Log, SampleGrid
from .losses import PathLength, discriminator_loss, generator_loss, mixed_ws, r1_penalty
from .warmstart import pair_loss


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the published ones for one small GPU.

    Attributes:
        kimg: thousands of real pictures to show the discriminator. 0 = no adversarial phase.
        batch: pictures per step.
        lr: Adam's rate for both networks, before the correction for lazy regularisation.
        gamma: R1 weight.
        pl_weight: path length weight. 0 = off.
        style_mixing: probability of mixing two latents.
        g_reg_interval, d_reg_interval: steps between path length and R1 (lazy regularisation).
        ema_kimg: half-life of G_ema in thousands of pictures.
        ema_rampup: shorten the half-life to this share of the pictures seen. None = off.
        augment: "ada" (adapts p), "fixed" (keeps p), "diff" (DiffAugment) or "off".
        augpipe: one of the published pipes, or a policy of DiffAugment. None = "bgc", or all of it.
        p: augmentation probability to begin with.
        ada_target, ada_kimg: mean sign of real scores aimed at; pictures for p to cross from 0 to 1.
        freeze_d: layers of the discriminator to keep fixed (Freeze-D), counted from the highest resolution.
        pairs_kimg: thousands of known (w, picture) pairs to learn before the discriminator joins in.
        pairs_lr: Adam's rate of that phase, falling to zero along a cosine.
        pairs_weight: weight of the pairs while training adversarially, on every second step. 0 = off.
        snapshot_kimg: thousands of pictures between snapshots.
        keep: snapshots kept on disk.
        seed: of everything random.
        workers: processes that read pictures.
    """

    kimg: float = 25000
    batch: int = 16
    lr: float = 0.0025
    gamma: float = 1.0
    pl_weight: float = 2.0
    style_mixing: float = 0.9
    g_reg_interval: int = 4
    d_reg_interval: int = 16
    ema_kimg: float = 5.0
    ema_rampup: float | None = None
    augment: str = "ada"
    augpipe: str | None = None
    p: float = 0.0
    ada_target: float = 0.6
    ada_kimg: float = 500
    freeze_d: int = 0
    pairs_kimg: float = 0
    pairs_lr: float = 0.002
    pairs_weight: float = 0.0
    snapshot_kimg: float = 10
    keep: int = 3
    seed: int = 0
    workers: int = 1


class Trainer:
    """Owns the networks, optimisers and counters of one training; ``run`` trains to the end or to Ctrl-C.

    Args:
        G, D: the networks to train, on the device to train on.
        G_ema: where the moving average starts; a copy of G if None.
        pictures: the training set. Labels are used if the networks are conditional.
        folder: gets ``log.jsonl``, ``fakes-KIMG.png``, ``snapshot-KIMG.safetensors`` and ``network.safetensors``.
        pairs: pictures with known latents, for ``pairs_kimg`` and ``pairs_weight``.
        perceptual: distance used on pairs beside L1.
        provenance: what the snapshots say about their making.
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
        quiet: bool = False,
    ) -> None:
        self.G, self.D, self.folder, self.config = G, D, folder, config
        self.G_ema = copy.deepcopy(G) if G_ema is None else G_ema
        self.G_ema.eval().requires_grad_(False)
        self.device = G.mapping.w_avg.device
        self.pairs, self.perceptual, self.quiet = pairs, perceptual, quiet
        self.provenance = provenance or {}
        self.seen = self.pairs_seen = 0
        torch.manual_seed(config.seed)
        self.grid = SampleGrid(G, seed=config.seed)
        self.pipe = build_augment(config.augment, config.augpipe, config.p)
        self.ada = AdaController(self.pipe, target=config.ada_target, kimg=config.ada_kimg).to(self.device)
        self.path_length = PathLength(self.device)
        D.freeze_layers(config.freeze_d)
        self.G_opt = self._adam(G, config.g_reg_interval if config.pl_weight else None)
        self.D_opt = self._adam(D, config.d_reg_interval if config.gamma else None)
        self._real = self._batches(pictures, config.seed)
        self._known = self._batches(pairs, config.seed + 1) if pairs is not None else None
        self._snapshots: list[Path] = []

    def run(self) -> Path:
        """Train; returns the path of ``network.safetensors`` (G_ema and D). Ctrl-C saves first, then ends."""
        try:
            if self.config.pairs_kimg > 0:
                self._phase("pairs", self.config.pairs_kimg, self._pairs_step, self.config.pairs_lr)
            if self.config.kimg > 0:
                self._phase("train", self.config.kimg, self._adversarial_step)
        except KeyboardInterrupt:
            self.snapshot()
            raise
        self.snapshot()
        final = self.folder / "network.safetensors"
        save_networks(final, {"G_ema": self.G_ema, "D": self.D}, provenance=self._history(), overwrite=True)
        return final

    def _phase(self, name: str, kimg: float, step: Callable, lr: float | None = None) -> None:
        config, total, seen, n = self.config, int(kimg * 1000), 0, 0
        if lr is not None:
            optimizer = torch.optim.Adam(self.G.synthesis.parameters(), lr=lr, betas=(0.9, 0.99))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(total // config.batch, 1))
        log = Log(self.folder, kimg, desc=name, quiet=self.quiet)
        next_tick, next_snapshot, ticked = 0.0, config.snapshot_kimg * 1000, time.monotonic()
        try:
            while seen < total:
                if lr is None:
                    step(n, log)
                    self.seen += config.batch
                else:
                    step(optimizer, schedule, log)
                    self.pairs_seen += config.batch
                seen, n = seen + config.batch, n + 1
                log.advance(config.batch)
                if time.monotonic() >= next_tick or seen >= total:
                    now = time.monotonic()
                    log.tick(self.seen + self.pairs_seen, p=self.pipe.p, seconds=now - ticked)
                    ticked, next_tick = now, now + 20
                if seen >= next_snapshot and seen < total:
                    self.snapshot()
                    next_snapshot += config.snapshot_kimg * 1000
        finally:
            log.close()

    # ------------------------------------------------------------ one step

    def _pairs_step(self, optimizer: torch.optim.Optimizer, schedule, log: Log) -> None:
        loss = self._pair_term("none")
        self._update(optimizer, self.G.synthesis, loss)
        schedule.step()
        self._average(rampup=0.05)
        log.report(pairs=loss)

    def _adversarial_step(self, n: int, log: Log) -> None:
        config, G, D, pipe = self.config, self.G, self.D, self.pipe
        real, c = next(self._real)

        D.requires_grad_(False)
        loss = generator_loss(D(pipe(G.synthesis(self._ws(c), "random")), c))
        log.report(G=loss)
        if config.pairs_weight and n % 2 == 0:
            known = self._pair_term("random")
            loss = loss + 2 * config.pairs_weight * known
            log.report(pairs=known)
        self._update(self.G_opt, G, loss)

        if config.pl_weight and n % config.g_reg_interval == 0:
            half = slice(0, max(config.batch // 2, 1))  # pl_batch_shrink 2
            ws = self._ws(c if c is None else c[half], n=half.stop)
            penalty = self.path_length(G.synthesis(ws, "random"), ws)
            self._update(self.G_opt, G, penalty.mean() * config.pl_weight * config.g_reg_interval)
            log.report(path_length=penalty)

        self._thaw(D)
        with torch.no_grad():
            fake = G.synthesis(self._ws(c), "random")
        real_logits = D(pipe(real), c)
        loss = discriminator_loss(real_logits, D(pipe(fake), c))
        self._update(self.D_opt, D, loss)
        self.ada.observe(real_logits)
        log.report(D=loss, real=real_logits)

        if config.gamma and n % config.d_reg_interval == 0:
            real.requires_grad_(True)
            penalty = r1_penalty(D(pipe(real), c), real)
            self._update(self.D_opt, D, penalty.mean() * (config.gamma / 2) * config.d_reg_interval)
            log.report(r1=penalty)

        self._average(config.ema_rampup)
        if config.augment == "ada" and (n + 1) % self.ada.interval == 0:
            log.report(sign=self.ada.step(config.batch))

    def _pair_term(self, noise_mode: str) -> Tensor:
        target, w = next(self._known)
        ws = w.unsqueeze(1).expand(-1, self.G.num_ws, -1)
        return pair_loss(self.G, ws, target, self.perceptual, noise_mode)

    def _ws(self, c: Tensor | None, n: int | None = None) -> Tensor:
        z = torch.randn(n or self.config.batch, self.G.config.z_dim, device=self.device)
        return mixed_ws(self.G, z, c, self.config.style_mixing)

    def _update(self, optimizer: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        optimizer.step()

    @torch.no_grad()
    def _average(self, rampup: float | None) -> None:
        half_life = self.config.ema_kimg * 1000
        if rampup is not None:
            half_life = min(half_life, (self.seen + self.pairs_seen) * rampup)
        beta = 0.5 ** (self.config.batch / max(half_life, 1e-8))
        for average, current in zip(self.G_ema.parameters(), self.G.parameters()):
            average.lerp_(current, 1 - beta)
        for average, current in zip(self.G_ema.buffers(), self.G.buffers()):
            average.copy_(current)

    # ------------------------------------------------------------ around it

    def _adam(self, network: nn.Module, interval: int | None) -> torch.optim.Adam:
        # Lazy regularisation takes (i + 1) / i as many steps: keep what a picture changes the same (StyleGAN2, app. B).
        ratio = 1.0 if interval is None else interval / (interval + 1)
        return torch.optim.Adam(network.parameters(), lr=self.config.lr * ratio, betas=(0.0, 0.99**ratio), eps=1e-8)

    def _thaw(self, D: Discriminator) -> None:
        D.requires_grad_(True)
        D.freeze_layers(self.config.freeze_d)

    def _batches(self, data: ImageDataset | PairDataset, seed: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Endless ``(pictures [N, C, R, R] in [-1, 1], label or latent [N, dim])``."""
        loader = DataLoader(
            data,
            batch_size=self.config.batch,
            sampler=InfiniteSampler(len(data), seed=seed),
            num_workers=self.config.workers,
            drop_last=True,
        )
        for pictures, extra in _plain_errors(loader):
            pictures = pictures.to(self.device, torch.float32) / 127.5 - 1
            if self.G.config.img_channels == 1:
                pictures = pictures.mean(dim=1, keepdim=True)
            yield pictures, extra.to(self.device) if extra.shape[1] else None

    def _history(self) -> dict:
        return {
            **self.provenance,
            "config": asdict(self.config),
            "images_seen": self.seen,
            "pairs_seen": self.pairs_seen,
            "augment_p": self.pipe.p,
        }

    def snapshot(self) -> Path:
        """Write the picture grid and all networks as they are now; drops the oldest snapshot beyond ``keep``."""
        kimg = f"{(self.seen + self.pairs_seen) / 1000:06.0f}"
        self.grid.save(self.G_ema, self.folder / f"fakes-{kimg}.png")
        path = self.folder / f"snapshot-{kimg}.safetensors"
        networks = {"G": self.G, "G_ema": self.G_ema, "D": self.D}
        save_networks(path, networks, provenance=self._history(), overwrite=True)
        if path not in self._snapshots:
            self._snapshots.append(path)
        while len(self._snapshots) > self.config.keep:
            self._snapshots.pop(0).unlink(missing_ok=True)
        return path


def _plain_errors(loader: DataLoader) -> Iterator:
    """The loader's batches; a mistake found in a worker process is told without the worker's traceback."""
    try:
        yield from loader
    except ToonError as error:
        raise ToonError(str(error).strip().rpartition("ToonError: ")[2]) from None

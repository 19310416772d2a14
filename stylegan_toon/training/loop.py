"""StyleGAN2-ADA training, as one page.

One step is four updates, each with its own gradient and optimiser step: G, path length (every 4th step), D, R1
(every 16th). An update goes over the global batch in parts that fit into memory and over as many processes as there
are; `distributed` says why that changes nothing, `update` does it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..weights import save_networks
from .engine import D_MAIN, G_MAIN, PAIRS, PATH_LENGTH, R1, Engine
from .losses import discriminator_loss, generator_loss, path_lengths, r1_penalty, score, scores
from .stop import stop_requests
from .update import Terms, untrained

WARM_UP = 50  # steps of the pairs phase
TICK = 20.0  # seconds between lines of the log


class Trainer(Engine):
    """One training, see `engine.Engine` for the arguments; ``run`` trains to the end or to Ctrl-C."""

    # ------------------------------------------------------------ the whole training

    def run(self) -> Path:
        """Train; returns the path of ``network.safetensors`` (G_ema and D).

        Ctrl-C or SIGTERM: the step is finished and a snapshot written, then KeyboardInterrupt is raised.

        Raises:
            ToonError: a picture cannot be read, another process has ended, or nothing is learnt any more.
        """
        config, progress = self.config, self.progress
        with stop_requests(patient=self.team.size > 1) as asked, contextlib.closing(self.log):
            self.known = self._feed(self.pairs, config.seed + 1, progress.pairs_drawn) if self.pairs else None
            self._phase("pairs", config.pairs_kimg, lambda: progress.pairs_images, self.pairs_step, asked)
            self.real = self._feed(self.pictures, config.seed, progress.images)
            self._phase("train", config.kimg, lambda: progress.images, self.step, asked)
            self.snapshot()
        final = self.folder / "network.safetensors"
        if self.team.rank == 0:
            save_networks(final, {"G_ema": self.G_ema, "D": self.D}, provenance=self._history(), overwrite=True)
        return final

    def _phase(
        self, name: str, kimg: float, done: Callable[[], int], step: Callable[[], None], asked: Callable[[], bool]
    ) -> None:
        """Steps until ``done()`` reaches ``kimg``, with a line in the log and a snapshot now and then."""
        total, every = int(kimg * 1000), max(int(self.config.snapshot_kimg * 1000), 1)
        if done() >= total:
            return
        if self.config.batch_gpu == "auto" and done() == 0:
            self.progress.batch_gpu = 0  # to be chosen anew: the phases do not need the same memory
        self.log.start(name, total, done())
        ticked, due = time.monotonic(), 0.0
        while done() < total:
            before = done()
            step()
            self.log.advance(self.config.batch)
            now = time.monotonic()
            if now >= due or done() >= total:
                self.log.tick(self.progress.seen, p=self.pipe.p, seconds=now - ticked)
                ticked, due = now, now + TICK
            if self.team.any(asked(), self.device):
                self.snapshot()
                raise KeyboardInterrupt
            if done() // every > before // every and done() < total:
                self.snapshot()

    # ------------------------------------------------------------ one step

    def step(self) -> None:
        """One batch of the adversarial phase."""
        config, progress, log = self.config, self.progress, self.log
        self._fetch(with_pair=config.pairs_weight > 0 and progress.steps % 2 == 0)
        if not progress.batch_gpu:
            regular = [self.length_terms] * bool(config.pl_weight) + [self.r1_terms] * bool(config.gamma)
            self._choose_part(self.generator_terms, self.discriminator_terms, *regular)

        with untrained(self.D):
            seen = self._update("G", G_MAIN, self.generator_terms)
        log.report(**{name: seen[name] for name in ("G", "pairs") if name in seen})

        if config.pl_weight and progress.steps % config.g_reg_interval == 0:
            seen = self._update_path_length(max(config.batch // 2, 1))  # pl_batch_shrink 2
            log.report(path_length=seen["path_length"])

        seen = self._update("D", D_MAIN, self.discriminator_terms)
        log.report(D=seen["loss"], real=seen["real"])
        self.ada.observe(seen["real"])

        if config.gamma and progress.steps % config.d_reg_interval == 0:
            seen = self._update("D", R1, self.r1_terms)
            log.report(r1=seen["r1"])

        self._average(config.ema_rampup)
        progress.steps += 1
        progress.images += config.batch
        if config.augment == "ada" and progress.steps % self.ada.interval == 0:
            log.report(sign=self.ada.step(config.batch))

    def pairs_step(self) -> None:
        """One batch of the pairs phase: no discriminator, a learning rate that falls along a cosine."""
        config, progress = self.config, self.progress
        self._fetch(with_pair=True, with_real=False)
        if not progress.batch_gpu:
            self._choose_part(self.pair_terms)
        share = progress.pairs_steps / max(int(config.pairs_kimg * 1000) // config.batch, 1)
        # Adam's first steps move every weight by the full rate, before it knows which way is noise.
        warm = min(1.0, (progress.pairs_steps + 1) / WARM_UP)
        for group in self.learners["pairs"].optimizer.param_groups:
            group["lr"] = config.pairs_lr * (1 + math.cos(math.pi * min(share, 1))) / 2 * warm
        seen = self._update("pairs", PAIRS, self.pair_terms)
        self.log.report(pairs=seen["loss"])
        self._average(rampup=0.05)
        progress.pairs_steps += 1
        progress.pairs_images += config.batch

    # ------------------------------------------------------------ what each update learns from

    def generator_terms(self, rows: range) -> Terms:
        """G: pictures that D takes for real (and, now and then, pictures that are known)."""
        img, ws, c = self._paint(rows)
        loss = generator_loss(score(self.D, self.pipe(img), c, self.dtype))
        terms = {"G": loss, "w": ws[:, 0]}
        if self.pair is not None:
            known = self._pair_loss(rows, "random").expand(len(rows))
            loss, terms["pairs"] = loss + 2 * self.config.pairs_weight * known, known
        return {"loss": loss, **terms}

    def length_terms(self, rows: range, create_graph: bool = True) -> Terms:
        """Path length: how far pictures move for a step in w."""
        img, ws, _ = self._paint(rows)
        return {"loss": path_lengths(img, ws, create_graph=create_graph), "w": ws[:, 0]}

    def discriminator_terms(self, rows: range) -> Terms:
        """D: tell real pictures from painted ones."""
        with torch.no_grad():
            fake, ws, c = self._paint(rows)
        real = self._mine(self.pictures_now, rows)
        real_logits, fake_logits = scores(self.D, self.pipe(real), self.pipe(fake), c, self.dtype)
        return {"loss": discriminator_loss(real_logits, fake_logits), "real": real_logits, "w": ws[:, 0]}

    def r1_terms(self, rows: range) -> Terms:
        """R1: scores that are flat around real pictures."""
        config, real = self.config, self._mine(self.pictures_now, rows).clone().requires_grad_(True)
        penalty = r1_penalty(score(self.D, self.pipe(real), self._labels(rows), self.dtype), real)
        return {"loss": penalty * (config.gamma / 2 * config.d_reg_interval), "r1": penalty}

    def pair_terms(self, rows: range) -> Terms:
        """Pairs: paint known latents as the pictures they belong to."""
        return {"loss": self._pair_loss(rows, self.config.pairs_noise).expand(len(rows))}

    def _update_path_length(self, total: int) -> Terms:
        """The lengths of the whole batch must be known before the penalty on any of them can be."""
        config, parts = self.config, list(self._parts(total, shrink=2))
        whole = len(parts) == 1  # its graph fits into memory: keep it instead of painting the pictures twice
        lengths = torch.zeros(total, device=self.device)
        for rows in parts:
            with self._draws(PATH_LENGTH, rows):
                found = self.length_terms(rows, create_graph=whole)
            lengths[rows.start : rows.stop] = found["loss"].detach()
        self.team.sum(lengths)
        self.path_length.move(lengths)

        def terms(rows: range) -> Terms:
            known = found if whole else self.length_terms(rows)
            penalty = self.path_length.penalty(known["loss"])
            weight = config.pl_weight * config.g_reg_interval
            return {"loss": penalty * weight, "path_length": penalty, "w": known["w"]}

        return self._update("G", PATH_LENGTH, terms, total, shrink=2)

"""How to train, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the published ones for one small GPU.

    Attributes:
        kimg: thousands of real pictures to show the discriminator. 0 = no adversarial phase.
        batch: pictures per step, over all processes.
        batch_gpu: pictures a process computes at a time; gradients of the parts are added up. None = its whole
            share, 0 = as many as fit into memory.
        dtype: "float32", "bfloat16" or "float16" in the four highest resolutions; None = as the networks are
            configured (float16 on CUDA, for those with ``num_fp16_res``).
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
        freeze_g: layers of the generator to keep fixed, in the words of ``nn.swap``: "mapping,b4-b16".
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
    batch_gpu: int | None = None
    dtype: str | None = None
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
    freeze_g: str = ""
    pairs_kimg: float = 0
    pairs_lr: float = 0.002
    pairs_weight: float = 0.0
    snapshot_kimg: float = 10
    keep: int = 3
    seed: int = 0
    workers: int = 1

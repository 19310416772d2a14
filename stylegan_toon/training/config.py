"""The options of a training."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config, ConfigError, option
from ..errors import short
from .augment import AUGMENTATIONS, build_augment

MOST = 1e9  # thousands of pictures; far beyond any training, and still a number of pictures


@dataclass(frozen=True)
class LoopConfig(Config):
    """The options that every training has (see `loop.Trainer`); a task adds its own."""

    kimg: float = option(100.0, "Thousands of pictures to train on.", low=0, high=MOST)
    batch: int = option(16, "Pictures per step.", low=1, high=1 << 16)
    snapshot_kimg: float = option(5.0, "Thousands of pictures between snapshots.", above=0, high=MOST)
    keep: int = option(3, "Snapshots to keep.", low=1)
    seed: int = option(0, "Seed of everything random.", low=0, high=2**32 - 1)
    workers: int = option(0, "Processes that read pictures.", low=0, high=1024)


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """The options of StyleGAN2-ADA training; the defaults are the published ones for one small GPU.

    ``batch_gpu`` is None (the whole share of a process), "auto" or a number of pictures. ``ema_rampup`` shortens the
    half-life of G_ema to this share of the pictures seen so far; None turns that off.
    """

    kimg: float = option(25000.0, "Thousands of pictures to train on.", low=0, high=MOST)
    batch: int = option(16, "Pictures per step, over all processes.", low=1, high=1 << 16)
    batch_gpu: str | int | None = option(
        None, "Of these at a time in a process; auto: as many as fit.", metavar="N|auto"
    )
    dtype: str = option(
        "auto", "Precision of the four highest blocks; auto is what the network is configured for.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )  # fmt: skip
    lr: float = option(0.0025, "Learning rate.", above=0)
    gamma: float = option(1.0, "R1 weight.", low=0)
    pl_weight: float = option(2.0, "Path length weight; 0 turns it off.", low=0)
    style_mixing: float = option(0.9, "Probability of mixing two latents.", low=0, high=1)
    g_reg_interval: int = option(4, "Steps from one path length regularisation to the next.", low=1, hidden=True)
    d_reg_interval: int = option(16, "Steps from one R1 regularisation to the next.", low=1, hidden=True)
    ema_kimg: float = option(5.0, "Half-life of the averaged generator.", low=0, high=MOST)
    ema_rampup: float | None = option(None, "Share of the pictures seen.", low=0, hidden=True)
    augment: str = option("ada", "Augmentation; diff is DiffAugment.", choices=AUGMENTATIONS, flags=("--aug",))
    augpipe: str | None = option(
        None, "blit, geom, color, filter, noise, cutout, bg, bgc, ... bgcfnc; or parts of diff."
    )
    # torchrun takes --p for an abbreviation of one of its own options, hence the second name.
    p: float = option(0.0, "Augmentation probability to begin with.", low=0, high=1, flags=("--p", "--augment-p"))
    ada_target: float = option(
        0.6, "Mean sign of the scores of real pictures that ADA aims at.", low=0, high=1, flags=("--target",)
    )
    ada_kimg: float = option(500.0, "Thousands of pictures for p to go from 0 to 1.", above=0, high=MOST)
    freeze_d: int = option(0, "Freeze-D: layers of D to keep.", low=0)
    freeze_g: str = option("", "Layers of G to keep, such as mapping,b4-b16.")
    no_noise: bool = option(False, "Take the noise out of G: for drawings, which have no grain.")
    pairs_kimg: float = option(0.0, "Learn the pairs this long first.", low=0, high=MOST)
    pairs_lr: float = option(0.002, "Learning rate of that phase.", low=0)
    pairs_weight: float = option(0.0, "Weight of the pairs while training adversarially.", low=0)
    pairs_only: bool = option(False, "Train adversarially on the latents of the pairs instead of random ones.")
    pairs_detail: float = option(0.0, "Weight of the finest detail in them.", low=0)
    pairs_noise: str = option("none", "Noise inputs for pairs.", choices=("none", "const"))
    snapshot_kimg: float = option(10.0, "Thousands of pictures between snapshots.", above=0, high=MOST)
    workers: int = option(1, "Processes that read pictures.", low=0, high=1024)

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.batch_gpu
        if isinstance(size, str) and size.isdecimal():
            object.__setattr__(self, "batch_gpu", int(size))
        elif size is not None and size != "auto" and not isinstance(size, int):
            raise ConfigError(f"--batch-gpu is {short(size)}: give a number of pictures, or auto.")
        if isinstance(self.batch_gpu, int) and self.batch_gpu < 1:
            raise ConfigError(f"--batch-gpu is {self.batch_gpu}: give 1 or more, or auto.")
        build_augment(self.augment, self.augpipe, self.p)  # raises ToonError for what does not go together

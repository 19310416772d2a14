"""How to train, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

from ..config import fits

T = TypeVar("T")


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
        no_noise: keep the strengths of the generator's noise at 0.
        freeze_g: layers of the generator to keep fixed, in the words of ``models.swap``: "mapping,b4-b16".
        pairs_kimg: thousands of known (w, picture) pairs to learn before the discriminator joins in.
        pairs_lr: Adam's rate of that phase, falling to zero along a cosine.
        pairs_weight: weight of the pairs while training adversarially, on every second step. 0 = off.
        pairs_detail: weight of the finest Haar bands in the loss on pairs: what draws crisp lines.
        pairs_noise: noise inputs while learning pairs: "none", or "const" where the pictures were made with it.
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
    no_noise: bool = False
    pairs_kimg: float = 0
    pairs_lr: float = 0.002
    pairs_weight: float = 0.0
    pairs_detail: float = 0.0
    pairs_noise: str = "none"
    snapshot_kimg: float = 10
    keep: int = 3
    seed: int = 0
    workers: int = 1


def restored(cls: type[T], values: Mapping[str, Any]) -> T:
    """An instance of a config dataclass from JSON or TOML values; what is not among them keeps its default.

    Raises:
        ValueError: a field it does not have, or a value of the wrong type; the dataclass may refuse more.
    """
    hints = get_type_hints(cls)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    if odd := [name for name, value in values.items() if name not in hints or not fits(value, hints[name])]:
        raise ValueError(f"the option {odd[0]} is {values[odd[0]]!r}" if odd[0] in hints else f"no option {odd[0]}")
    return cls(**values)


def setting(default: Any, help: str) -> Any:
    """A field of a config that says what it is for, on the command line too."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class RunConfig:
    """What every training of `run.Run` is told; a project's own config adds to it, each field a `setting`."""

    kimg: float = setting(100.0, "Thousands of pictures to train on.")
    batch: int = setting(16, "Pictures per step.")
    dtype: str = setting("float32", "float32, or mixed precision: bfloat16, or float16 with scaled gradients (CUDA).")
    snapshot_kimg: float = setting(5.0, "Thousands of pictures between snapshots.")
    keep: int = setting(3, "Snapshots to keep.")
    seed: int = setting(0, "Seed of everything random.")
    workers: int = setting(0, "Processes that read pictures.")

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}, not float32, bfloat16 or float16")
        least = {"kimg": 0, "batch": 1, "keep": 1, "seed": 0, "workers": 0}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} is {getattr(self, name)}, less than {limit}")
        if not self.snapshot_kimg > 0:
            raise ValueError("snapshot_kimg must be more than 0")

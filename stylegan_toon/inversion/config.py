"""How a photo is inverted, as plain data: `project`, `toonify` and `invert` take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config import ACCELERATE, DTYPES, MAX_SEED, Config, ConfigError, option

if TYPE_CHECKING:
    import torch

STEPS = {"w": 1000, "w+": 400}
MAX_STEPS = 1_000_000
MAX_BUDGET = 604_800  # seconds: a week


@dataclass(frozen=True)
class InversionConfig(Config):
    """How to find the latent behind a photo.

    Attributes:
        space: "w" (StyleGAN2's projector: one w for all layers) or "w+" (one w for each layer: closer to the photo).
        steps: of the search; 0 = none, the latent is the one that it would begin with. None = what the function that
            takes the config uses: `toonify` 0 with the encoder's latent and 90 from w_avg, `project` and `invert` 1000
            in "w" and 400 in "w+".
        start: latent that the search in "w+" begins with: "encoder" (see `inversion.encoder`), "mean" (w_avg), or
            "auto": the encoder's if it is made for the network. In "w" it is w_avg, as in the published projector.
        tune_steps: at most this many steps of pivotal tuning afterwards. None = `project` 0, `toonify` 20, or 60 where
            Adam tunes.
        tune_blocks: "coarse" (the blocks up to 64 px and, a little, the latent; pictures of 256 px are compared where
            the network makes them) or "all" (every weight and not the latent, as published).
        tune_optimizer: "muon" for the coarse blocks of the mobile family: a third of the steps come about as near (see
            `inversion.muon`), outlines are a little softer; or "adam". Other networks are tuned by Adam.
        lr: peak learning rate of Adam in the search.
        features: the perceptual distance, see `features.perceptual.perceptual`: "vgg", "lpips", or the path of a
            ``.pth`` with VGG16 or of a network with a discriminator.
        accelerate: how the search is run, see `models.accelerate.accelerate`.
        dtype: precision of the four highest blocks in the search: "float32", "bfloat16", "float16", or "auto" for what
            the network is configured for.
        seed: of the noise, 0 to 2**32 - 1.
        time_budget: wall-clock seconds that search and tuning together may take for each face, without loading
            networks; looked at between steps, and the learning rate falls in time. None = no limit.
        plateau: a stage of the search, or tuning, goes on to the next, or to the fall of the learning rate, once ten
            steps have brought the mean distance down by less than this share. 0 = never.
        legacy: the published projector: "w", `STEPS` of it from w_avg, no tuning, pictures compared at 256 px.

    Raises:
        ConfigError: a value has the wrong type, is not finite, or lies outside its limits.
    """

    space: str = option("w+", "One w for all layers, or one for each.", choices=tuple(STEPS))
    steps: int | None = option(None, "Steps of the search.", low=0, high=MAX_STEPS)
    start: str = option(
        "auto", "Where the search in w+ begins: the encoder's latent, w_avg, or the encoder's if it fits the network.",
        choices=("auto", "encoder", "mean"),
    )  # fmt: skip
    tune_steps: int | None = option(
        None, "Steps of pivotal tuning afterwards.", low=0, high=MAX_STEPS, flags=("--tune",)
    )
    tune_blocks: str = option(
        "coarse", "What tuning changes: the blocks up to 64 px and the latent, or all weights.",
        choices=("coarse", "all"),
    )  # fmt: skip
    tune_optimizer: str = option(
        "muon", "What tunes coarse blocks; muon comes about as near in a third of the steps.", choices=("adam", "muon")
    )
    lr: float = option(0.1, "Peak learning rate of the search.", above=0, high=100)
    features: str = option("vgg", "Perceptual distance: vgg, lpips or a file.")
    accelerate: str = option(
        "auto", "CUDA graphs at small batch (auto), none (off), CUDA graphs always, or torch.compile.",
        choices=ACCELERATE,
    )  # fmt: skip
    dtype: str = option(
        "auto", "Precision of the four highest blocks in the search; auto is what the network is configured for.",
        choices=DTYPES,
    )  # fmt: skip
    seed: int = option(303, "Seed of the noise.", low=0, high=MAX_SEED)
    time_budget: float | None = option(
        None, "Seconds that search and tuning may take for each face, at most; networks are loaded before.",
        above=0, high=MAX_BUDGET, metavar="SECONDS",
    )  # fmt: skip
    plateau: float = option(
        0.0, "End a stage once ten steps lower the distance by less than this share; 0 is never.", low=0, high=0.5
    )
    legacy: bool = option(
        False, "StyleGAN2's projector as published: --space w --steps 1000, pictures compared at 256 px, no tuning."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.legacy and self.tune_steps:
            raise ConfigError("--legacy is the published search, without tuning: leave out --tune.")
        if self.legacy and self.start == "encoder":
            raise ConfigError("--legacy begins with the mean of w, as published: leave out --start.")

    def with_defaults(self, steps: int | None = None, tune_steps: int = 0) -> InversionConfig:
        """This config with numbers in place of None.

        Args:
            steps: of the search; None = 1000 in "w", 400 in "w+".
            tune_steps: of pivotal tuning.
        """
        if self.legacy:
            return replace(self, space="w", start="mean", steps=STEPS["w"] if self.steps is None else self.steps,
                           tune_steps=0)  # fmt: skip
        return replace(
            self,
            steps=next(n for n in (self.steps, steps, STEPS[self.space]) if n is not None),
            tune_steps=tune_steps if self.tune_steps is None else self.tune_steps,
        )

    @property
    def total_steps(self) -> int:
        """Steps of the search and of tuning together; tuning may stop before its last."""
        config = self.with_defaults()
        return (config.steps or 0) + (config.tune_steps or 0)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """``dtype`` as torch names it; None for "auto"."""
        import torch

        return None if self.dtype == "auto" else getattr(torch, self.dtype)

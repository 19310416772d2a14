"""Augmentation of everything that the discriminator sees: ADA's pipe with its controller, and DiffAugment."""

from __future__ import annotations

from ...errors import ToonError
from .base import Augment
from .controller import AdaController
from .diff import DiffAugment
from .pipe import PIPES, AugmentConfig, AugmentPipe

__all__ = ["AUGMENTATIONS", "PIPES", "AdaController", "Augment", "AugmentConfig", "AugmentPipe", "DiffAugment",
           "build_augment"]  # fmt: skip

AUGMENTATIONS = ("ada", "fixed", "diff", "off")


def build_augment(aug: str, pipe: str | None = None, p: float = 0.0) -> Augment:
    """Build an augmentation by name.

    Args:
        aug: "ada" (an `AdaController` moves ``p``), "fixed" (``p`` stays), "diff" (`DiffAugment`) or "off".
        pipe: for "ada" and "fixed" a name in `PIPES`, "bgc" if None; for "diff" a policy such as "color,cutout", all
            three parts if None.
        p: probability to begin with (ada) or to keep (fixed, diff). 0 means always for "diff".

    Raises:
        ToonError: an unknown name, "fixed" without ``p``, or ``p`` or ``pipe`` with "off".
    """
    if aug not in AUGMENTATIONS:
        raise ToonError(f"There is no augmentation called {aug}: choose from {', '.join(AUGMENTATIONS)}.")
    if aug == "diff":
        return DiffAugment(p=p or 1.0) if pipe is None else DiffAugment(pipe, p=p or 1.0)
    if aug == "off" and (p or pipe):
        raise ToonError("Without augmentation there is nothing to choose: leave out --p and --augpipe, or --aug off.")
    if aug == "fixed" and not p:
        raise ToonError("A fixed augmentation needs its probability: say for example --p 0.2.")
    return AugmentPipe(pipe or "bgc", p=p)

"""Marks what torch.compile takes for constants; only code that is being traced imports this (see `constants`)."""

from __future__ import annotations

import torch

from .constants import FUNCTIONS

for function in FUNCTIONS:
    torch.compiler.assume_constant_result(function)

"""Marks what torch.compile takes for constants. Only code that is being traced imports this module (see `constants`)."""

from __future__ import annotations

import torch

from .constants import FUNCTIONS

for function in FUNCTIONS:
    torch.compiler.assume_constant_result(function)

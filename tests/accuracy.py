"""The error allowed for each dtype, and the relative error of a result."""

from __future__ import annotations

import torch

# Largest error allowed, as a part of the largest value of the float64 truth: half types round to 11 and 8 bits.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 6e-4, torch.bfloat16: 5e-3}
DTYPES = list(TOLERANCE)


def relative_error(result: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest difference over the largest magnitude of ``truth``."""
    difference = (result.detach().double().cpu() - truth.detach().double().cpu()).abs().max()
    return (difference / truth.detach().abs().max().cpu().clamp(min=1e-30)).item()

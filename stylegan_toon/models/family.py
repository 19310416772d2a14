"""What both families of generators share: the common fields of their configs and the frame of a synthesis network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor, nn

NOISE_MODES = ("const", "random", "none")


def check_resolution(resolution: int) -> None:
    """Raise ValueError unless ``resolution`` is a power of two from 4 up."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution must be a power of two from 4 up, not {resolution}")


def half_precision(resolution: int, full: int, num_fp16_res: int) -> tuple[bool, bool]:
    """Whether a block computes in half precision: as configured, and when the caller asks for a half dtype.

    A half dtype that the caller asks for applies to the four highest resolutions, the published mixed-precision rule
    (StyleGAN2-ADA, ``num_fp16_res = 4``).

    Args:
        resolution: of the block, in pixels.
        full: of the network.
        num_fp16_res: this many of the highest resolutions are configured for it.
    """
    configured = num_fp16_res > 0 and resolution >= max(2 * full >> num_fp16_res, 8)
    return configured, resolution >= max(full >> 3, 8)


@dataclass(frozen=True)
class FamilyConfig:
    """The fields that the configs of both families have.

    Attributes:
        resolution: width and height of the picture in pixels, a power of two.
        img_channels: 3 for colour, 1 for grey.
        z_dim, w_dim, c_dim: sizes of latent, intermediate latent and label (0 = unconditional).
        mapping_layers: 8 in the paper; the ``auto`` preset uses 2.
        mapping_features: width of the hidden mapping layers. None = ``w_dim``.
        mapping_lr_multiplier: the mapping network learns this much slower.
        w_avg_beta: decay of the running mean of w used for truncation.
        num_fp16_res: the N highest resolutions may compute in half precision.
        use_noise: per-pixel noise inputs.

    Raises:
        ValueError: the resolution is not a power of two from 4 up.
    """

    resolution: int = 256
    img_channels: int = 3
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    mapping_layers: int = 8
    mapping_features: int | None = None
    mapping_lr_multiplier: float = 0.01
    w_avg_beta: float = 0.995
    num_fp16_res: int = 0
    use_noise: bool = True

    def __post_init__(self) -> None:
        check_resolution(self.resolution)


Block = TypeVar("Block", bound=nn.Module)


class Synthesis(nn.Module, Generic[Block]):
    """A synthesis network made of blocks that are named ``b4 … bR`` after their resolution.

    Attributes:
        block_resolutions: of the blocks, in pixels, smallest first.
        num_ws, w_dim: the network takes ws of shape ``[N, num_ws, w_dim]``.
    """

    block_resolutions: list[int]
    num_ws: int
    w_dim: int

    def blocks(self) -> list[Block]:
        """The blocks, smallest first."""
        return [getattr(self, f"b{resolution}") for resolution in self.block_resolutions]

    def check(self, ws: Tensor, noise_mode: str, rows: int | None = None) -> None:
        """Raise ValueError for an unknown noise mode, or ws that have neither ``num_ws`` rows nor ``rows``."""
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {NOISE_MODES}, not {noise_mode!r}")
        if ws.ndim != 3 or ws.shape[1] not in (rows, self.num_ws) or ws.shape[2] != self.w_dim:
            raise ValueError(f"ws must be [N, {self.num_ws}, {self.w_dim}], not {list(ws.shape)}")

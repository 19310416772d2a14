"""Smaller pictures of a mobile generator: heads fitted by least squares, and networks cut off at one of them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ToonError
from .mobile import Head, MobileGenerator

_RIDGE = 1e-5  # added to the diagonal of the normal equations, as a share of its mean
_PIXELS = 2048  # taken from each picture


@torch.no_grad()
def fit_heads(
    generator: MobileGenerator,
    resolutions: Collection[int] | None = None,
    *,
    pictures: int = 60,
    psi: float = 0.8,
    seed: int = 0,
) -> None:
    """Fit the heads of smaller pictures, in place, to the pictures of the network itself.

    A published MobileStyleGAN often has the last head only. The target is its picture at the size of the last
    features, averaged over blocks of pixels; a head is the linear map (1x1 convolution) from the features of its size
    that comes closest to that, by ordinary least squares over pixels of ``pictures`` pictures. It begins without
    modulation: its style is 1 for every w, and can be learned from there.

    Args:
        generator: on any device; ``mapping.w_avg`` must be set where ``psi`` is not 1.
        resolutions: sizes of the heads in pixels; None = all below the size of the last features.
        pictures: how many pictures to fit to.
        psi: truncation of their w.
        seed: of the latents and of the choice of pixels.

    Raises:
        ValueError: there is no such head, or it is the one that gives the target.
    """
    config, synthesis = generator.config, generator.synthesis
    full = config.feature_resolution
    possible = [resolution for resolution in config.head_resolutions if resolution < full]
    wanted = sorted(possible if resolutions is None else resolutions)
    if odd := [resolution for resolution in wanted if resolution not in possible]:
        raise ValueError(f"heads that can be fitted are {possible}, not {odd[0]}")
    if not wanted:
        return
    blocks = {resolution: getattr(synthesis, f"b{resolution}") for resolution in wanted}
    features: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, x, at=resolution: features.__setitem__(at, x))
        for resolution, block in blocks.items()
    ]
    sums = {resolution: _Sums(block.torgb) for resolution, block in blocks.items()}
    random = torch.Generator().manual_seed(seed)
    device = generator.mapping.w_avg.device
    try:
        for _ in range(pictures):
            z = torch.randn(1, config.z_dim, generator=random).to(device)
            c = torch.zeros(1, config.c_dim, device=device) if config.c_dim else None
            picture = synthesis(generator.mapping(z, c, psi), dtype=torch.float32, resolution=full)
            for resolution in wanted:
                chosen = torch.randperm(resolution**2, generator=random)[:_PIXELS].to(device)
                target = F.avg_pool2d(picture, full // resolution)
                sums[resolution].add(_pixels(features[resolution], chosen), _pixels(target, chosen))
    finally:
        for hook in hooks:
            hook.remove()
    for resolution, block in blocks.items():
        _set_plain(block.torgb, *sums[resolution].solution())


def _pixels(x: Tensor, chosen: Tensor) -> Tensor:
    """``[1, C, H, W]`` -> ``[len(chosen), C]`` in float64, on the CPU."""
    return x[0].flatten(1)[:, chosen].T.cpu().double()


class _Sums:
    """The sums of the normal equations of a head over pictures."""

    def __init__(self, head: Head) -> None:
        out, into = head.weight.value.shape[:2]
        self.xx = torch.zeros(into + 1, into + 1, dtype=torch.float64)
        self.xy = torch.zeros(into + 1, out, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def solution(self) -> tuple[Tensor, Tensor]:
        """Weight ``[out, in]`` and bias ``[out]``."""
        ridge = _RIDGE * self.xx.diagonal().mean() * torch.eye(len(self.xx), dtype=torch.float64)
        solution = torch.linalg.solve(self.xx + ridge, self.xy)
        return solution[:-1].T, solution[-1]


def _set_plain(head: Head, weight: Tensor, bias: Tensor) -> None:
    """Set a head to this linear map for every w, with the modulation of a layer before training."""
    head.weight.adopt(weight.float()[:, :, None, None])
    head.bias.adopt(bias.float(), smallest=0.01)
    head.affine.weight.value.zero_()
    head.affine.weight.gain.fill_(head.affine.weight.value.shape[1] ** -0.5)
    head.affine.bias.adopt(torch.ones_like(head.affine.bias.value))


@torch.no_grad()
def cut(generator: MobileGenerator, resolution: int) -> MobileGenerator:
    """A separate network that makes the pictures of ``generator`` at ``resolution`` and has no layer beyond that.

    Args:
        generator: not changed.
        resolution: side of the pictures, one of ``config.head_resolutions``. At the size of the last features of a
            network with a wavelet head, the low band of that becomes an ordinary head.

    Returns:
        The network, in the mode and on the device of ``generator``, without ``.provenance``.

    Raises:
        ToonError: there is no picture of that size.
    """
    config = generator.config
    if resolution not in config.head_resolutions:
        sizes = ", ".join(map(str, config.head_resolutions))
        raise ToonError(f"The network makes no pictures of {resolution} px, only of {sizes}: choose one of these.")
    wavelet = config.wavelet and resolution == config.resolution
    smaller = dataclasses.replace(
        config,
        resolution=resolution,
        wavelet=wavelet,
        channels=config.channels[: sum(side <= resolution for side in config.block_resolutions)],
        num_fp16_res=max(config.num_fp16_res - (config.resolution // resolution).bit_length() + 1, 0),
    )
    with torch.device("meta"):
        result = MobileGenerator(smaller)
    state = dict(generator.state_dict())
    last = f"synthesis.b{config.resolution}.torgb."
    if config.wavelet and resolution == config.feature_resolution:
        for name in [name for name in state if name.startswith(last)]:
            tensor = state[name]
            if name in (f"{last}weight.value", f"{last}bias.value"):
                tensor = tensor[: config.img_channels]
            elif name in (f"{last}weight.gain", f"{last}bias.gain"):
                tensor = tensor / 2  # the low band is twice the mean of 2x2 pixels
            state[f"synthesis.b{resolution}.torgb.{name.removeprefix(last)}"] = tensor
    kept = {name: copy.deepcopy(state[name].detach()) for name in result.state_dict()}
    result.load_state_dict(kept, assign=True)
    return result.train(generator.training)

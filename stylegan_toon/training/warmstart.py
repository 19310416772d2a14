"""The supervised start: learn pictures whose latents are known, before any discriminator joins in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ToonError
from ..nn.generator import MappingNetwork

_LRELU_SLOPE, _LRELU_GAIN = 0.2, math.sqrt(2)


@torch.no_grad()
def fit_mapping(mapping: MappingNetwork, w: Tensor) -> None:
    """Set a two-layer mapping network so that standard normal z give w of the same mean and covariance.

    Undoing the last leaky ReLU, the latents of a StyleGAN are close to normally distributed ("P space",
    Zhu et al. 2020, arXiv 2012.09036, section 3.1), so one affine map of z reproduces them. It passes the first
    layer unchanged because ``lrelu(z) - lrelu(-z)`` is proportional to z: the network starts out linear and is
    free to become anything in training.

    Args:
        mapping: ``mapping_layers=2`` and ``mapping_features = 2 * z_dim``; its ``w_avg`` is set too.
        w: ``[M, w_dim]`` samples, M well above ``w_dim``.

    Raises:
        ToonError: when the network has another shape.
    """
    z_dim = mapping.z_dim
    if mapping.num_layers != 2 or mapping.c_dim or mapping.fc0.weight.shape != (2 * z_dim, z_dim):
        raise ToonError(
            "Fitting the mapping network to known latents needs an unconditional one with mapping_layers=2 and "
            "mapping_features twice z_dim: change the configuration."
        )
    w = w.double()
    p = torch.where(w > 0, w, w / _LRELU_SLOPE) / _LRELU_GAIN
    mean = p.mean(0)
    values, vectors = torch.linalg.eigh((p - mean).T @ (p - mean) / len(p))
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # symmetric square root of the covariance
    if root.shape[0] != z_dim:
        raise ToonError(f"The latents have {root.shape[0]} numbers, the network's z {z_dim}: they must be equal.")
    eye = torch.eye(z_dim, dtype=torch.float64)
    through = _LRELU_GAIN * (1 + _LRELU_SLOPE)  # gain of lrelu(z) - lrelu(-z)
    for layer, weight, bias in (
        (mapping.fc0, torch.cat([eye, -eye]), torch.zeros(2 * z_dim)),
        (mapping.fc1, torch.cat([root, -root], dim=1) / through, mean),
    ):
        layer.weight.copy_(weight / layer.weight_gain)
        layer.bias.copy_(bias / layer.bias_gain)
    mapping.w_avg.copy_(w.mean(0))

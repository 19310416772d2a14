"""Latents of a moving face: the offset that frames share is found, and frames to learn from are told apart."""

from __future__ import annotations

import numpy as np
import torch
from tiny import tiny_generator

from stylegan_toon import InversionConfig
from stylegan_toon.features.perceptual import perceptual
from stylegan_toon.inversion.motion import choose_pivots, search_offset


def test_one_offset_is_found_for_all_frames(checkpoint):
    """Frames made with known latents, searched from starts that are all off by the same."""
    G = tiny_generator(0).eval().requires_grad_(False)
    z = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    ws = G.mapping(z)
    offset = 0.6 * (G.mapping(torch.randn(1, 32, generator=torch.Generator().manual_seed(2))) - G.mapping.w_avg)
    with torch.no_grad():
        targets = G.synthesis(ws, noise_mode="const").clamp(-1, 1)
    measure = perceptual(str(checkpoint))
    config = InversionConfig(steps=60, lr=0.05)

    def error(of: torch.Tensor) -> float:
        with torch.no_grad():
            return float((G.synthesis(ws - offset + of, noise_mode="const") - targets).abs().mean())

    found = search_offset(G, targets, ws - offset, measure, config)
    assert found.ws.shape == (1, G.num_ws, 32) and len(found.history) == 60
    assert error(found.ws) < 0.5 * error(torch.zeros_like(found.ws))


def test_ctrl_c_keeps_what_was_found(checkpoint, tiny_G):
    def stop(at):
        if at.step == 3:
            raise KeyboardInterrupt

    G = tiny_G.eval().requires_grad_(False)
    targets = torch.zeros(2, 3, 32, 32)
    starts = G.mapping.w_avg.expand(2, G.num_ws, -1).clone()
    found = search_offset(G, targets, starts, perceptual(str(checkpoint)), InversionConfig(steps=9), callback=stop)
    assert found.interrupted and len(found.history) == 3 and float(found.ws.abs().sum()) > 0


def test_pivots_are_usual_different_and_frontal():
    points = np.zeros((50, 4))
    points[:25, 0], points[25:, 0] = -1, 1  # two expressions
    points += np.random.default_rng(0).normal(0, 0.01, points.shape)
    turned = np.zeros(50)
    turned[:5] = 0.6
    points[7] = 100  # a hand before the face
    chosen = choose_pivots(points, turned, 3)
    assert len(set(chosen)) == 3 and not set(chosen) & {0, 1, 2, 3, 4, 7}
    assert {int(np.sign(points[k, 0])) for k in chosen} == {-1, 1}


def test_pivots_of_what_is_never_frontal_or_hardly_there():
    turned = np.full(10, 0.5)
    assert len(choose_pivots(np.random.default_rng(0).normal(size=(10, 3)), turned, 3)) == 3
    assert choose_pivots(np.zeros((4, 3)), np.zeros(4), 3) == [0]
    assert choose_pivots(np.zeros((1, 3)), np.full(1, np.nan), 3) == [0]

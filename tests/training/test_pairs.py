"""The supervised start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_generator, tiny_mobile

from stylegan_toon.errors import ToonError
from stylegan_toon.models.stylegan2 import MappingNetwork
from stylegan_toon.training.keyed_random import KeyedRandom
from stylegan_toon.training.pairs import WINDOW, detail_loss, fit_mapping, pair_loss, pyramid_loss, read_latents


def test_fitted_mapping_has_the_moments_of_the_latents():
    torch.manual_seed(0)
    dim, n = 16, 60000
    p = torch.randn(n, dim) @ torch.randn(dim, dim) * 0.3 + torch.randn(dim)
    w = torch.nn.functional.leaky_relu(p, 0.2) * 2**0.5  # what the last layer of a mapping network makes
    mapping = MappingNetwork(dim, 0, dim, 3, num_layers=2, features=2 * dim)
    fit_mapping(mapping, w)
    # z of a mapping network is normalised, which shrinks its tails a little at so few dimensions
    with torch.no_grad():
        result = mapping(torch.randn(n, dim))[:, 0]
    assert torch.allclose(mapping.w_avg, w.mean(0), atol=1e-5)
    assert (result.mean(0) - w.mean(0)).abs().max() < 0.1 * w.std()
    wanted, got = torch.cov(w.T), torch.cov(result.T)
    assert (wanted - got).norm() < 0.15 * wanted.norm()


def test_fitting_refuses_another_shape():
    with pytest.raises(ToonError, match="mapping_layers=2"):
        fit_mapping(MappingNetwork(8, 0, 8, 3, num_layers=8), torch.randn(100, 8))


def test_pair_loss_is_zero_on_its_own_pictures_only():
    G = tiny_generator()
    ws = torch.randn(2, G.num_ws, 32)
    with torch.no_grad():
        images = G.synthesis.pyramid(ws, "none")
        assert [i.shape[-1] for i in images] == [4, 8, 16, 32]
        assert torch.equal(images[-1].contiguous(), G.synthesis(ws, noise_mode="none"))
        own = pair_loss(G, ws, images[-1])
        other = pair_loss(G, ws, images[-1] + 1)
    # each painted resolution of a shifted target is a further 1 away: 1 + 3 of them at weight 1 / 6
    rest = sum(
        torch.nn.functional.l1_loss(i, torch.nn.functional.interpolate(images[-1], size=i.shape[2:], mode="area"))
        for i in images[:-1]
    )
    assert own.item() == pytest.approx(rest.item() / 6, rel=1e-5)
    assert other > own


def test_perceptual_windows_are_of_one_place():
    """A picture whose pixels are all different, compared with itself: equal windows are windows of one place."""
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 200, 200)
    corners = set()

    def perceptual(image, target):
        assert image.shape == (1, 3, WINDOW, WINDOW) and torch.equal(image, target)
        corners.add(float(image[0, 0, 0, 0]))
        return image.mean() * 0

    for _ in range(20):
        pyramid_loss([picture], picture, perceptual)
    assert len(corners) > 10


def test_detail_loss_is_that_of_the_finest_bands():
    """A checkerboard of +-1 has a diagonal band of size 2 everywhere and no other: distance 2 / 3 from a flat picture,
    and its strength as much again; pushed by a pixel, the band changes sign and keeps its strength."""
    board = torch.ones(1, 1, 16, 16)
    board[..., ::2, 1::2] = board[..., 1::2, ::2] = -1
    flat = torch.full_like(board, 0.3)
    assert detail_loss(board, flat).item() == pytest.approx(2 / 3 + 2 / 3, rel=1e-5)
    assert detail_loss(board, board.roll(1, dims=3)).item() == pytest.approx(4 / 3, rel=1e-5)
    assert detail_loss(board + flat, board).item() == pytest.approx(0, abs=1e-6)


def test_pairs_at_a_size_below_the_largest():
    """The mobile family learns at any size it makes, from latents with a w for every layer."""
    G = tiny_mobile(0)
    ws = G.mapping(torch.randn(1, G.config.z_dim)) + 0.1 * torch.randn(1, G.num_ws, G.config.w_dim)
    size = G.config.head_resolutions[0]
    with torch.no_grad():
        target = G.synthesis(ws, "const", resolution=size)
        assert pair_loss(G, ws, target, noise_mode="const").item() == pytest.approx(0, abs=1e-6)
        assert pair_loss(G, ws, target + 0.5, noise_mode="const").item() == pytest.approx(0.5, rel=1e-4)


def test_reading_latents(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, w=np.zeros((3, 4), np.float16), other=np.zeros(1))
    assert set(read_latents(path)) == {"w"} and read_latents(path)["w"].dtype == np.float32
    np.savez(path, w=np.ones((3, 2, 4), np.float16))
    assert read_latents(path)["w"].shape == (3, 2, 4)
    for rows in ({"v": np.zeros((3, 4))}, {"w": np.zeros(3)}, {"w": np.full((3, 4), np.nan)}):
        np.savez(path, **rows)
        with pytest.raises(ToonError, match="must hold w"):
            read_latents(path)
    np.savez(path, w=np.array([{}], dtype=object))  # an object array is a pickle, and stays unread
    with pytest.raises(ToonError, match="npz of latents"):
        read_latents(path)
    path.write_text("not an archive")
    with pytest.raises(ToonError, match="npz of latents"):
        read_latents(path)


def test_all_parts_of_a_batch_see_the_same_window():
    """The window is one choice for the batch, also where random numbers belong to samples (256 px > 192 px)."""
    picture, corners = torch.linspace(0, 1, 256 * 256).view(1, 1, 256, 256), []

    def perceptual(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        corners.append(float(target[0, 0, 0, 0]))
        return torch.zeros([])

    for rows in (range(8), range(4), range(4, 8)):
        with KeyedRandom(rows, 3):
            pyramid_loss([picture.expand(len(rows), -1, -1, -1)], picture.expand(len(rows), -1, -1, -1), perceptual)
    assert len(set(corners)) == 1
    with KeyedRandom(range(8), 4):
        pyramid_loss([picture], picture, perceptual)
    assert len(set(corners)) == 2

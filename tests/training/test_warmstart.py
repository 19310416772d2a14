"""The supervised start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_generator

from stylegan_toon.errors import ToonError
from stylegan_toon.nn.generator import MappingNetwork
from stylegan_toon.training.warmstart import fit_mapping, pair_loss, pyramid_loss, read_latents


def test_fitted_mapping_has_the_moments_of_the_latents():
    torch.manual_seed(0)
    dim, n = 16, 60000
    p = torch.randn(n, dim) @ torch.randn(dim, dim) * 0.3 + torch.randn(dim)
    w = torch.nn.functional.leaky_relu(p, 0.2) * 2**0.5  # what the last layer of a mapping network makes
    mapping = MappingNetwork(dim, 0, dim, 3, num_layers=2, features=2 * dim)
    fit_mapping(mapping, w)
    # z of a mapping network is normalised, which shrinks its tails a little at so few dimensions
    with torch.no_grad():
        found = mapping(torch.randn(n, dim))[:, 0]
    assert torch.allclose(mapping.w_avg, w.mean(0), atol=1e-5)
    assert (found.mean(0) - w.mean(0)).abs().max() < 0.1 * w.std()
    wanted, got = torch.cov(w.T), torch.cov(found.T)
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


def test_perceptual_windows_are_of_one_place_at_every_size():
    """A ramp rises by 1 over a picture: by 1 / side from pixel to pixel of the picture at that side."""
    torch.manual_seed(0)
    ramp = (torch.arange(256) / 256).expand(1, 3, 256, 256)
    sides = []

    def perceptual(image, target):
        assert image.shape == (1, 3, 64, 64) and torch.equal(image, target)
        sides.append(round(1 / (image[0, 0, 0, 1] - image[0, 0, 0, 0]).item()))
        return image.mean() * 0

    for _ in range(40):
        pyramid_loss([ramp], ramp, perceptual)
    assert set(sides) == {64, 128, 256}


def test_reading_latents(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, w=np.zeros((3, 4), np.float16), other=np.zeros(1))
    assert set(read_latents(path)) == {"w"} and read_latents(path)["w"].dtype == np.float32
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

"""SeFa against an explicit eigen decomposition, and fitted directions against planted ones."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_generator, tiny_mobile

from stylegan_toon.errors import ToonError
from stylegan_toon.models.directions import (
    Directions,
    DirectionsConfig,
    fit_directions,
    layer_rows,
    modulation_weights,
    rows_of,
    sefa,
)

FAMILIES = {"stylegan2": tiny_generator(0), "mobile": tiny_mobile(0, resolution=256, channels=(16, 16, 8, 8, 8, 8))}


@pytest.fixture(params=list(FAMILIES))
def G(request):
    return FAMILIES[request.param]


def styles(G, ws):
    """What the affine layers give while a picture of ``ws`` is made, in the order of use: ``[N, styles]``."""
    seen = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: seen.append(output.double()))
        for name, module in G.synthesis.named_modules()
        if name.rpartition(".")[2] in ("affine", "affine_up")
    ]
    with torch.no_grad():
        G.synthesis(ws, noise_mode="none")
    for hook in hooks:
        hook.remove()
    return torch.cat(seen, 1)


def test_rows_are_those_that_move_the_styles(G):
    """Changing row r of ws changes the styles of exactly the layers that `layer_rows` gives for r."""
    rows = layer_rows(G)
    torch.manual_seed(0)
    ws = torch.randn(1, G.num_ws, G.config.w_dim)
    for row in range(G.num_ws):
        moved = ws.clone()
        moved[:, row] += 1
        heard = {}
        for store in (0, 1):
            hooks = [
                module.register_forward_hook(
                    lambda _, __, out, name=name, store=store, heard=heard: heard.__setitem__(
                        (name.rpartition(".")[0], store), out
                    )
                )
                for name, module in G.synthesis.named_modules()
                if name.endswith(".affine")
            ]
            with torch.no_grad():
                G.synthesis(moved if store else ws, noise_mode="none")
            for hook in hooks:
                hook.remove()
        used = {name for name, store in heard if store}
        changed = {name for name in used if not torch.equal(heard[name, 0], heard[name, 1])}
        assert changed == {name for name, r in rows.items() if r == row and name in used}


def test_ranges_of_layers_are_rows():
    G = FAMILIES["stylegan2"]
    assert rows_of(G, "all") == list(range(G.num_ws))
    assert rows_of(G, "b4-b8") == [0, 1, 2]
    assert rows_of(G, "b16") == [3, 4]
    assert rows_of(G, "b32") == [5, 6, 7]
    assert rows_of(G, "b8.conv1") == [2]
    assert rows_of(G, "b8.torgb") == [3]
    for layers in ("b99", "b8=0.5", "mapping", "b4.const"):
        with pytest.raises(ToonError):
            rows_of(G, layers)


def test_sefa_is_the_eigen_decomposition_of_the_explicit_matrix(G):
    """The matrix is read off the generator, which is affine from ws to styles, one coordinate at a time."""
    D = G.config.w_dim
    zero = torch.zeros(1, G.num_ws, D)
    basis = torch.eye(D)[:, None].expand(-1, G.num_ws, -1)
    A = (styles(G, basis) - styles(G, zero)).T
    used = modulation_weights(G)
    torch.testing.assert_close(A.T @ A, used.T @ used, atol=1e-4, rtol=1e-4)
    values, vectors = torch.linalg.eigh(used.T @ used)
    ours = sefa(G).double()
    torch.testing.assert_close(ours @ ours.T, torch.eye(D, dtype=torch.float64), atol=1e-5, rtol=0)
    for i in range(4):
        assert float((ours[i] @ vectors[:, -1 - i]).abs()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close((used @ ours.T).square().sum(0), values.flip(0), atol=1e-4, rtol=1e-4)


def test_the_first_direction_changes_the_styles_more_than_any_other(G):
    torch.manual_seed(1)
    ws = torch.randn(1, G.num_ws, G.config.w_dim)
    others = torch.nn.functional.normalize(torch.randn(200, G.config.w_dim), dim=1)
    change = (styles(G, ws + torch.cat([sefa(G, count=1), others])[:, None]) - styles(G, ws)).norm(dim=1)
    assert float(change[0]) > float(change[1:].max())


def test_sefa_of_layers_reads_only_theirs():
    G = tiny_generator(2)
    before = sefa(G, "b4-b8")
    with torch.no_grad():
        G.synthesis.b32.conv0.affine.weight.normal_()
    torch.testing.assert_close(sefa(G, "b4-b8"), before)
    assert not torch.allclose(sefa(G), sefa(tiny_generator(2)), atol=1e-3)


def test_a_planted_direction_is_recovered():
    """Attributes are linear in w, with noise, where w has a covariance far from round."""
    random = torch.Generator().manual_seed(3)
    D, N = 12, 4000
    mixing = torch.randn(D, D, generator=random, dtype=torch.float64) * torch.linspace(0.2, 3, D).double()
    w = torch.randn(N, D, generator=random, dtype=torch.float64) @ mixing
    slopes = torch.randn(D, 2, generator=random, dtype=torch.float64)
    y = w @ slopes
    noisy = y + 0.1 * y.std(0) * torch.randn(N, 2, generator=random, dtype=torch.float64)
    moves = fit_directions(w, noisy, ridge=1e-6).double()
    effect = moves @ slopes / noisy.std(0)
    torch.testing.assert_close(effect, torch.eye(2, dtype=torch.float64), atol=0.02, rtol=0)
    # The shortest such move in whitened w, from the true covariance: C S (S^T C S)^-1, in standard deviations.
    covariance = mixing.T @ mixing
    best = (covariance @ slopes @ torch.linalg.inv(slopes.T @ covariance @ slopes)).T * noisy.std(0)[:, None]
    assert float(torch.nn.functional.cosine_similarity(moves, best, dim=1).min()) > 0.99
    free = fit_directions(w, noisy, held=[[], [0]], ridge=1e-6).double() @ slopes / noisy.std(0)
    assert float(free[0, 0]) == pytest.approx(1, abs=0.02)
    assert abs(float(free[1, 0])) < 0.02


def test_directions_fit_only_networks_with_their_w():
    G = tiny_generator(0)
    known = Directions(DirectionsConfig(("smile",), ("smiles",), ("b8",), G.config.w_dim))
    with torch.no_grad():
        G.mapping.w_avg.fill_(1.0)
        known.w_avg.copy_(G.mapping.w_avg)
        known.vectors.fill_(2.0)
    offsets = known.offsets(G, {"smile": 0.5})
    assert bool((offsets[[1, 2]] == 1).all()) and float(offsets.sum()) == 2 * G.config.w_dim
    with pytest.raises(ToonError, match="say smile"):
        known.offsets(G, {"frown": 1})
    with torch.no_grad():
        G.mapping.w_avg.fill_(1.2)
    with pytest.raises(ToonError, match="use --sefa"):
        known.offsets(G, {"smile": 0.5})

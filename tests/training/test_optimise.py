"""One optimiser step, also with gradients that are not finite, and frozen parameters."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_discriminator, tiny_generator
from torch import nn
from trainings import SMALL, go, read_snapshot, tensors

from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.distributed import ProcessGroup
from stylegan_toon.errors import ToonError
from stylegan_toon.models import layers
from stylegan_toon.models.swap import freeze_layers
from stylegan_toon.training import optimise
from stylegan_toon.training.config import TrainConfig
from stylegan_toon.training.loop import Trainer
from stylegan_toon.training.optimise import PATIENCE, NetworkOptimizer, frozen
from stylegan_toon.training.stylegan2 import StyleGAN2Task


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))


def optimizer(lr: float = 1.0) -> NetworkOptimizer:
    line = Line()
    return NetworkOptimizer("G", line, torch.optim.SGD(line.parameters(), lr), ProcessGroup())


def test_parts_add_up_to_the_mean():
    one, x = optimizer(), torch.arange(12.0).view(4, 3)
    parts = [range(0, 1), range(1, 4)]
    seen = one.update(4, parts, lambda rows: {"loss": x[rows.start : rows.stop] @ one.network.a, "x": x[list(rows)]})
    assert torch.allclose(one.network.a.detach(), 1 - x.mean(0))
    assert torch.equal(seen["loss"], x.sum(1)) and torch.equal(seen["x"], x) and seen["nonfinite"] == 0
    assert torch.equal(one.network.b.grad, torch.zeros(2))  # no gradient reached it; Adam steps all the same


def test_gradients_that_are_not_finite_are_replaced_counted_and_refused_if_many():
    one = optimizer()
    slope = torch.tensor([float("nan"), float("inf"), 2.0])
    losses = lambda rows: {"loss": (one.network.a * slope).sum().expand(len(rows))}  # noqa: E731
    seen = one.update(2, [range(2)], losses)
    assert one.network.a.tolist() == [1, 1 - 1e5, -1] and seen["nonfinite"] == 2 and one.broken == 1
    for _ in range(PATIENCE - 2):
        one.update(2, [range(2)], losses)
    one.refuse_broken()
    one.update(2, [range(2)], losses)
    with pytest.raises(ToonError, match=f"The last {PATIENCE} gradients of G were not finite.*smaller --lr"):
        one.refuse_broken()
    one.update(2, [range(2)], lambda rows: {"loss": one.network.b.sum().expand(len(rows))})
    assert one.broken == 0


def test_a_training_with_nan_ends(pictures, tmp_path, monkeypatch):
    """With a discriminator that has become nan, not one gradient is finite."""
    monkeypatch.setattr(optimise, "PATIENCE", 10)
    with pytest.raises(ToonError, match=r"gradients of (G|D) were not finite"):
        go(pictures, tmp_path / "run", lr=1e30, kimg=2, batch=4, pl_weight=0, gamma=0, style_mixing=0)
    assert not (tmp_path / "run" / "network.safetensors").exists()


def test_frozen_restores_which_parameters_are_trained():
    D = tiny_discriminator()
    D.freeze_layers(2)
    before = [p.requires_grad for p in D.parameters()]
    with frozen(D):
        assert not any(p.requires_grad for p in D.parameters())
    assert [p.requires_grad for p in D.parameters()] == before and not all(before)


@pytest.mark.parametrize(
    ("freeze_g", "prefixes"),
    [
        ("mapping", ["mapping."]),
        ("mapping,b4-b8", ["mapping.", "synthesis.b4.", "synthesis.b8."]),
        ("b16.torgb,b4.const", ["synthesis.b16.torgb.", "synthesis.b4.const"]),
    ],
)
def test_frozen_layers_of_the_generator_do_not_move(pictures, tmp_path, freeze_g, prefixes):
    """Bit for bit, path length, w_avg and the pairs phase included; all others do."""
    options = dict(kimg=0.04, pairs=True, pairs_kimg=0.016)
    networks = read_snapshot(go(pictures, tmp_path / "run", freeze_g=freeze_g, **options)).networks
    for name in ("G", "G_ema"):
        for key, before in tiny_generator(0, **SMALL).state_dict().items():
            frozen = any(key.startswith(prefix) for prefix in prefixes) or key.endswith("noise_const")
            assert torch.equal(networks[name].state_dict()[key], before) == frozen, (name, key)


def test_without_noise_strengths_stay_0(pictures, tmp_path):
    """The test above shows that they move otherwise."""
    G = tiny_generator()
    G.synthesis.b8.conv0.noise_strength.data.fill_(0.3)
    G.silence()
    options = dict(kimg=0.04, pairs=True, pairs_kimg=0.016, no_noise=True)
    networks = read_snapshot(go(pictures, tmp_path / "run", **options)).networks
    for network in (G, networks["G"], networks["G_ema"]):
        result = [value for name, value in network.state_dict().items() if name.endswith("noise_strength")]
        assert len(result) > 3 and not any(result)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("b512", "'b512' among the layers to freeze is no part"), ("b8=0.5", "cannot be frozen in part")],
)
def test_layers_that_cannot_be_frozen(text, sentence):
    with pytest.raises(ToonError, match=sentence):
        freeze_layers(tiny_generator(), text)


def test_labels_are_learnt(pictures, tmp_path):
    """Two classes, bright and dark: a conditional pair of networks that knows nothing learns which is which."""
    sizes = dict(resolution=8, channel_base=64, channel_max=8, c_dim=2)
    G, D = tiny_generator(1, **sizes), tiny_discriminator(1, mapping_layers=2, **sizes)
    z = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def brighter(network) -> float:
        of_class = [network(z, torch.eye(2)[i].expand(32, 2)).mean() for i in (0, 1)]
        return float(of_class[0] - of_class[1])

    assert brighter(G) < 0
    config = TrainConfig(
        kimg=1.44, batch=12, lr=0.003, gamma=1, d_reg_interval=4, pl_weight=0, style_mixing=0, augment="off",
        ema_kimg=0.2, workers=0, seed=1,
    )  # fmt: skip
    task = StyleGAN2Task(G, D, ImageDataset(pictures, 8, resize=True, labels=True), config)
    Trainer(task, tmp_path, quiet=True).run()
    assert brighter(task.G_ema) > 0.4  # 0.75 in the set


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_precision(pictures, tmp_path, dtype, monkeypatch):
    """With bfloat16 the result stays near that of float32, and weights and moments stay float32."""
    monkeypatch.setattr(layers, "cpu_multiplies", lambda dtype: True)
    used = set()
    conv2d = nn.functional.conv2d
    monkeypatch.setattr(nn.functional, "conv2d", lambda x, *a, **k: (used.add(x.dtype), conv2d(x, *a, **k))[1])
    result = tensors(go(pictures, tmp_path / dtype, dtype=dtype, kimg=0.04, p=0.0))
    assert (torch.bfloat16 in used) == (dtype == "bfloat16")
    assert all(value.dtype == torch.float32 for name, value in result.items() if name[0] in "GD")
    assert all(value.isfinite().all() for value in result.values())

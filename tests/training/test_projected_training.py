"""Training with the projected discriminator, and on the latents of pairs alone."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from tiny import tiny_generator
from trainings import assert_same, go, read_snapshot, tensors

from stylegan_toon.errors import ToonError
from stylegan_toon.features.projected import ProjectedDiscriminator
from stylegan_toon.train import main
from stylegan_toon.weights import load_networks

OPTIONS = dict(
    pairs=True, pairs_weight=1.0, gamma=0.0, pl_weight=0.0, augment="diff", p=0.0, batch=4, projected=True
)  # fmt: skip


@pytest.mark.parametrize("only", [False, True])
def test_resume_is_exact(pictures, tmp_path, only):
    options = dict(OPTIONS, pairs_only=only)
    whole = go(pictures, tmp_path / "whole", kimg=0.016, **options)
    go(pictures, tmp_path / "half", kimg=0.008, **options)
    assert isinstance(read_snapshot(whole).networks["D"], ProjectedDiscriminator)
    assert_same(go(pictures, tmp_path / "half", "auto", kimg=0.016, **options), whole)


@pytest.mark.parametrize("only", [False, True])
def test_parts_give_the_same_gradient(pictures, tmp_path, only):
    """One step only: the ReLUs of the frozen network amplify rounding with every further step."""
    options = dict(OPTIONS, pairs_only=only, kimg=0.004)
    whole, parts = (
        {k: v.double() for k, v in tensors(go(pictures, tmp_path / str(size), batch_gpu=size, **options)).items()}
        for size in (4, 2)
    )
    for network in ("G.G.", "D.D."):
        moments = [k for k in whole if k.startswith(network) and k.endswith("exp_avg_sq")]
        a, b = (torch.cat([actual[k].sqrt().flatten() for k in moments]) for actual in (whole, parts))
        assert a.norm() > 0 and (a - b).norm() < 1e-2 * a.norm()


def test_pairs_only_trains_on_the_latents_of_the_pairs(pictures, tmp_path):
    """The mapping network, which they do not pass through, and w_avg stay; the synthesis network learns the pairs."""
    path = go(pictures, tmp_path / "run", pairs_only=True, kimg=0.1, **{**OPTIONS, "pairs_weight": 50.0})
    start = tiny_generator(0, resolution=16, channel_base=128, channel_max=16).state_dict()
    after = read_snapshot(path).networks["G"].state_dict()
    for name, before in start.items():
        if name.startswith("mapping."):
            assert torch.equal(after[name], before), name
    assert (after["synthesis.b8.conv0.weight"] - start["synthesis.b8.conv0.weight"]).abs().max() > 1e-3


def test_the_command_and_its_refusals(pictures, tmp_path):
    def run(*more: str):
        small = ("--resolution", "16", "--channel-base", "128", "--channel-max", "16", "--batch", "4", "--workers", "0")
        arguments = ["--data", str(pictures), "--out", str(tmp_path / "run"), "--discriminator", "projected", *small]
        return CliRunner().invoke(main, [*arguments, "--quiet", "--kimg", "0.008", "--batch", "4", *more])

    result = run("--cond")
    assert result.exit_code == 2 and "takes no labels" in result.output
    result = run("--pairs-only")
    assert result.exit_code == 2 and "need --pairs" in result.output
    assert not (tmp_path / "run").exists()
    result = run("--pl-weight", "0", "--aug", "off")
    assert result.exit_code == 0, result.output
    networks = load_networks(tmp_path / "run" / "network.safetensors")
    assert isinstance(networks["D"], ProjectedDiscriminator)
    with pytest.raises(ToonError, match="--freeze-d"):
        networks["D"].freeze_layers(1)

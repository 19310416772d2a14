"""A network is assembled from exactly its tensors, without a copy and without a single initial value."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tiny import tiny_discriminator, tiny_generator
from torch import nn

from stylegan_toon.errors import ToonError
from stylegan_toon.models import GeneratorConfig
from stylegan_toon.weights.assemble import assemble


def unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("build", [tiny_generator, tiny_discriminator])
def test_the_same_network_in_the_same_memory(build, architecture):
    original = build(3, architecture=architecture, c_dim=2, resample_filter=(1, 2, 1)).train()
    state = original.state_dict()
    rebuilt = assemble(original.config, type(original), state, "x.pt", unchanged)
    assert not rebuilt.training and all(parameter.requires_grad for parameter in rebuilt.parameters())
    assert {name: t.data_ptr() for name, t in rebuilt.state_dict().items()} == {
        n: t.data_ptr() for n, t in state.items()
    }
    assert not any(tensor.is_meta for tensor in [*rebuilt.parameters(), *rebuilt.buffers()])
    c = torch.eye(2)
    args = (torch.randn(2, 32), c) if build is tiny_generator else (torch.randn(2, 3, 32, 32), c)
    assert torch.equal(rebuilt(*args), original.eval()(*args))


def test_loading_networks_leaves_the_compiler_of_torch_alone():
    """torch._dynamo and sympy take seconds to import: no network that ships needs them."""
    code = (
        "import sys; from stylegan_toon import load_network; from stylegan_toon.features.perceptual import perceptual\n"
        "from stylegan_toon.inversion.encoder import encoder\n"
        "from stylegan_toon.features.identity import face_embedder\n"
        "load_network('faces'); perceptual(); encoder(); face_embedder()\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_other_floating_types_become_float32(tiny_G):
    state = {name: tensor.half() for name, tensor in tiny_G.state_dict().items()}
    rebuilt = assemble(tiny_G.config, type(tiny_G), state, "x.pt", unchanged).state_dict()
    assert all(
        rebuilt[name].dtype == torch.float32 and torch.equal(rebuilt[name], state[name].float()) for name in state
    )


class Counting(nn.Module):
    """With a batch normalisation, which counts in whole numbers."""

    def __init__(self, config: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(config)


def test_whole_numbers_stay_whole():
    original = Counting(3)
    original.norm(torch.randn(2, 3, 4, 4))
    state = {name: tensor.double() if tensor.is_floating_point() else tensor.int()
             for name, tensor in original.state_dict().items()}  # fmt: skip
    rebuilt = assemble(3, Counting, state, "x.pt", unchanged).state_dict()
    for name, tensor in original.state_dict().items():
        assert rebuilt[name].dtype == tensor.dtype and torch.equal(rebuilt[name], tensor)
    with pytest.raises(ToonError, match=r"of type float32: norm\.num_batches_tracked"):
        assemble(3, Counting, {**state, "norm.num_batches_tracked": torch.tensor(1.0)}, "x.pt", unchanged)


def test_tensors_that_do_not_fit_are_listed(tiny_G):
    state, config, cls = tiny_G.state_dict(), tiny_G.config, type(tiny_G)
    bias = "synthesis.b8.conv1.bias"
    for tensors, reason in [
        ({}, "missing: synthesis.b4.const, .* and 59 more"),
        ({k: v for k, v in state.items() if k != bias}, f"missing: {bias}\\)"),
        ({**state, "evil" * 90: state[bias]}, "unknown: evilevil.*…"),
        ({**state, "evil\n\x1b[2J": state[bias]}, r"unknown: evil \?\[2J\)"),
        ({**state, bias: state[bias][None]}, rf"of shape \[1, 32\] instead of \[32\]: {bias}"),
        ({**state, bias: state[bias].long()}, f"of type int64: {bias}"),
    ]:
        with pytest.raises(ToonError, match=reason) as caught:
            assemble(config, cls, tensors, "x.pt", unchanged)
        assert "\n" not in str(caught.value) and str(caught.value).startswith("x.pt ")
    with pytest.raises(ToonError, match="cannot be built"):
        assemble(GeneratorConfig(z_dim=-4), cls, state, "x.pt", unchanged)

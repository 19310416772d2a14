"""Graphs and compilation change how a function is run, and nothing else.

Without a GPU a stand-in replaces CUDA graphs: like them it computes nothing while it records, and replays the function
on the tensors of the recording.
"""

from __future__ import annotations

import functools
import warnings
from importlib import import_module

import pytest
import shell
import torch
from tiny import tiny_discriminator, tiny_generator

from stylegan_toon import generate, project
from stylegan_toon.features.perceptual import DiscriminatorFeatures
from stylegan_toon.inversion import optimise as inversion
from stylegan_toon.inversion.config import InversionConfig
from stylegan_toon.models import accelerate as module
from stylegan_toon.models.accelerate import ACCELERATE, Graphs, accelerate


class StandIn:
    """Counts recordings and replays."""

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def __call__(self, function):
        outputs = []
        self.recorded += 1

        def play() -> None:
            self.played += 1
            outputs[:] = function()

        return outputs, play


def on_cpu(function, stand_in, most=None) -> Graphs:
    return Graphs(function, most, record=stand_in, device_type="cpu")


def test_pictures_are_the_same_and_come_from_recordings(tiny_G):
    stand_in = StandIn()
    run = on_cpu(tiny_G.synthesis, stand_in)
    with torch.no_grad():
        for i in range(12):
            ws = torch.randn(1 + i % 2, tiny_G.num_ws, 32)
            kept = run(ws, noise_mode="const")
            assert torch.equal(kept, tiny_G.synthesis(ws, noise_mode="const"))
    assert (stand_in.recorded, stand_in.played) == (2, 6)  # of each size the first three were calls


def test_every_call_has_the_effect_of_one():
    total, seen = torch.zeros(2), []
    stand_in = StandIn()

    def step(x: torch.Tensor, double: bool) -> tuple[torch.Tensor, torch.Tensor]:
        total.add_(x, alpha=2 if double else 1)
        return total, x.square()

    add = on_cpu(step, stand_in)
    for i in range(10):
        after, square = add(torch.tensor([float(i), 1.0]), double=i >= 5)
        seen.append(after.clone())
        assert torch.equal(after, total) and square[0] == i * i
    assert total.tolist() == [sum(range(5)) + 2 * sum(range(5, 10)), 15]
    assert (stand_in.recorded, stand_in.played) == (2, 4)
    first = add(torch.zeros(2), double=True)[0]
    add(torch.ones(2), double=True)
    assert torch.equal(first, seen[-1])  # a result outlives the next call


def test_changed_weights_are_used(tiny_G):
    stand_in = StandIn()
    run = on_cpu(tiny_G.synthesis, stand_in)
    ws = torch.randn(1, tiny_G.num_ws, 32)
    with torch.no_grad():
        for change in (False, True, True):
            if change:
                tiny_G.synthesis.b8.conv0.weight.mul_(-1)
            for _ in range(5):
                assert torch.equal(run(ws), tiny_G.synthesis(ws))
    assert stand_in.recorded == 3


def test_the_number_of_recordings_is_bounded():
    run = on_cpu(torch.sin, StandIn())
    for size in range(1, 30):
        for _ in range(5):
            run(torch.ones(size))
    assert len(run.recordings) == 8


def test_calls_that_are_not_recorded(tiny_G):
    stand_in = StandIn()
    x = torch.ones(3, requires_grad=True)
    small, sine = on_cpu(torch.sin, stand_in, most=2), on_cpu(torch.sin, stand_in)
    for _ in range(6):
        assert torch.equal(small(torch.ones(3)), torch.ones(3).sin())  # too large
        sine(x).sum().backward()  # a gradient is wanted
    weights = on_cpu(tiny_G.synthesis, stand_in)
    for _ in range(6):
        assert weights(torch.zeros(1, tiny_G.num_ws, 32)).requires_grad  # by the weights
    torch.testing.assert_close(x.grad, 6 * x.detach().cos())
    assert stand_in.recorded == 0


def test_a_failed_recording_warns_once():
    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing\nat some place")

    sine = on_cpu(torch.sin, refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(8):
            assert torch.equal(sine(torch.full((2,), float(i))), torch.full((2,), float(i)).sin())
    assert [str(w.message) for w in caught] == [
        "This cannot be a CUDA graph (operation not permitted when stream is capturing): going on without it."
    ]


def test_projection_with_recordings_gives_the_same_result(tiny_G, monkeypatch):
    """Each stage is recorded once; replays change noise, w and Adam's state."""
    measure = DiscriminatorFeatures(tiny_discriminator(0)).requires_grad_(False)
    target = torch.rand(1, 3, 32, 32) * 2 - 1
    plain = project(tiny_G, target, InversionConfig(steps=14, accelerate="off"), measure=measure)
    stand_in = StandIn()
    monkeypatch.setattr(
        inversion, "accelerated", lambda f, how: f if how == "off" else on_cpu(f, stand_in)
    )  # fmt: skip
    played = project(tiny_G, target, InversionConfig(steps=14, accelerate="graphs"), measure=measure)
    assert played.history == plain.history and torch.equal(played.image, plain.image)
    assert (stand_in.recorded, stand_in.played) == (2, 14 - 2 * 3)


# ---------------------------------------------------------------- torch.compile


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without its last stage, which needs a C++ compiler and a minute."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))


def test_the_compiled_network_is_one_graph_of_our_layers(traced):
    """With and without gradients; layers large enough for the compiled convolutions."""
    G = tiny_generator(resolution=32, channel_base=512, channel_max=16)
    ws = torch.randn(1, G.num_ws, 32)
    for train in (False, True):
        G.train(train)
        run = accelerate(G.synthesis, "compile")
        with torch.no_grad():
            torch.testing.assert_close(run(ws), G.synthesis(ws))
        assert run.fast is not None
    wanted = torch.autograd.grad(G.synthesis(ws).square().sum(), list(G.synthesis.parameters()))
    actual = torch.autograd.grad(run(ws).square().sum(), list(G.synthesis.parameters()))
    for a, b in zip(actual, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_without_a_compiler_one_sentence_says_so(monkeypatch, tiny_G):
    def no_compiler(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx: g++\nand more")

    monkeypatch.setattr(torch, "compile", lambda function, **options: no_compiler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pictures = generate(tiny_G, [0, 1, 2], batch=1, accelerate="compile")
    assert torch.equal(pictures, generate(tiny_G, [0, 1, 2], batch=1, accelerate="off"))
    assert [str(w.message) for w in caught] == [
        "torch.compile does not work here (No working C++ compiler found in torch._inductor.config.cpp.cxx: g++): "
        "going on without it."
    ]


def test_errors_of_the_caller_are_raised_unchanged(traced, tiny_G):
    run = accelerate(tiny_G.synthesis, "compile")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="ws must be"):
            run(torch.zeros(1, 3, 32))


# ---------------------------------------------------------------- the switch


def test_off_returns_the_function_and_unknown_values_are_refused(tiny_G):
    assert accelerate(tiny_G, "off") is tiny_G
    with pytest.raises(ValueError, match="auto, off, graphs, compile"):
        accelerate(tiny_G, "fast")


@pytest.mark.parametrize("command", ["generate", "project", "toonify"])
def test_every_command_that_makes_pictures_has_the_option(command):
    main = import_module(f"stylegan_toon.{command}").main
    (option,) = [p for p in main.params if p.name == "accelerate"]
    assert tuple(option.type.choices) == ACCELERATE and option.default == "auto"


def test_a_warning_says_that_graphs_need_cuda(tmp_path, checkpoint):
    main = import_module("stylegan_toon.generate").main
    options = ["--network", checkpoint, "--seeds", "0-3", "--batch", 1, "--device", "cpu", "--quiet"]
    result = shell.run(main, *options, "--accelerate", "graphs", "--out", tmp_path / "graphs")
    assert result.stderr.count("warning: CUDA graphs need a CUDA device: going on without them.") == 1
    assert "CUDA" not in shell.run(main, *options, "--out", tmp_path / "auto").stderr
    assert (tmp_path / "graphs/grid.png").read_bytes() == (tmp_path / "auto/grid.png").read_bytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("noise_mode", ["const", "random"])
def test_on_a_gpu_pictures_are_the_same(noise_mode):
    G = tiny_generator().cuda()
    runs = []
    for how in ("off", "graphs"):
        torch.manual_seed(0)
        runs.append(generate(G, list(range(8)), batch=1, noise_mode=noise_mode, accelerate=how))
    if noise_mode == "const":
        torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-4)
    assert len({float(picture.sum()) for picture in runs[1]}) == 8  # no picture twice


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_search_is_recorded(monkeypatch):
    G = tiny_generator().cuda()
    measure = DiscriminatorFeatures(tiny_discriminator(0).cuda()).requires_grad_(False)
    target = torch.rand(1, 3, 32, 32) * 2 - 1
    recorded = []
    real = module._record
    monkeypatch.setattr(module, "_record", lambda function: recorded.append(1) or real(function))
    actual = {
        how: project(G, target, InversionConfig(steps=20, accelerate=how), measure=measure) for how in ("off", "graphs")
    }
    assert len(recorded) == 2
    torch.testing.assert_close(actual["graphs"].history, actual["off"].history, rtol=1e-2, atol=1e-3)

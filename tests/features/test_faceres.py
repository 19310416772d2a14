"""The second recogniser: its layers against the graph's own evaluation, its square, and one person against others."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from stylegan_toon.data.images import to_tensor
from stylegan_toon.features.faceres import BOX, FaceresNetwork, face_square
from stylegan_toon.features.identity import Faceres, face_embedder
from stylegan_toon.weights import pretrained_folder

FACES = Path(__file__).parents[1] / "faces" / "faces.png"


@pytest.fixture(scope="module")
def judge() -> Faceres:
    network = face_embedder("faceres")
    assert isinstance(network, Faceres)
    return network


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(pretrained_folder() / "recipes"))
    import faceres

    yield faceres
    sys.modules.pop("faceres")


def test_it_ships_and_gives_unit_vectors(judge):
    assert judge.name == "faceres" and not judge.training
    assert (pretrained_folder() / "faceres-identity.safetensors").stat().st_size < 3.5e6
    img = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vectors = judge(img)
    assert vectors.shape == (2, 1024)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_gradients_reach_the_picture(judge):
    img = (torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)) - 0.5).requires_grad_()
    judge(img).sum().backward()
    assert img.grad is not None and img.grad.abs().max() > 0


def test_the_conversion_equals_the_graph(recipe):
    """The recipe's interpreter of the graph and the package's network, on random numbers in place of the weights."""
    random = torch.Generator().manual_seed(0)
    widths = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    constants, nodes, last = {}, [{"name": "in", "op": "Placeholder"}], "in"

    def add(name: str, op: str, *inputs: str, stride: int = 1) -> str:
        attr = {"padding": {"s": "U0FNRQ=="}, "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}}}
        nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attr})
        return name

    def const(name: str, *shape: int, scale: float = 1.0) -> str:
        constants[name] = torch.randn(shape, generator=random) * scale
        nodes.append({"name": name, "op": "Const"})
        return name

    constants["six"] = torch.tensor(6.0)
    nodes.append({"name": "six", "op": "Const"})

    def finish(name: str, x: str, width: int) -> str:
        x = add(f"{name}/add", "Add", x, const(f"{name}_bn/batchnorm_1/sub", width, scale=0.1))
        return add(f"{name}/six", "Minimum", add(f"{name}/relu", "Relu", x), "six")

    kernel = const("conv1/convolution/merged_input", 3, 3, 3, 32, scale=0.01)
    last = finish("conv1", add("conv1/conv", "Conv2D", last, kernel, stride=2), 32)
    for number, (before, after) in enumerate(itertools.pairwise(widths), 1):
        name = f"conv_dw_{number}"
        kernel = const(f"{name}/depthwise_kernel", 3, 3, before, 1, scale=0.4)
        last = add(f"{name}/conv", "DepthwiseConv2dNative", last, kernel, stride=2 if number in (2, 4, 6, 12) else 1)
        last = finish(name, add(f"{name}/mul", "Mul", last, const(f"{name}_bn/batchnorm_1/mul", before)), before)
        name = f"conv_pw_{number}"
        kernel = const(f"{name}/convolution/merged_input", 1, 1, before, after, scale=(2 / before) ** 0.5)
        last = finish(name, add(f"{name}/conv", "Conv2D", last, kernel), after)
    add("global_pooling/Mean", "Mean", last)
    graph = recipe.Faceres.__new__(recipe.Faceres)
    graph.nodes, graph.constants = {node["name"]: node for node in nodes}, constants
    network = recipe.converted(graph)
    assert isinstance(network, FaceresNetwork)
    img = torch.rand(1, 3, 224, 224, generator=random) * 255
    bgr = img.flip(1) - torch.tensor(recipe.MEAN_BGR)[:, None, None]
    with torch.no_grad():
        wanted, found = graph(bgr), network(img)
    assert wanted.std() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [256, 512])
def test_the_square_is_what_pillow_would_cut(side):
    face = Image.open(FACES).convert("RGB").crop((0, 0, 192, 192)).resize((side, side), Image.Resampling.LANCZOS)
    left, top, right, bottom = (share * side for share in BOX)
    wanted = np.asarray(face.resize((224, 224), Image.Resampling.BILINEAR, box=(left, top, right, bottom)), float)
    found = (face_square(to_tensor(face))[0].permute(1, 2, 0).double().numpy() + 1) * 127.5
    assert np.abs(wanted - found).mean() < 1


def test_one_person_and_others(judge):
    """The example's photo beside its mirror image, and beside two other faces."""
    from stylegan_toon.faces.photo import open_photo

    portrait = open_photo(pretrained_folder() / "examples" / "portrait.jpg", 256).faces[0].image
    row = Image.open(FACES).convert("RGB")
    others = [to_tensor(row.crop((left, 0, left + 192, 192))) for left in (0, 192)]
    me, mirrored = to_tensor(portrait), to_tensor(ImageOps.mirror(portrait))
    with torch.no_grad():
        assert float(judge.similarity(me, mirrored)) > 0.9
        assert all(float(judge.similarity(me, other)) < 0.7 for other in others)
        grey = me.mean(1, keepdim=True)
        torch.testing.assert_close(judge(grey), judge(grey.expand(-1, 3, -1, -1)))

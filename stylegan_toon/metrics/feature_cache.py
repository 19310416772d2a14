"""A cache on disk for the features of real pictures, which are the same at every evaluation.

Files are stored in ``features/`` of the cache folder (STYLEGAN_TOON_HOME). Their names are digests of everything that
the features depend on, so none can be outdated, and all may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from weakref import WeakKeyDictionary

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data.datasets import ImageDataset
from ..errors import ToonError
from ..features.extractors import Extractor
from ..files import atomic_path
from ..weights import cache_folder

FORMAT = 1  # raised when the features of the same key change

_digests: WeakKeyDictionary[ImageDataset, dict[int, str]] = WeakKeyDictionary()


def chosen(pictures: ImageDataset, count: int) -> list[int]:
    """``count`` indices spread evenly over a set."""
    return [i * len(pictures) // count for i in range(count)]


def content_digest(pictures: ImageDataset, count: int) -> str:
    """Hexadecimal SHA-256 of the files behind `chosen` pictures, and of their order; read once per set."""
    digests = _digests.setdefault(pictures, {})
    if count not in digests:
        digest = hashlib.sha256()
        for index in chosen(pictures, count):
            flip, row = divmod(index, len(pictures.names))
            data = pictures.file(row)
            digest.update(f"{flip} {len(data)}\n".encode() + data)
        digests[count] = digest.hexdigest()
    return digests[count]


def cache_path(pictures: ImageDataset, network: Extractor, count: int, *, grey: bool, part: str) -> Path:
    """The file for ``part`` ("moments" or "rows") of the features of ``count`` pictures."""
    key = [FORMAT, content_digest(pictures, count), pictures.resolution, grey, network.name, network.digest]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return cache_folder() / "features" / f"{network.name}-{name}-{part}.safetensors"


def load(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file; None if there is none or it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def store(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a file, or warn if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    except (OSError, ToonError) as error:
        warnings.warn(f"The features of the real pictures are not cached: {error}", stacklevel=2)

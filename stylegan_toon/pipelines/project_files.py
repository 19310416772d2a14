"""What `project` reads and writes: the faces of some photos, and the files of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.images import image_grid, save_image, to_pil
from ..faces.align import Aligned
from ..faces.photo import open_photo
from ..features.identity import FaceEmbedder
from ..files import atomic_path
from ..inversion.config import InversionConfig
from ..models import Generator
from ..weights import save_networks
from .project import Projection, save_projection
from .way import Way


@dataclass(frozen=True, eq=False)
class NamedFace:
    """A face of a photo.

    Attributes:
        name: stem of its files.
        aligned: the crop, and where it lies in the photo.
        photo: name of the photo's file.
    """

    name: str
    aligned: Aligned
    photo: str


def find_faces(photos: Sequence[Path], size: int, *, aligned: bool = False, face: int | None = None) -> list[NamedFace]:
    """The faces of photos, each from left to right.

    Args:
        photos: paths with different stems.
        size, aligned, face: see `open_photo`.

    Raises:
        ToonError: a photo cannot be read or shows no face, or not the one asked for.
    """
    result = []
    for path in photos:
        photo = open_photo(path, size, aligned=aligned, face=face)
        several = len(photo.faces) > 1
        names = [f"{path.stem}-{number}" if several else path.stem for number in photo.numbers]
        result += [NamedFace(name, crop, path.name) for name, crop in zip(names, photo.faces)]
    return result


@dataclass(frozen=True, eq=False)
class Found:
    """The projection of a face, ready to be written.

    Attributes:
        face: what was projected.
        projection: the result.
        embedder: the recogniser that compares photo and result.
        provenance: see `weights.descend`.
        base: the network as it was before tuning, for the latent file; None = what tuning added is left out.
    """

    face: NamedFace
    projection: Projection
    embedder: FaceEmbedder
    provenance: Mapping[str, Any]
    base: Generator | None = None

    @staticmethod
    def files(out: Path, name: str, config: InversionConfig, way: str | None) -> list[Path]:
        """What `save` writes: latent, picture, report, and as asked for the tuned network and the film."""
        endings = [".safetensors", "-projected.png", ".json"]
        endings += ["-network.safetensors"] * bool(config.tune_steps) + [f"-way.{way}"] * bool(way)
        return [out / f"{name}{ending}" for ending in endings]

    def report(self) -> dict[str, Any]:
        """The content of NAME.json: `Projection.scores`, the identity, and where the face lies in the photo."""
        shown, target = self.projection.image, self.projection.target
        with torch.no_grad():
            identity = float(self.embedder.similarity(shown, target))
        corners = [[round(float(x), 2) for x in corner] for corner in self.face.aligned.quad]
        return {
            **self.projection.scores(),
            "identity": round(identity, 4),
            "identity_network": self.embedder.name,
            "transform": {"photo": self.face.photo, "corners": corners, "size": target.shape[-1]},
        }

    def save(
        self, out: Path, config: InversionConfig, *, overwrite: bool = False, way: str | None = None,
        film: Way | None = None,
    ) -> None:  # fmt: skip
        """Write `files`; ``film`` is what ``way`` shows."""
        latent, picture, report, *further = self.files(out, self.face.name, config, way)
        save_projection(self.projection, latent, dict(self.provenance), self.base)
        if config.tune_steps:
            network = {"G_ema": self.projection.generator}
            save_networks(further[0], network, provenance=self.provenance, overwrite=overwrite)
        pictures = [self.face.aligned.image, to_pil(self.projection.image[0])]
        save_image(image_grid(pictures, columns=2, size=256, column_labels=["aligned", "projected"]), picture)
        if way and film is not None:
            film.save(further[-1], pictures[0], pictures[1])
        with atomic_path(report) as temporary:
            temporary.write_text(json.dumps(self.report(), indent=2) + "\n")

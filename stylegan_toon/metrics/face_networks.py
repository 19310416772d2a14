"""Networks behind the metrics of faces: detection and identity."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ..errors import ToonError
from ..faces.align import has_face
from ..features.extractors import Extractor
from ..features.hub import Unavailable
from ..features.identity import FaceEmbedder, face_embedder, load_facenet


class FaceDetection(Extractor):
    """1 where MTCNN finds a face with confidence 0.9 or more, else 0; D = 1."""

    name = "detection"
    digest = "mtcnn, confidence 0.9"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.device = str(device)

    def forward(self, pictures: Tensor) -> Tensor:
        images = (Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pictures.cpu().contiguous())
        faces = [has_face(image, device=self.device) for image in images]
        return torch.tensor(faces, dtype=torch.float32, device=pictures.device)[:, None]


def embedder(network: str, *, device: torch.device | str = "cpu") -> FaceEmbedder:
    """The face embedding behind the metrics ``identity`` ("facenet") and ``identity-dlib``.

    Raises:
        ToonError: FaceNet cannot be loaded.
    """
    if network == "facenet":
        try:
            return load_facenet().eval().requires_grad_(False).to(device)
        except Unavailable as error:
            raise ToonError(
                f"FaceNet cannot be loaded ({error}): use identity-dlib, which needs no connection."
            ) from error
    return face_embedder(network, device=device)

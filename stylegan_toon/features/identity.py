"""Face embeddings: how alike two faces are, as the cosine between two vectors.

The default is dlib's recogniser, which ships. So does a second one, independent of it, that judges what was trained
with the first. InceptionResnetV1 trained on VGGFace2 (facenet-pytorch; Schroff et al., "FaceNet", arXiv 1503.03832) is
downloaded when it is asked for. Cosines of different networks are not comparable, so results carry the network's
``name``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choose import choose
from .dlib import face_chip, recogniser
from .faceres import face_square, faceres
from .hub import Unavailable, hub_file, load_state
from .perceptual import fit

FACENET_URL = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
# Where MTCNN finds the face in an FFHQ crop: left, top, right, bottom as shares of the side. Mean over 100
# synthetic FFHQ-aligned faces; the recogniser was trained on such boxes, squeezed to a square.
FACE_BOX = (0.22, 0.18, 0.77, 0.92)


class FaceEmbedder(nn.Module, ABC):
    """Maps an FFHQ-aligned face ``[N, 3, R, R]`` in [-1, 1] to a unit vector ``[N, E]``.

    Attributes:
        name: "dlib", "faceres" or "facenet-vggface2": which network is behind it.
    """

    name: str

    @abstractmethod
    def forward(self, img: Tensor) -> Tensor:
        """``[N, 3, R, R]`` -> ``[N, E]``, each row of unit length."""

    def with_maps(self, img: Tensor) -> tuple[Tensor, Tensor | None]:
        """The unit vectors, and features that still have places, ``[N, C, H, W]``; None if it has none to give."""
        return self(img), None

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine of the embeddings of aligned faces ``[N, 3, R, R]``: ``[N]`` in [-1, 1], 1 = the same."""
        return (self(a) * self(b)).sum(dim=1)


class DlibFaces(FaceEmbedder):
    """dlib's face recogniser on its square of an aligned picture; E = 128.

    All vectors lie on one side of the sphere, so the cosines of different people are high, too. For portraits they
    are 0.98 to 0.997 on average to altered copies (mirrored, turned, blurred, darker; lowest 0.95), and 0.84 to other
    people (highest 0.94). The table is in pretrained/dlib-identity.md.
    """

    name = "dlib"

    def __init__(self) -> None:
        super().__init__()
        self.network = recogniser()

    def raw(self, img: Tensor) -> Tensor:
        """``[N, 3, R, R]`` (or one channel) in [-1, 1] -> vectors ``[N, 128]`` of a length of about 1.4."""
        return self.network(self._chip(img))

    def forward(self, img: Tensor) -> Tensor:
        return F.normalize(self.raw(img), dim=1)

    def with_maps(self, img: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors, and what the first ten blocks make of the pictures: ``[N, 128, 8, 8]``."""
        maps = self.network.maps(self._chip(img))
        return F.normalize(self.network.vectors(maps), dim=1), maps

    def _chip(self, img: Tensor) -> Tensor:
        chip = face_chip(img.expand(-1, 3, -1, -1))
        return (chip.to(self.network.head.factor.dtype) + 1) * 127.5

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """dlib's own measure of aligned faces ``[N, 3, R, R]``: Euclidean distance ``[N]``, below 0.6 = one person."""
        return (self.raw(a) - self.raw(b)).norm(dim=1)


class Faceres(FaceEmbedder):
    """The recogniser ``faceres`` on its square of an aligned picture; E = 1024.

    Cosines of portraits are 0.97 on average to their mirror images and 0.41 to other people (the table is in
    pretrained/faceres-identity.md).
    """

    name = "faceres"

    def __init__(self) -> None:
        super().__init__()
        self.network = faceres()

    def forward(self, img: Tensor) -> Tensor:
        square = face_square(img.expand(-1, 3, -1, -1))
        return F.normalize(self.network((square.float() + 1) * 127.5), dim=1)


class FaceNet(FaceEmbedder):
    """facenet-pytorch's InceptionResnetV1 on the face box of an aligned picture; E = 512.

    Args:
        state: its published state; the classifier (``logits.*``) is not used.
    """

    name = "facenet-vggface2"

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        from facenet_pytorch import InceptionResnetV1

        self.network = InceptionResnetV1(pretrained=None)
        self.network.load_state_dict({key: v for key, v in state.items() if not key.startswith("logits.")})

    def forward(self, img: Tensor) -> Tensor:
        height, width = img.shape[2:]
        left, top, right, bottom = FACE_BOX
        face = img[:, :, round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
        # The package standardises pixels as (x - 127.5) / 128; ours are (x - 127.5) / 127.5.
        return self.network(fit(face.float(), 160) * (127.5 / 128))


def face_embedder(
    identity: str | Path | FaceEmbedder = "dlib",
    *,
    device: torch.device | str = "cpu",
) -> FaceEmbedder:
    """A face embedding: frozen, in eval mode, on ``device``.

    Args:
        identity: "dlib" or "faceres", which ship; "facenet", whose weights are downloaded once; or a ``.pt`` file with
            facenet-pytorch's weights.

    Raises:
        ToonError: there is no such embedding, or it is not available.
    """
    if isinstance(identity, FaceEmbedder):
        return identity.to(device)
    builders: dict[str, Callable[[], FaceEmbedder]] = {"dlib": DlibFaces, "faceres": Faceres, "facenet": load_facenet}
    return choose(
        identity,
        builders,
        {".pt": load_facenet},
        what="a face embedding",
        instead="use dlib or faceres, which ship",
        device=device,
    )


def load_facenet(path: Path | None = None) -> FaceNet:
    """FaceNet from facenet-pytorch's own cache, downloaded into it, or from a given file of its weights.

    Raises:
        Unavailable: the weights or the package are missing, or the file holds something else.
    """
    cache = Path(torch.hub.get_dir()).parent / "checkpoints"  # where facenet-pytorch itself looks
    state = load_state(path or hub_file(FACENET_URL, folder=cache))
    try:
        return FaceNet(state)
    except ImportError as error:
        raise Unavailable("the facenet-pytorch package is not installed") from error
    except RuntimeError as error:
        raise Unavailable(f"{path or FACENET_URL} does not hold its weights") from error

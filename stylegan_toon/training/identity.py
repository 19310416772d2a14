"""Face embeddings: how alike two faces are, as the cosine between two vectors.

``face_embedder()`` gives InceptionResnetV1 trained on VGGFace2 (facenet-pytorch; Schroff et al., "FaceNet",
arXiv 1503.03832) where its weights can be had, otherwise the deep features of this project's discriminator.
Cosines of the two are not comparable: ``name`` says which one a figure comes from.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ToonError
from ..nn import Discriminator, Generator
from ..weights import load_network
from .hub import Unavailable, hub_file, load_state
from .perceptual import fit

FACENET_URL = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
# Where MTCNN finds the face in an FFHQ crop: left, top, right, bottom as shares of the side. Mean over 100
# synthetic FFHQ-aligned faces; the recogniser was trained on such boxes, squeezed to a square.
FACE_BOX = (0.22, 0.18, 0.77, 0.92)
ENVIRONMENT = "STYLEGAN_TOON_IDENTITY"


class FaceEmbedder(nn.Module, ABC):
    """Maps an FFHQ-aligned face ``[N, 3, R, R]`` in [-1, 1] to a unit vector ``[N, E]``.

    Attributes:
        name: "facenet-vggface2" or "discriminator": which network is behind it.
    """

    name: str

    @abstractmethod
    def forward(self, img: Tensor) -> Tensor:
        """``[N, 3, R, R]`` -> ``[N, E]``, each row of unit length."""

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine of the embeddings of aligned faces ``[N, 3, R, R]``: ``[N]`` in [-1, 1], 1 = the same."""
        return (self(a) * self(b)).sum(dim=1)


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
        # The package standardises pixels as (x - 127.5) / 128: our range but for 1/256.
        return self.network(fit(face.float(), 160) * (127.5 / 128))


class DiscriminatorFaces(FaceEmbedder):
    """Deep features of a discriminator, seen from the average face.

    Activations of any two faces are nearly parallel, so the mean over ``samples`` of the generator is taken
    away first: the cosine then compares what sets each face apart.
    """

    name = "discriminator"

    def __init__(self, network: Discriminator, generator: Generator | None = None, samples: int = 64) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.zeros(()))
        if generator is not None:
            z = torch.randn(samples, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                parts = [self._features(generator(part, noise_mode="const")) for part in z.split(16)]
            self.mean = torch.cat(parts).mean(dim=0)

    def _features(self, img: Tensor) -> Tensor:
        config = self.network.config
        found = self.network.features(fit(img, config.resolution, config.img_channels))
        # The two deepest blocks, on a 4x4 grid: what is where in the face, but not at which pixel.
        return torch.cat([F.adaptive_avg_pool2d(x.float(), 4).flatten(1) for x in found[-2:]], dim=1)

    def forward(self, img: Tensor) -> Tensor:
        return F.normalize(self._features(img) - self.mean, dim=1)


def face_embedder(
    identity: str | Path | FaceEmbedder = "auto",
    *,
    device: torch.device | str = "cpu",
    say: Callable[[str], object] = lambda line: None,
) -> FaceEmbedder:
    """The face embedding to use, frozen, in eval mode, on ``device``.

    Args:
        identity: "facenet"; "discriminator" (the shipped ``faces`` D); "auto" = facenet where its weights are
            cached or can be downloaded within two minutes, else the discriminator; a path: a ``.pt`` with
            facenet-pytorch's weights, or a network file with ``G_ema`` and ``D``. With "auto", the environment
            variable STYLEGAN_TOON_IDENTITY may hold any of these.
        say: gets one line on what "auto" chose and why, when that is not facenet.

    Raises:
        ToonError: when what was asked for cannot be had.
    """
    if isinstance(identity, FaceEmbedder):
        return identity.to(device)
    choice = str(identity)
    if choice == "auto":
        choice = os.environ.get(ENVIRONMENT) or "auto"
    if choice in ("auto", "facenet") or choice.endswith(".pt"):
        try:
            found: FaceEmbedder = load_facenet(Path(choice) if choice.endswith(".pt") else None)
        except Unavailable as error:
            if choice != "auto":
                raise ToonError(f"FaceNet is not to be had: {error}; use --identity discriminator.") from error
            say(f"FaceNet is not to be had ({error}): using the discriminator's features.")
            choice = "discriminator"
        else:
            return found.eval().requires_grad_(False).to(device)
    source = "faces" if choice == "discriminator" else choice
    found = DiscriminatorFaces(load_network(source, which="D"), load_network(source))
    return found.eval().requires_grad_(False).to(device)


def load_facenet(path: Path | None = None) -> FaceNet:
    """FaceNet from the cache facenet-pytorch keeps, or the network, or a given file of its weights.

    Raises:
        Unavailable: when the weights or the package cannot be had.
    """
    cache = Path(torch.hub.get_dir()).parent / "checkpoints"  # where facenet-pytorch itself looks
    state = load_state(path or hub_file(FACENET_URL, folder=cache))
    try:
        return FaceNet(state)
    except ImportError as error:
        raise Unavailable("the facenet-pytorch package is not installed") from error
    except RuntimeError as error:
        raise Unavailable(f"{path or FACENET_URL} does not hold its weights") from error

"""Whether something lies before a face: a mask, a bar, a hand, glasses as dark as a bar.

The encoder and the network behind it have seen bare faces. What they show for a face that is covered differs from it
over a large part, and not only by a shift of all its colours.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..data.images import to_tensor
from ..inversion.encoder import Encoder
from ..models import Generator

SIDE = 32  # pixels, at which pictures are compared
SHOWN = 64  # pixels: side of what the network shows, or its smallest
# Mean difference over the face, in units of [-1, 1] a channel. On 68 portraits of bare faces it is 0.195 at most;
# with a face mask drawn over them it is at least 0.37, with bars over the eyes 0.52.
COVERED = 0.3
FACE = (0.5, 0.58, 0.19, 0.24)  # an ellipse of skin, eyes and mouth: centre and half axes as shares of the crop


@torch.no_grad()
def misfit(G: Generator, encoder: Encoder, face: Image.Image) -> float:
    """How much a face differs from what ``G`` shows for its encoded latent, apart from a shift of its colours.

    Args:
        G: a network that the encoder fits, on its device.
        encoder: see `inversion.encoder`.
        face: FFHQ-aligned crop.
    """
    target = to_tensor(face).to(G.mapping.w_avg.device)
    sizes = G.config.head_resolutions
    image = G.synthesis(encoder(target), noise_mode="const", resolution=SHOWN if SHOWN in sizes else sizes[0])
    a, b = (F.interpolate(picture, size=(SIDE, SIDE), mode="area") for picture in (target, image.float()))
    difference = F.avg_pool2d(a - b, 3, 1, 1)[0][:, _face().to(a.device)]
    difference = difference - difference.median(dim=1, keepdim=True).values
    return float(difference.square().sum(0).sqrt().mean())


def _face() -> torch.Tensor:
    at = (np.arange(SIDE) + 0.5) / SIDE
    inside = ((at[None] - FACE[0]) / FACE[2]) ** 2 + ((at[:, None] - FACE[1]) / FACE[3]) ** 2 < 1
    return torch.from_numpy(inside)

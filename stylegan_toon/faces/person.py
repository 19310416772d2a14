"""Which pixels of a picture show a person: hair, hats and clothes included."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from ..weights import shipped_network
from .person_network import SIDE, PersonNetwork


@lru_cache(maxsize=2)
def person_network(device: str = "cpu") -> PersonNetwork:
    """The shipped network, in eval mode.

    Raises:
        ToonError: its file is missing from the installation or damaged.
    """
    return shipped_network("person", PersonNetwork).to(device)


def person_mask(picture: Image.Image, *, device: str = "cpu") -> np.ndarray:
    """Probability of a person at each pixel of a picture.

    Args:
        picture: RGB, any size; portraits and cartoons of them. The network sees it reduced or stretched to 256 px.
        device: of the network.

    Returns:
        float32 ``[256, 256]`` in [0, 1], over the whole picture.
    """
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    img = torch.from_numpy(np.array(small)).to(device).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        return person_network(device)(img)[0].sigmoid().cpu().numpy()

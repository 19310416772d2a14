"""The small networks that ship for the package's own use: recognisers, landmarks, features, the encoder."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from .checkpoint import load_networks
from .zoo import pretrained_folder

Network = TypeVar("Network", bound=nn.Module)


def shipped_network(stem: str, kind: type[Network]) -> Network:
    """The network of a class in ``pretrained/STEM.safetensors``, in eval mode and frozen; a new copy at every call.

    Raises:
        ToonError: the file is missing from the installation or damaged.
    """
    (network,) = load_networks(pretrained_folder() / f"{stem}.safetensors").values()
    assert isinstance(network, kind)
    return network.requires_grad_(False)

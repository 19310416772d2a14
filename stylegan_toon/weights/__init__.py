"""Floor 3: networks on disk."""

from .checkpoint import KINDS, Header, load_networks, read_header, save_networks, sha256_of
from .download import cache_folder
from .formats import read_networks, write_networks
from .provenance import descend, lineage, name_of, provenance_of, unrelated
from .zoo import Entry, catalogue, load_family, load_network, locate, pretrained_folder

__all__ = [
    "KINDS",
    "Entry",
    "Header",
    "cache_folder",
    "catalogue",
    "descend",
    "lineage",
    "load_family",
    "load_network",
    "load_networks",
    "locate",
    "name_of",
    "pretrained_folder",
    "provenance_of",
    "read_header",
    "read_networks",
    "save_networks",
    "sha256_of",
    "unrelated",
    "write_networks",
]

"""Floor 3: networks on disk."""

from .checkpoint import KINDS, Header, load_networks, read_header, save_networks, sha256_of
from .provenance import descend, lineage, name_of, provenance_of, unrelated

__all__ = [
    "KINDS",
    "Header",
    "descend",
    "lineage",
    "load_networks",
    "name_of",
    "provenance_of",
    "read_header",
    "save_networks",
    "sha256_of",
    "unrelated",
]

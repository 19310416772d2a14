"""Networks on disk: this package's checkpoints, formats of other repositories, networks by name, downloads."""

from .checkpoint import Header, load_networks, read_header, save_networks, sha256_of
from .delta import add_delta, save_delta
from .download import cache_folder
from .formats import read_networks, write_networks
from .kinds import KINDS
from .provenance import descend, lineage, name_of, provenance_of, same_file, set_provenance, unrelated
from .shipped import shipped_network
from .zoo import Entry, catalogue, load_family, load_network, locate, pretrained_folder

__all__ = [
    "KINDS",
    "Entry",
    "Header",
    "add_delta",
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
    "same_file",
    "save_delta",
    "save_networks",
    "set_provenance",
    "sha256_of",
    "shipped_network",
    "unrelated",
    "write_networks",
]

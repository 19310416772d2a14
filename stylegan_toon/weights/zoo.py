"""Networks by name, file or address: `load_network` and `load_family`.

``pretrained/models.toml`` lists the names. There are four sorts of entries:

    file (+ sha256)              a file shipped with the package
    url (+ sha256) (+ size)      downloaded once into the cache; with ``file`` too, only where that is missing.
                                 Without sha256 the file was never verified: its publisher names none
    base + toon + swap (+ width) a blend made on the spot; with ``delta`` (+ sha256), a file of what training changed in
                                 it is added (see `delta`)
    same_as                      another name

All may have ``about`` and ``licence``.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import torch
from torch import nn

from ..errors import ToonError, short
from ..models import Discriminator, Generator
from ..models.swap import swap_layers
from .delta import add_delta
from .download import MAX_BYTES, download
from .formats import read_networks
from .provenance import descend, provenance_of, set_provenance

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Entry:
    """One name of the zoo; see the module's docstring."""

    name: str
    about: str = ""
    licence: str = ""
    file: str | None = None
    url: str | None = None
    sha256: str | None = None
    size: int | None = None
    base: str | None = None
    toon: str | None = None
    swap: str | None = None
    width: float | None = None
    delta: str | None = None
    same_as: str | None = None


def pretrained_folder() -> Path:
    """Inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "pretrained"
    return inside if inside.is_dir() else package.parent / "pretrained"


def catalogue() -> dict[str, Entry]:
    """The entries of ``models.toml`` by name.

    Raises:
        ToonError: the file is missing from the installation.
    """
    path = pretrained_folder() / "models.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ToonError(f"{path}, the list of networks, cannot be read: reinstall stylegan_toon.") from error
    return {name: Entry(name=name, **fields) for name, fields in tomllib.loads(text).items()}


def locate(entry: Entry, mirror: str | None = None) -> Path:
    """The file of an entry that has one: shipped, or else cached, or else downloaded (see `download` for ``mirror``).

    Raises:
        ToonError: it is in none of these places.
    """
    if entry.file is not None and (shipped := pretrained_folder() / entry.file).exists():
        return shipped
    if entry.url is not None:
        return download(entry.url, sha256=entry.sha256, max_bytes=entry.size or MAX_BYTES, mirror=mirror)
    raise ToonError(
        f"{entry.file} of the network '{entry.name}' is missing from {pretrained_folder()}: reinstall stylegan_toon."
    )


@overload
def load_network(
    source: str | Path,
    *,
    which: Literal["G_ema", "G"] = ...,
    device: str | torch.device = ...,
    mirror: str | None = ...,
) -> Generator: ...
@overload
def load_network(
    source: str | Path, *, which: Literal["D"], device: str | torch.device = ..., mirror: str | None = ...
) -> Discriminator: ...
def load_network(
    source: str | Path, *, which: str = "G_ema", device: str | torch.device = "cpu", mirror: str | None = None
) -> Generator | Discriminator:
    """Load one network, in float32 and eval mode, with ``.provenance``.

    Args:
        source: a name of the zoo (``"faces"``), a file of any kind that `formats` reads, or an ``https://`` address
            of one, which may end in ``#sha256=...`` to be checked. A string without a dot or a slash is a name.
        which: member of the family: ``"G_ema"``, ``"G"`` or ``"D"``.
        device: where to put it.
        mirror: https folder to download from instead, see `download`.

    Raises:
        ToonError: what is wrong with the source, in one sentence.
    """
    network = load_family(source, which=[which], device=device, mirror=mirror)[which]
    role = Discriminator if which == "D" else Generator
    if not isinstance(network, role):
        raise ToonError(f"{which} of {source} is a {type(network).__name__}, not a {role.__name__}: give another file.")
    return network


def load_family(
    source: str | Path,
    *,
    which: Collection[str] | None = None,
    device: str | torch.device = "cpu",
    mirror: str | None = None,
) -> dict[str, nn.Module]:
    """Load all networks of a source, or those named in ``which``, by their names; otherwise as `load_network`."""
    text = str(source)
    if isinstance(source, str) and "://" in text:
        networks = _load_address(text, which, mirror)
    elif isinstance(source, Path) or "." in text or "/" in text or "\\" in text:
        networks = read_networks(source, which=which)
    else:
        networks = _load_entry(_find(text), which, mirror)
    return {name: network.to(device) for name, network in networks.items()}


def _load_address(text: str, which: Collection[str] | None, mirror: str | None) -> dict[str, nn.Module]:
    address, _, fragment = text.partition("#")
    if fragment and not re.fullmatch("sha256=[0-9a-fA-F]{64}", fragment):
        raise ToonError(f"#{fragment} after an address should be #sha256= and 64 hexadecimal digits: correct it.")
    digest = fragment.removeprefix("sha256=") or None
    networks = read_networks(download(address, sha256=digest, mirror=mirror), which=which, sha256=digest)
    for network in networks.values():
        set_provenance(network, provenance_of(network), name=address.rpartition("/")[2])
    return networks


def _find(name: str) -> Entry:
    entries = catalogue()
    if name not in entries:
        local = [key for key, entry in entries.items() if entry.url is None]  # what needs no download
        near = " or ".join(difflib.get_close_matches(name, entries, n=3, cutoff=0.5) or local)
        raise ToonError(f"There is no network named '{short(name)}': say {near}, or give a file or an https address.")
    return entries[name]


def _load_entry(entry: Entry, which: Collection[str] | None, mirror: str | None) -> dict[str, nn.Module]:
    networks: dict[str, nn.Module]
    if entry.same_as is not None:
        networks = _load_entry(_find(entry.same_as), which, mirror)
    elif entry.base and entry.toon and entry.swap is not None:
        networks = {"G_ema": _blend_entry(entry, entry.base, entry.toon, entry.swap, which, mirror)}
    else:
        networks = read_networks(locate(entry, mirror), which=which, sha256=entry.sha256)
    licence = {"licence": entry.licence} if entry.licence else {}
    for network in networks.values():
        set_provenance(network, licence | provenance_of(network), name=entry.name)
    return networks


def _blend_entry(
    entry: Entry, base: str, toon: str, swap: str, which: Collection[str] | None, mirror: str | None
) -> Generator:
    for name in which or ():
        if name != "G_ema":
            raise ToonError(f"'{entry.name}' is a blend and has no {name}: ask for G_ema, or for {name} of {base}.")
    parents = load_network(base, mirror=mirror), load_network(toon, mirror=mirror)
    network = swap_layers(*parents, swap, entry.width, names=(base, toon))
    network.provenance = descend("blend", {"swap": swap, "width": entry.width}, parents)
    if entry.delta is not None:
        add_delta(network, pretrained_folder() / entry.delta, sha256=entry.sha256)
    return network

"""Networks by name, file or address: the one place where a source becomes a network.

``pretrained/models.toml`` lists the names. An entry is of one of four sorts:

    file (+ sha256)              a file shipped with the package
    url + sha256 (+ size)        downloaded once into the cache; with ``file`` too, only where that is missing
    base + toon + swap (+ width) a blend made on the spot
    same_as                      another name

All may have ``about`` and ``licence``.
"""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..errors import ToonError
from ..nn import Discriminator, Generator
from ..nn.swap import swap_layers
from .checkpoint import load_networks
from .download import MAX_BYTES, download
from .provenance import descend

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ROLES = {"G": Generator, "G_ema": Generator, "D": Discriminator}
_FOREIGN = (".pkl", ".pt", ".pth", ".ckpt", ".bin")


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


def locate(entry: Entry) -> Path:
    """The file of an entry that has one: shipped, or else cached, or else downloaded.

    Raises:
        ToonError: it is in none of these places.
    """
    if entry.file is not None and (shipped := pretrained_folder() / entry.file).exists():
        return shipped
    if entry.url is not None:
        return download(entry.url, sha256=entry.sha256, max_bytes=entry.size or MAX_BYTES)
    raise ToonError(
        f"{entry.file} of the network '{entry.name}' is missing from {pretrained_folder()}: reinstall stylegan_toon."
    )


def load_network(source: str | Path, *, which: str = "G_ema", device: str | torch.device = "cpu") -> nn.Module:
    """Load one network, in float32 and eval mode, with ``.provenance``.

    Args:
        source: a name of the zoo (``"faces"``), a file, or an ``https://`` address, which may end in
            ``#sha256=...`` to be checked. A string without a dot or a slash is a name.
        which: member of the family: ``"G_ema"``, ``"G"`` or ``"D"``.
        device: where to put it.

    Raises:
        ToonError: what is wrong with the source, in one sentence.
    """
    text = str(source)
    if isinstance(source, str) and "://" in text:
        network = _load_address(text, which, device)
    elif isinstance(source, Path) or "." in text or "/" in text or "\\" in text:
        _refuse_foreign(text)
        network = load_networks(source, which=[which], device=device)[which]
    else:
        network = _load_entry(_find(text), which, device)
    role = _ROLES.get(which, nn.Module)
    if not isinstance(network, role):
        raise ToonError(f"{which} of {text} is a {type(network).__name__}, not a {role.__name__}: give another file.")
    return network


def _load_address(text: str, which: str, device: str | torch.device) -> nn.Module:
    address, _, fragment = text.partition("#")
    _refuse_foreign(address)
    if fragment and not re.fullmatch("sha256=[0-9a-fA-F]{64}", fragment):
        raise ToonError(f"#{fragment} after an address should be #sha256= and 64 hexadecimal digits: correct it.")
    digest = fragment.removeprefix("sha256=") or None
    network = load_networks(download(address, sha256=digest), which=[which], device=device, sha256=digest)[which]
    network.provenance["name"] = address.rpartition("/")[2]
    return network


def _find(name: str) -> Entry:
    entries = catalogue()
    if name not in entries:
        near = " or ".join(difflib.get_close_matches(name, entries, n=3, cutoff=0.4) or entries)
        raise ToonError(f"There is no network named '{name}': say {near}, or give a file or an https address.")
    return entries[name]


def _load_entry(entry: Entry, which: str, device: str | torch.device) -> nn.Module:
    if entry.same_as is not None:
        network = _load_entry(_find(entry.same_as), which, device)
    elif entry.swap is not None:
        network = _blend_entry(entry, which, device)
    else:
        network = load_networks(locate(entry), which=[which], device=device, sha256=entry.sha256)[which]
    network.provenance["name"] = entry.name
    return network


def _blend_entry(entry: Entry, which: str, device: str | torch.device) -> nn.Module:
    if which != "G_ema":
        raise ToonError(f"'{entry.name}' is a blend and has no {which}: ask for G_ema, or for {which} of {entry.base}.")
    parents = [load_network(name, device=device) for name in (entry.base, entry.toon)]
    network = swap_layers(*parents, entry.swap, entry.width, names=(entry.base, entry.toon))
    network.provenance = descend("blend", {"swap": entry.swap, "width": entry.width}, parents)
    return network


def _refuse_foreign(text: str) -> None:
    suffix = Path(text).suffix.lower()
    if suffix in _FOREIGN:
        raise ToonError(
            f"{text} is a {suffix} file, which this version does not read (pickles can run code): give a .safetensors "
            "network or a name."
        )

"""Where a network comes from: parents by name and sha256, carried from file to file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from torch import nn

from .. import __version__


def provenance_of(network: nn.Module) -> dict[str, Any]:
    """Where a network comes from; empty for one that was never on disk."""
    return getattr(network, "provenance", {})


def set_provenance(network: nn.Module, provenance: Mapping[str, Any], **more: Any) -> None:
    """Note where a network of any class comes from, as its attribute ``provenance``; ``more`` wins."""
    vars(network)["provenance"] = {**provenance, **more}


def name_of(network: nn.Module, otherwise: str) -> str:
    """The name it was loaded by, for messages and labels."""
    return str(provenance_of(network).get("name", otherwise))


def descend(command: str, options: Mapping[str, Any], parents: Sequence[nn.Module], **more: Any) -> dict[str, Any]:
    """The provenance of what ``command`` makes from ``parents``.

    Keys: ``verb`` (the command), ``options``, ``version``, ``date`` (UTC), ``parents`` (name and sha256 of each),
    ``ancestors`` (sha256 of every file that went into them), ``licence`` (those of the parents), and ``more``
    (``data``, ``images_seen`` ...; these win).
    """
    histories = [provenance_of(parent) for parent in parents]
    licences = dict.fromkeys(str(history["licence"]) for history in histories if history.get("licence"))
    return {
        "verb": command,
        "options": dict(options),
        "version": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "parents": [{"name": history.get("name"), "sha256": history.get("sha256")} for history in histories],
        "ancestors": sorted(set().union(*map(lineage, parents))),
        **({"licence": "; ".join(licences)} if licences else {}),
        **more,
    }


def lineage(network: nn.Module) -> set[str]:
    """sha256 of the file a network came from and of every file before that."""
    history = provenance_of(network)
    ancestors = history.get("ancestors")
    digests = [history.get("sha256"), *(ancestors if isinstance(ancestors, list) else [])]
    return {digest for digest in digests if isinstance(digest, str)}


def same_file(a: nn.Module, b: nn.Module) -> bool:
    """True when both were read from files with the same sha256."""
    digest = provenance_of(a).get("sha256")
    return digest is not None and digest == provenance_of(b).get("sha256")


def unrelated(a: nn.Module, b: nn.Module) -> bool:
    """True when both have a history and no file is part of both."""
    mine, theirs = lineage(a), lineage(b)
    return bool(mine and theirs) and mine.isdisjoint(theirs)

"""Reads and writes networks in every supported format; readers are chosen by the content of a file, not its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ToonError
from . import mobile_checkpoint, nvlabs, nvlabs_writer, rosinality, rosinality_writer
from .assemble import members
from .checkpoint import MAX_HEADER, load_networks, save_networks, sha256_of
from .mobile_ir import read_mobile_ir
from .openvino import FILES, is_wheel
from .pickled_tensors import opened
from .provenance import provenance_of, set_provenance

_READERS = (mobile_checkpoint, rosinality)  # of pickles, in the order they are tried; nvlabs reads all others
# Endings of file names -> the format that is written.
WRITTEN = {".safetensors": "this package's", ".pkl": "stylegan2-ada-pytorch's", ".pt": "rosinality's"}


def read_networks(
    path: str | Path, *, which: Collection[str] | None = None, sha256: str | None = None
) -> dict[str, nn.Module]:
    """Build the networks of a file of any known kind, in float32 and eval mode, on the CPU.

    Each network carries ``.provenance``: ``name`` and ``sha256`` of the file, and what the reader of the format adds.

    Args:
        path: ``.safetensors`` of this package, ``.pkl`` of NVIDIA's PyTorch repositories, ``.pt`` of rosinality's,
            ``.ckpt`` of MobileStyleGAN.pytorch, or MobileStyleGAN as OpenVINO's files (the wheel of random-face, a
            folder, or an ``.xml`` of it).
        which: build only these members (``"G"``, ``"D"``, ``"G_ema"``); None = all.
        sha256: refuse a file with another digest; of OpenVINO's files outside of a wheel, that of all four together.

    Raises:
        ToonError: what is wrong with the file, in one sentence.
    """
    path = Path(path)
    if _is_ir(path):
        return _read_ir(path, which, sha256)
    if not _is_pickle(path):
        return load_networks(path, which=which, sha256=sha256)
    digest = sha256_of(path, sha256)
    with opened(path, nvlabs.ALLOWED.union(*(reader.ALLOWED for reader in _READERS))) as file:
        reader = next((reader for reader in _READERS if reader.recognises(file.root)), nvlabs)
        networks = reader.networks_of(file, path, which)
    for network in networks.values():
        set_provenance(network, provenance_of(network), name=path.name, sha256=digest)
    return networks


def write_networks(
    path: str | Path,
    networks: Mapping[str, nn.Module],
    *,
    layout: str = "ada",
    provenance: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write networks in the format that the ending of ``path`` names; see `WRITTEN`.

    Args:
        layout: for ``.pkl``: the repository that shall load it; see `nvlabs_writer.LAYOUTS`.
        provenance: for ``.safetensors``: see `save_networks`; that of the first network if None.
        dtype: for ``.safetensors``: see `save_networks`.

    Returns:
        Sentences about what was added or left out.

    Raises:
        ToonError: as `ending` or the writer of the format.
    """
    suffix = ending(path, dtype)
    if suffix == ".pkl":
        return nvlabs_writer.write_networks(path, networks, layout=layout, overwrite=overwrite)
    if suffix == ".pt":
        return rosinality_writer.write_networks(path, networks, overwrite=overwrite)
    if provenance is None and networks:
        provenance = provenance_of(next(iter(networks.values())))
    save_networks(path, networks, provenance=provenance, dtype=dtype, overwrite=overwrite)
    return []


def ending(path: str | Path, dtype: torch.dtype | None = None) -> str:
    """The ending of ``path``, which chooses the format.

    Raises:
        ToonError: it is not in `WRITTEN`, or its format cannot hold ``dtype``.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITTEN:
        raise ToonError(f"{path} should end in {', '.join(WRITTEN)}: the ending chooses the format.")
    if dtype is not None and suffix != ".safetensors":
        raise ToonError(f"{path} can hold float32 only: write .safetensors, or leave the precision as it is.")
    return suffix


def _is_ir(path: Path) -> bool:
    if path.is_dir():
        return (path / FILES[2]).is_file()
    head = _start(path).lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith((b"<?xml", b"<net")) or (head[:2] == b"PK" and is_wheel(path))


def _read_ir(path: Path, which: Collection[str] | None, sha256: str | None) -> dict[str, nn.Module]:
    digest = sha256_of(path, sha256) if _start(path)[:2] == b"PK" else None
    if not members(path, ["G_ema"], which):
        return {}
    network = read_mobile_ir(path, None if digest else sha256)
    network.provenance |= {"name": path.name, **({"sha256": digest} if digest else {})}
    return {"G_ema": network}


def _is_pickle(path: Path) -> bool:
    head = _start(path)[:9]
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
        return False  # the length of a safetensors header may look like the start of a pickle
    return head[:2] == b"PK" or head[:1] == b"\x80"


def _start(path: Path) -> bytes:
    """The first bytes of an ordinary file, or none."""
    if not path.is_file():  # reading a pipe would block for ever
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError:
        return b""  # the reader of this package's files raises the sentence

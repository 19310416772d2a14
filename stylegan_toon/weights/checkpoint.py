"""Networks on disk: one safetensors file holds one network or a family, and enough to build them again.

The tensors are named ``FAMILY_MEMBER.tensor`` (``G_ema.synthesis.b4.const``). The header's metadata holds four
entries: ``format_version``, and as JSON ``kind`` and ``config`` (one per member) and ``provenance`` (one per file).
A file is never trusted: its header is bounded and checked before memory is allocated for its tensors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..config import fits
from ..errors import ToonError, short
from ..files import atomic_path, explained_reading, refuse_overwrite
from .assemble import assemble, members, misfit
from .kinds import KINDS, classes_of, kind_of
from .pickled_tensors import Storage, StoredTensor
from .pickles import PickleError
from .provenance import set_provenance
from .quantised import SUFFIX, Quantised, quantise, worth_it

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT_VERSION = 2  # 2: tensors in 8 bits; files without them say 1
MAX_HEADER = 4 << 20  # bytes; G, G_ema and D at 1024 px need 60 kB

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES = {
    **FLOATS,
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


@dataclass(frozen=True)
class Header:
    """The metadata of a file, checked for form.

    Attributes:
        format_version: of this layout; files of a newer one are refused.
        kind: name of each network -> key of `KINDS`.
        config: name of each network -> fields of its config dataclass, as JSON.
        provenance: where the file comes from; see `provenance.descend`.
        tensors: name -> (safetensors dtype such as "F16", shape).
    """

    format_version: int
    kind: dict[str, str]
    config: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...]]]


def save_networks(
    path: str | Path,
    networks: Mapping[str, nn.Module],
    *,
    provenance: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    eight_bits: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a family of networks to one file, completely or not at all.

    Args:
        path: usually ends in ``.safetensors``.
        networks: name (``"G"``, ``"G_ema"``, ``"D"``) -> a network of one of `KINDS`.
        provenance: anything JSON can hold, see `provenance.descend`.
        dtype: store floating tensors as this (``torch.float16`` halves the file); None = as they are.
        eight_bits: store matrices in 8 bits a number, with a factor for each row; the rest as ``dtype`` says.
        overwrite: replace ``path`` if it exists.

    Raises:
        ToonError: the file exists, cannot be written, or a value does not fit into ``dtype``.
        ValueError: a network of no known kind, or a name with a dot.
    """
    path = Path(path)
    refuse_overwrite([path], overwrite)
    kinds, configs, tensors = {}, {}, {}
    for name, network in networks.items():
        if not name or "." in name:
            raise ValueError(f"a network's name may not be empty or hold a dot, like {name!r}")
        kinds[name] = kind_of(network)
        configs[name] = dataclasses.asdict(cast("DataclassInstance", network.config))
        for key, tensor in network.state_dict().items():
            quantised = eight_bits and worth_it(key, tensor)
            key = f"{name}.{key}"
            if quantised:
                tensors[key], tensors[key + SUFFIX] = quantise(tensor.cpu())
            else:
                tensors[key] = _for_storage(key, tensor, dtype)
    metadata = {
        "format_version": str(FORMAT_VERSION if eight_bits else 1),
        "kind": json.dumps(kinds),
        "config": json.dumps(configs),
        "provenance": json.dumps(dict(provenance or {})),
    }
    # Serialised in memory, so that a full disk is an OSError that can be explained and not an error of the library.
    data = to_safetensors(tensors, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _for_storage(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    stored = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
    if dtype is not None and bool((~stored.isfinite() & tensor.detach().cpu().isfinite()).any()):
        raise ToonError(f"{name} holds values too large for {dtype}: save it as torch.float32.")
    return stored.contiguous()


def read_header(path: str | Path) -> Header:
    """Read and check a file's header without reading its tensors.

    Raises:
        ToonError: no such file, not a whole safetensors file, or not one of this package's.
    """
    with open_safetensors(Path(path)) as file:
        return _header(file, Path(path))


def load_networks(
    path: str | Path,
    *,
    which: Collection[str] | None = None,
    device: str | torch.device = "cpu",
    sha256: str | None = None,
) -> dict[str, nn.Module]:
    """Build the networks of a file, in float32 and eval mode.

    Every tensor of a network comes from the file, in the right shape; otherwise nothing is returned.
    Each network carries ``.provenance``: the file's, plus its ``name`` and ``sha256``.

    Args:
        path: a file written by `save_networks`.
        which: build only these members; None = all.
        device: where to put them.
        sha256: refuse a file with another digest.

    Raises:
        ToonError: what is wrong with the file, in one sentence.
    """
    path = Path(path)
    with open_safetensors(path) as file:
        header = _header(file, path)
        digest = sha256_of(path, sha256)
        networks = {name: _build(path, header, name).to(device) for name in members(path, header.kind, which)}
    for network in networks.values():
        set_provenance(network, header.provenance, name=path.name, sha256=digest)
    return networks


def sha256_of(path: str | Path, expected: str | None = None) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        ToonError: it is not ``expected``.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    actual = digest.hexdigest()
    if expected is not None and actual != expected.lower():
        raise ToonError(f"{path} is not the file it should be (sha256 {actual}, expected {expected}): get it again.")
    return actual


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """A safetensors file for the block, its header's length checked before it is read.

    Raises:
        ToonError: missing, damaged, or of another format.
    """
    with explained_reading(str(path), "network"):
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe would block for ever
                raise ToonError(f"{path} is no ordinary file: give one network file.")
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if file.read(1) != b"{" or length > MAX_HEADER:
                    raise ToonError(f"{path} is not a file of networks: give a .safetensors, .pkl or .pt network.")
            with safe_open(path, framework="pt") as opened:
                yield opened
        except SafetensorError as error:
            reason = " ".join(str(error).split())
            raise ToonError(f"{path} is damaged or cut short ({reason}): copy or download it again.") from error
        except PickleError as error:
            raise ToonError(f"{path} changed while it was read ({error}): try again.") from error


def _header(file: Any, path: Path) -> Header:
    metadata = file.metadata() or {}
    if "format_version" not in metadata:
        raise ToonError(f"{path} holds tensors but does not say of what network: give one saved by this package.")
    try:
        version = int(metadata["format_version"])
        kind, config, provenance = (json.loads(metadata[key]) for key in ("kind", "config", "provenance"))
    except (KeyError, ValueError, RecursionError) as error:
        raise _odd(path, "it cannot be parsed") from error
    if version > FORMAT_VERSION:
        raise ToonError(f"{path} was made by a newer version (format {version}): upgrade stylegan_toon.")
    whole = all(isinstance(part, dict) for part in (kind, config, provenance))
    if not whole or not kind or kind.keys() != config.keys():
        raise _odd(path, "kind, config and provenance do not belong together")
    for name, value in kind.items():
        if not isinstance(value, str) or value not in KINDS:
            raise _odd(path, f"{name} is of the unknown kind {short(value)}")
        if not isinstance(config[name], dict):
            raise _odd(path, f"the config of {name} is {short(config[name])}")
    tensors = {}
    for key in file.keys():  # noqa: SIM118 (a safe_open is not a mapping)
        part = file.get_slice(key)
        tensors[key] = (part.get_dtype(), tuple(part.get_shape()))
    strays = [key for key in tensors if key.partition(".")[0] not in kind]
    if strays:
        raise misfit(path, "unknown", strays)
    return Header(version, kind, config, provenance, tensors)


def _build(path: Path, header: Header, name: str) -> nn.Module:
    """One network of the file, on the CPU."""
    prefix = f"{name}."
    stored = {key: info for key, info in header.tensors.items() if key.startswith(prefix)}
    config_class, network_class = classes_of(header.kind[name])
    config = _config(path, name, config_class, header.config[name], depth=max(len(stored), 64))
    # Tensor by tensor, since the pages of the library's memory map would take the same memory a second time.
    with open(path, "rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        places = json.loads(raw.read(length))  # the library has checked them, and that they fit the file
        tensors: dict[str, StoredTensor | Quantised] = {}
        for key, (dtype, shape) in stored.items():
            if dtype not in _DTYPES:
                raise misfit(path, f"of type {dtype}", [key])
            storage = Storage(_DTYPES[dtype], math.prod(shape), 8 + length + places[key]["data_offsets"][0])
            stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
            tensors[key.removeprefix(prefix)] = StoredTensor(storage, 0, shape, stride)
        for key in [key for key in tensors if key.endswith(SUFFIX)]:
            scale, name = tensors.pop(key), key.removesuffix(SUFFIX)
            levels = tensors.get(name)
            if not isinstance(levels, StoredTensor) or not isinstance(scale, StoredTensor):
                raise misfit(path, "with nothing to scale", [prefix + key])
            if levels.dtype != torch.int8 or scale.shape != levels.shape[:1]:
                raise misfit(path, "with nothing to scale", [prefix + key])
            tensors[name] = Quantised(levels, scale)
        return assemble(config, network_class, tensors, path, lambda tensor: tensor.read(raw), prefix)


def _config(path: Path, name: str, cls: type, values: Mapping[str, Any], depth: int) -> Any:
    """An instance of the config dataclass ``cls``. ``depth`` bounds the fields that count layers."""
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    checked = {}
    for field, value in values.items():
        if field not in names:
            raise _odd(path, f"the config of {name} has the unknown field {short(field)}")
        value = tuple(value) if isinstance(value, list) else value
        # A million layers take no memory on the meta device, but hours to build.
        too_deep = field.endswith("_layers") and isinstance(value, int) and value > depth
        if too_deep or not fits(value, hints[field]):
            raise _odd(path, f"the config of {name} says {field} = {short(value)}")
        checked[field] = value
    try:
        return cls(**checked)
    except (TypeError, ValueError, OverflowError) as error:
        raise _odd(path, f"the config of {name} is wrong ({short(error)})") from error


def _odd(path: Path, reason: str) -> ToonError:
    return ToonError(f"{path} has a header this cannot use ({reason}): save the network again.")

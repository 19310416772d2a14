"""OpenVINO's IR: the graph of a network (``.xml``) and its constants (``.bin``), read as data.

A graph is layers, joined by edges from output ports to input ports. The files are not trusted: sizes are bounded, an
XML with a document type (and so with entities) is refused, and a constant must lie within its ``.bin`` and have the
size that follows from its shape.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

import torch
from torch import Tensor

from ..errors import ToonError, short
from ..files import BoundedReader

FILES = ("MappingNetwork.xml", "MappingNetwork.bin", "SynthesisNetwork.xml", "SynthesisNetwork.bin")
_MAX = {".xml": 4 << 20, ".bin": 512 << 20}  # bytes; the published network has 0.4 MB and 32 MB
_MAX_LAYERS = 10_000
_MAX_DIRECTORY = 1 << 20  # bytes of a wheel's table of contents
_RATIO = 100  # beyond the first MB, members that are compressed further than this are refused
_TYPES = {
    **{"f16": torch.float16, "f32": torch.float32, "f64": torch.float64},
    **{"i32": torch.int32, "i64": torch.int64},
}

Node = tuple[str, int]  # id of a layer, and which of its outputs


class GraphError(Exception):
    """What is wrong with a graph, as a clause."""


@dataclass
class Layer:
    """One operator.

    Attributes:
        kind: such as "Convolution".
        data: its attributes.
        inputs: ids of its input ports, in order.
        outputs: id of each output port -> shape of what leaves there, in order.
    """

    kind: str
    data: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)


class Graph:
    """A parsed graph; layers count as used once `take` or `constant` has been called for them.

    Args:
        xml, constants: contents of the two files.

    Raises:
        GraphError: it is malformed.
    """

    def __init__(self, xml: bytes, constants: bytes) -> None:
        self.layers: dict[str, Layer] = {}
        self.used: set[str] = set()
        self._edges: dict[tuple[str, str], tuple[str, str]] = {}  # to (layer, port) -> from (layer, port)
        self._constants, self._claimed = memoryview(constants), 0
        _parse(xml, self.layers, self._edges)
        for layer in self.layers.values():
            if layer.kind == "Const":
                self._place(layer)

    def kind(self, node: Node) -> str:
        """The kind of a layer."""
        return self.layers[node[0]].kind

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of an output according to the file."""
        shapes = list(self.layers[node[0]].outputs.values())
        return shapes[node[1]]

    def inputs(self, node: Node) -> list[Node]:
        """The outputs that the inputs of a layer are connected to."""
        sources = []
        for port in self.layers[node[0]].inputs:
            source, port = self._edges.get((node[0], port), ("", ""))
            if source not in self.layers or port not in self.layers[source].outputs:
                raise GraphError("an edge is missing")
            sources.append((source, list(self.layers[source].outputs).index(port)))
        return sources

    def take(self, node: Node, kind: str, **data: str) -> list[Node]:
        """The inputs of a layer, which must be of this kind and have these attributes."""
        layer = self.layers[node[0]]
        if layer.kind != kind:
            raise GraphError(f"there is a {short(layer.kind)} where a {kind} belongs")
        for name, value in data.items():
            if "".join(layer.data.get(name, value).split()) != value:
                raise GraphError(f"{name} of a {kind} is {short(layer.data[name])} instead of {value}")
        self.used.add(node[0])
        return self.inputs(node)

    def constant(self, node: Node) -> Tensor:
        """The value of a constant."""
        self.take(node, "Const")
        shape, kind, start, size = self._place(self.layers[node[0]])
        self._claimed += size
        if self._claimed > 2 * len(self._constants) + (1 << 20):
            raise GraphError("its constants claim more than the .bin holds")
        data = self._constants[start : start + size]
        return torch.frombuffer(bytearray(data), dtype=kind).reshape(shape) if size else torch.zeros(shape, dtype=kind)

    def only(self, kind: str) -> Node:
        """The only layer of a kind."""
        names = [name for name, layer in self.layers.items() if layer.kind == kind]
        if len(names) != 1:
            raise GraphError(f"it has {len(names)} layers of the kind {kind} instead of one")
        self.used.add(names[0])
        return names[0], 0

    def check_all_used(self) -> None:
        """Raise GraphError if a layer of the file was not used."""
        if rest := [f"{layer.kind} {name}" for name, layer in self.layers.items() if name not in self.used]:
            raise GraphError(f"{len(rest)} of its layers have no place in the network, such as {short(rest[0])}")

    def _place(self, layer: Layer) -> tuple[tuple[int, ...], torch.dtype, int, int]:
        """Shape, type, offset and size in bytes of a constant, checked."""
        shape = tuple(_number(part) for part in layer.data.get("shape", "").split(",") if part.strip())
        kind = _TYPES.get(layer.data.get("element_type", ""))
        start, size = _number(layer.data.get("offset", "")), _number(layer.data.get("size", ""))
        if kind is None:
            raise GraphError(f"a constant is of the type {short(layer.data.get('element_type', 'nothing'))}")
        if len(shape) > 8 or size != math.prod(shape) * kind.itemsize:
            raise GraphError("the size of a constant is not that of its shape")
        if start + size > len(self._constants):
            raise GraphError("a constant lies beyond the end of the .bin")
        return shape, kind, start, size


def _number(text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise GraphError(f"{short(text) or 'nothing'} stands where a size or an offset belongs")
    return int(text)


def _parse(xml: bytes, layers: dict[str, Layer], edges: dict[tuple[str, str], tuple[str, str]]) -> None:
    parser = expat.ParserCreate()
    path: list[str] = []
    layer, port, text = Layer(""), [""], [""]
    shape: list[int] = []

    def refuse(*_: object) -> None:
        raise GraphError("its XML has a document type, which an IR has not")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal layer
        if len(path) >= 16:
            raise GraphError("its XML is nested too deeply")
        path.append(tag)
        match path:
            case ["net", "layers", "layer"]:
                layer = Layer(attributes.get("type", ""))
                if attributes.get("id", "") in layers or len(layers) >= _MAX_LAYERS:
                    raise GraphError("it has too many layers, or two with one id")
                layers[attributes.get("id", "")] = layer
            case ["net", "layers", "layer", "data"]:
                layer.data = dict(attributes)
            case ["net", "layers", "layer", "input" | "output", "port"]:
                port[0] = attributes.get("id", "")
                shape.clear()
            case ["net", "edges", "edge"]:
                into = attributes.get("to-layer", ""), attributes.get("to-port", "")
                if into in edges:
                    raise GraphError("two edges lead to one input")
                edges[into] = attributes.get("from-layer", ""), attributes.get("from-port", "")
        text[0] = ""

    def end(tag: str) -> None:
        match path:
            case ["net", "layers", "layer", "input", "port"]:
                layer.inputs.append(port[0])
            case ["net", "layers", "layer", "output", "port"]:
                layer.outputs[port[0]] = tuple(shape)
            case ["net", "layers", "layer", "input" | "output", "port", "dim"]:
                shape.append(_number(text[0]))
        path.pop()

    def characters(data: str) -> None:
        if path[-1:] == ["dim"] and len(text[0]) < 64:
            text[0] += data

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, characters
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, UnicodeError, ValueError, LookupError) as error:
        raise GraphError(f"its XML is malformed ({short(error)})") from error


# ---------------------------------------------------------------- the four files


def is_wheel(path: Path) -> bool:
    """Whether a zip holds the files of an IR by name."""
    try:
        with open(path, "rb") as file:
            names = zipfile.ZipFile(BoundedReader(file, _MAX_DIRECTORY)).namelist()
    except (OSError, ToonError, ValueError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError):
        return False  # the reader of the next format raises the sentence
    return any(name.rpartition("/")[2] == FILES[2] for name in names)


def read_ir(path: Path) -> tuple[Graph, Graph, str]:
    """The graphs of the mapping and of the synthesis network, and the sha256 of the four files together.

    Args:
        path: a wheel that holds the four `FILES`, a folder with them, or one of the ``.xml`` in it.

    Raises:
        ToonError: what is wrong, in one sentence.
    """
    folder = path if path.is_dir() else path.parent
    contents = list(_from_wheel(path) if path.is_file() and zipfile.is_zipfile(path) else _from_folder(folder))
    graphs = []
    for name, xml, constants in zip(FILES[::2], contents[::2], contents[1::2]):
        try:
            graphs.append(Graph(xml, constants))
        except GraphError as error:
            raise refusal(path, name, error) from error
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return graphs[0], graphs[1], digest.hexdigest()


def refusal(path: Path, name: str, error: GraphError) -> ToonError:
    """The sentence for a graph that is not what it should be."""
    return ToonError(
        f"{name} of {path} is not MobileStyleGAN's as OpenVINO keeps it, for {error}: give the wheel of random-face."
    )


def _from_folder(folder: Path) -> Iterator[bytes]:
    for name in FILES:
        file = folder / name
        if not file.is_file():
            raise ToonError(f"{file} is missing: an IR is the four files {', '.join(FILES)} in one folder.")
        try:
            with open(file, "rb") as opened:
                content = opened.read(_MAX[file.suffix] + 1)
        except OSError as error:
            raise ToonError(f"{file} cannot be read ({error.strerror or error}): check the path.") from error
        if len(content) > _MAX[file.suffix]:
            raise ToonError(f"{file} is larger than any file of this kind: give the one of random-face.")
        yield content


def _from_wheel(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            archive = zipfile.ZipFile(BoundedReader(file, _MAX_DIRECTORY))
            for name in FILES:
                members = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == name]
                if len(members) != 1:
                    raise ToonError(f"{path} holds {len(members)} files {name} instead of one: download it again.")
                yield _member(path, archive, members[0])
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise ToonError(f"{path} is a damaged zip ({short(error)}): download it again.") from error
    except OSError as error:
        raise ToonError(f"{path} cannot be read ({error.strerror or error}): check the path.") from error


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, within bounds; `zipfile` verifies the checksum."""
    most = min(_MAX[info.filename[-4:]], (1 << 20) + _RATIO * info.compress_size)
    if info.file_size > most or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ToonError(f"{path} holds {short(info.filename)} packed as no wheel is: download it again.")
    content = bytearray()
    with archive.open(info) as opened:
        while chunk := opened.read(1 << 18):
            content += chunk
            if len(content) > most:
                break
    if len(content) != info.file_size:
        raise ToonError(f"{path} holds {short(info.filename)} cut short or too long: download it again.")
    return bytes(content)

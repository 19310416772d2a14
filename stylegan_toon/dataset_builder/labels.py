"""Labels for a set that is being made."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from ..data.sources import Source
from ..errors import ToonError

KINDS = ("auto", "none", "folders", "cartoonset")
MAX_VARIANTS = 10_000


def labels_of(kind: str, sources: Sequence[Source]) -> tuple[list[list[Any]], dict[str, Any]]:
    """A label (class, numbers or None) for every picture of every source, and entries about them for ``dataset.json``.

    Args:
        kind: "auto" keeps the labels of the sources; "none" drops them; "folders" makes each top folder (or, with
            several sources, each source) a class, in order of name; "cartoonset" reads the attributes in the CSV
            beside each picture of CartoonSet 10k and 100k, one one-hot group an attribute.

    Raises:
        ToonError: labels that are asked for are missing or malformed.
    """
    if kind == "folders":
        return _folders(sources)
    if kind == "cartoonset":
        return _cartoonset(sources)
    stored = [source.labels() if kind == "auto" else None for source in sources]
    return [[None] * len(source.names) if given is None else given for source, given in zip(sources, stored)], {}


def _folders(sources: Sequence[Source]) -> tuple[list[list[Any]], dict[str, Any]]:
    if len(sources) > 1:
        tops = [[str(source.path)] * len(source.names) for source in sources]
    else:
        tops = [[name.rpartition("/")[0].partition("/")[0] for name in sources[0].names]]
        if "" in tops[0]:
            raise ToonError(f"{sources[0].names[tops[0].index('')]} lies in no folder: --labels folders needs one.")
    classes = sorted({top for part in tops for top in part})
    number = {top: index for index, top in enumerate(classes)}
    names = [PurePosixPath(top).name for top in classes]
    return [[number[top] for top in part] for part in tops], {"classes": names}


def _cartoonset(sources: Sequence[Source]) -> tuple[list[list[Any]], dict[str, Any]]:
    schema: list[tuple[str, int]] | None = None
    labels = []
    for source in sources:
        labels.append([])
        for name in source.names:
            table = f"{name.rpartition('.')[0]}.csv"
            rows = read_attributes(source.read(table), f"{table} in {source.path}")
            this = [(attribute, variants) for attribute, _, variants in rows]
            schema = schema or this
            if this != schema:
                raise ToonError(f"{table} in {source.path} has other attributes than the first: take it out.")
            labels[-1].append([int(value == k) for _, value, variants in rows for k in range(variants)])
    return labels, {"attributes": schema}


def read_attributes(data: bytes, name: str) -> list[tuple[str, int, int]]:
    """Attribute, value and number of variants, as the rows of a CartoonSet CSV hold them.

    Raises:
        ToonError: the data is not such a table.
    """
    try:
        rows = [(row[0], int(row[1]), int(row[2])) for row in csv.reader(io.StringIO(data.decode("utf-8-sig"))) if row]
        sound = all(0 <= value < variants for _, value, variants in rows)
        if rows and sound and sum(variants for _, _, variants in rows) <= MAX_VARIANTS:
            return rows
    except (ValueError, IndexError, csv.Error):
        pass
    raise ToonError(f"{name} is no table of CartoonSet: its rows must be attribute, value, number of variants.")

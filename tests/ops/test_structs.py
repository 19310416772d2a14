"""The parameter structs in Python are those of csrc/api.h, and a kernel refuses one without tensors."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from stylegan_toon.ops import library, structs

HEADER = Path(__file__).parents[2] / "csrc" / "api.h"


def fields_in_c(name: str) -> list[tuple[str, type]]:
    """The fields of a struct of api.h, and the ctypes type that each needs."""
    text = re.sub(r"//[^\n]*", "", HEADER.read_text())
    body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", text, re.DOTALL)
    assert body, f"api.h has no struct {name}"
    fields = []
    for declaration in filter(None, (line.strip() for line in body[1].split(";"))):
        match = re.match(r"(?:const )?(void|float|int64_t|double) (.*)", declaration, re.DOTALL)
        assert match, declaration
        for variable in match[2].split(","):
            variable = variable.strip()
            pointer = variable.startswith("*")
            kind = ctypes.c_void_p if pointer else {"int64_t": ctypes.c_int64, "double": ctypes.c_double}[match[1]]
            fields.append((variable.lstrip("*"), kind))
    return fields


@pytest.mark.skipif(not HEADER.is_file(), reason="needs the sources in csrc")
@pytest.mark.parametrize("struct", structs.ALL)
def test_fields_are_those_of_the_header(struct):
    assert fields_in_c(struct.c_name()) == struct._fields_


@pytest.mark.skipif(not HEADER.is_file(), reason="needs the sources in csrc")
def test_every_struct_of_the_header_is_checked():
    names = re.findall(r"^} (Toon\w+);", HEADER.read_text(), re.MULTILINE)
    assert sorted(names) == sorted(struct.c_name() for struct in structs.ALL)


def test_fields_must_be_complete():
    complete = {name: 0 for name in structs.Haar.names}
    assert structs.Haar(**complete).n == 0
    with pytest.raises(TypeError, match="colours"):
        structs.Haar(**complete, colours=3)
    del complete["up"]
    with pytest.raises(TypeError, match="up"):
        structs.Haar(**complete)


@pytest.mark.skipif(not library.available("cpu"), reason=f"compiled kernels: {library.why_not('cpu')}")
@pytest.mark.parametrize("struct", structs.ALL)
def test_a_struct_without_tensors_is_refused(struct):
    assert library.kernels().toon_sizeof(struct.c_name().encode()) == ctypes.sizeof(struct)
    op = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", struct.__name__).lower()
    empty = struct(**{name: 0 for name in struct.names})
    assert b"missing" in library._launcher(op, "cpu")(ctypes.byref(empty), 1)

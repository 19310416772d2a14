"""Hostile, damaged and renamed .pt files: each is refused in a sentence, runs nothing and takes next to no memory.

All are read in one process that is watched: its address space may not grow by more than 1.5 times a file's honest
size and a constant, and Python's audit events tell whether anything is run or opened.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylegan_toon.errors import ToonError
from stylegan_toon.weights.rosinality import read_networks
from stylegan_toon.weights.torchfile import load_pt

FIXTURES = Path(__file__).parent / "fixtures"
MARK = "this must never be made"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {}


def hostile(reason: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Enter a maker of bytes under its name, with what the refusal must say."""

    def enter(make: Callable[[], bytes]) -> Callable[[], bytes]:
        HOSTILE[make.__name__] = (make, reason)
        return make

    return enter


def saved(content: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(pickled: bytes, data: dict[str, bytes] | None = None, **more: bytes | str) -> bytes:
    """An archive as torch writes it, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n", **more}.items():
            archive.writestr(f"archive/{name}", content)
        for key, content in (data or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return buffer.getvalue()


class Call:
    """Pickles as a call of ``function`` with ``args``."""

    def __init__(self, function: Callable, *args: object, state: object = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple:
        return self.parts


def pickled(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


def code(*parts: bytes | str) -> bytes:
    """A pickle written by hand: protocol 2, parts, stop."""
    return b"\x80\x02" + b"".join(part.encode() if isinstance(part, str) else part for part in parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(numel: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    """Opcodes that put a storage on the stack."""
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(numel) + b"tQ"


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor(numel: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], **options: str) -> bytes:
    """Opcodes that put a tensor in such a storage on the stack."""
    hooks = b"ccollections\nOrderedDict\n)R"
    sizes = b"".join(b"(" + b"".join(map(number, part)) + b"t" for part in (shape, stride))
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return rebuild + storage(numel, **options) + number(offset) + sizes + b"\x89" + hooks + b"tR"


def one(numel: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], **options: str) -> bytes:
    """A file with one tensor, over 16 bytes."""
    return zipped(code(b"}", text("a"), tensor(numel, offset, shape, stride, **options), b"s"), {"0": bytes(16)})


# ---------------------------------------------------------------- running code


@hostile("asks for os.system")
def os_system():
    return zipped(code("cos\nsystem\n(X", struct.pack("<I", len(MARK) + 6), f"touch {MARK}tR"))


@hostile("asks for posix.system")
def os_system_inside_a_state_dict():
    return saved({"g_ema": {"style.1.weight": Call(os.system, f"touch '{MARK}'")}})


@hostile("asks for posix.system")
def os_system_in_the_old_form():
    return saved({"g_ema": Call(os.system, f"touch '{MARK}'")}, _use_new_zipfile_serialization=False)


@hostile("is not of a known version")
def a_pickle_after_the_magic_number():
    magic = pickled(0x1950A86A20F9469CFC6C)
    return magic + pickled(1001) + pickled({"little_endian": False}) + pickled(Call(os.system, f"touch '{MARK}'"))


@hostile("neither a zip nor an older torch file")
def a_plain_pickle():
    return pickled(Call(os.system, f"touch '{MARK}'"))


@hostile("asks for __builtin__.eval")
def builtin_eval():
    return zipped(pickled(Call(eval, f"open('{MARK}', 'w')")))


@hostile("asks for __builtin__.getattr")
def chain_of_getattr():
    return zipped(pickled(Call(getattr, Call(getattr, Call(__import__, "os"), "path"), "join")))


@hostile("asks for commands.Popen")
def popen():
    return zipped(pickled(Call(subprocess.Popen, ["touch", MARK])))


@hostile("asks for torch.hub.load")
def a_function_of_torch():
    return zipped(code("ctorch.hub\nload\n(", text("somebody/something"), "tR"))


@hostile("asks for torch.storage._load_from_bytes")
def a_file_inside_the_file():
    inner = saved(Call(os.system, f"touch '{MARK}'"))
    return zipped(pickled(Call(torch.storage._load_from_bytes, inner)))


@hostile("uses STACK_GLOBAL")
def a_global_off_the_stack():
    return zipped(code(text("os"), text("system"), b"\x93(", text(f"touch '{MARK}'"), b"tR"))


@hostile("uses PROTO 4")
def another_protocol():
    return zipped(pickle.dumps({"a": Call(os.system, "true")}, protocol=4))


@hostile("uses INST")
def an_instance():
    return zipped(code("(", text("touch x"), "ios\nsystem\n"))


@hostile("sets the state of an object")
def state_of_an_ordered_dict():
    return zipped(pickled(Call(collections.OrderedDict, state={"__reduce__": 1})))


@hostile("sets the state of an object")
def state_of_a_tensor():
    return zipped(code(tensor(4, 0, (4,), (1,)), b"}b"), {"0": bytes(16)})


@hostile("makes an object of its own kind")
def calling_what_is_not_callable():
    return zipped(code(tensor(4, 0, (4,), (1,)), b")R"), {"0": bytes(16)})


@hostile("asks for torch.jit")
def a_script_module():
    return zipped(code("ctorch.jit._pickle\nrestore_type_tag\n."))


@hostile("unexpected part 'archive/constants.pkl'")
def a_torchscript_archive():
    return zipped(code(b"}"), **{"constants.pkl": code(b")"), "code/__torch__.py": "import os"})


@hostile("is odd")
def a_persistent_id_with_a_path():
    return zipped(
        code(b"(", text("open"), "ctorch\nFloatStorage\n", text("/etc/passwd"), text("cpu"), number(4), b"tQ")
    )


@hostile("the size they claim")
def a_storage_that_is_a_path():
    return one(4, 0, (4,), (1,), key="../../../etc/passwd")


@hostile("unexpected part 'archive/../../up'")
def a_member_that_climbs():
    return zipped(code(b"}"), **{"../../up": b"x"})


# ---------------------------------------------------------------- taking memory


@hostile("asks for __builtin__.bytearray")
def a_terabyte_of_bytes():
    return zipped(pickled({"a": Call(bytearray, 10**12)}))


@hostile("asks for torch.FloatTensor")
def a_tensor_made_to_measure():
    return zipped(code("ctorch\nFloatTensor\n(", number(10**11), b"tR"))


@hostile("makes an object of its own kind")
def dicts_copied_over_and_over():
    entries = b"".join(number(i) + b"N" for i in range(20_000))
    copy = b"ccollections\nOrderedDict\nh\x00\x85R0".replace(b"0", b"")
    return zipped(code(b"](}(", entries, b"uq\x00", copy * 5_000, b"e"))


@hostile("far too many objects")
def many_namespaces():
    return zipped(pickled([argparse.Namespace(a=i) for i in range(1000)]))


@hostile("it is compressed")
def a_zip_bomb_of_tensors():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", code(b"}"))
        archive.writestr("archive/data/0", bytes(100 << 20))
    return buffer.getvalue()


@hostile("it is compressed")
def a_zip_bomb_of_opcodes():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", code(b"]" * (100 << 20)))
    return buffer.getvalue()


@hostile("lists far too many parts")
def many_members():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(20_000):
            archive.writestr(f"archive/data/{i}", b"")
    return buffer.getvalue()


@hostile("does not end where it says")
def a_directory_of_exabytes():
    data = zipped(code(b"}"))
    return data[:-10] + struct.pack("<2L", 0xFFFFFFF0, 0) + data[-2:]


@hostile("its end is damaged")
def a_large_directory_of_exabytes():
    record = b"PK\x06\x06" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 1, 1, 2**60, 0)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 2**50, 1)
    return (
        zipped(code(b"}"))[:-22] + record + locator + b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 1, 1, 2**32 - 1, 0, 0)
    )


@hostile("far too long")
def a_long_pickle():
    return zipped(code(b"]" * 900_000))


@hostile("a part of its description is far too long")
def a_huge_pickle():
    return zipped(code(text("a" * (2 << 20)), b"0", b"}"))


@hostile("far too long")
def a_million_tensors():
    again = b"h\x00h\x01R"
    first = tensor(4, 0, (4,), (1,)).replace(b"v2\n(", b"v2\nq\x00(", 1)[:-1] + b"q\x01R"
    return zipped(code(b"](", first, again * 150_000, b"e"), {"0": bytes(16)})


@hostile("no whole network")
def a_memo_entry_far_out():
    return zipped(code(b"}r\xff\xff\xff\x7f", text("input.input"), b"Ns"))


@hostile("damaged or cut short")
def a_string_longer_than_the_file():
    return zipped(code(b"X\xff\xff\xff\xffabc"))


@hostile("holds a tuple and no networks")
def tuples_in_tuples():
    return zipped(code(b")", b"\x85" * 60_000))


@hostile("neither a name nor a number")
def a_key_that_is_deep():
    return zipped(code(b"})", b"\x85" * 60_000, b"Ns"))


@hostile("the size they claim")
def a_storage_larger_than_its_bytes():
    return one(10**12, 0, (10**12,), (1,))


@hostile("reaches beyond its memory")
def a_tensor_larger_than_its_storage():
    return one(4, 0, (10**12,), (1,))


@hostile("reaches beyond its memory")
def a_tensor_beyond_its_storage():
    return one(4, 2**62, (1,), (1,))


@hostile("shape is odd")
def a_tensor_before_its_storage():
    return one(4, -(2**40), (4,), (1,))


@hostile("shape is odd")
def a_negative_size():
    return one(4, 0, (-1, -4), (1, 1))


@hostile("reaches beyond its memory")
def one_number_spread_over_terabytes():
    return one(4, 0, (512, 512, 1024, 1024), (0, 0, 0, 0))


@hostile("does not fill its memory")
def strides_that_repeat():
    return one(4, 0, (2, 2), (1, 1))


@hostile("does not fill its memory")
def strides_that_leave_the_storage():
    return one(4, 0, (2, 2), (2**40, 1))


@hostile("its tensors overlap")
def tensors_that_overlap():
    both = [text(name) + tensor(4, offset, (3,), (1,)) + b"s" for name, offset in (("a", 0), ("b", 1))]
    return zipped(code(b"}", *both), {"0": bytes(16)})


@hostile("a storage is of two sizes")
def a_storage_of_two_types():
    parts = [
        text(kind) + tensor(n, 0, (n,), (1,), kind=kind) + b"s"
        for kind, n in (("FloatStorage", 4), ("ByteStorage", 16))
    ]
    return zipped(code(b"}", *parts), {"0": bytes(16)})


@hostile("in the same memory")
def one_tensor_under_all_names():
    content = torch.load(FIXTURES / "rosinality.pt", weights_only=False)["g_ema"]
    weight = content["convs.0.conv.weight"]
    return saved({"g_ema": {name: weight if value.shape == weight.shape else value for name, value in content.items()}})


@hostile("the size they claim")
def an_old_file_that_claims_terabytes():
    data = saved({"a": torch.zeros(4)}, _use_new_zipfile_serialization=False)
    at = data.index(b"cpuq") + 5  # the number of elements follows the device
    assert data[at : at + 2] == b"K\x04"
    return data[:at] + number(2**40) + data[at + 2 :]


@hostile("asks for torch._utils._rebuild_sparse_tensor")
def a_sparse_tensor():
    return saved({"a": torch.zeros(4, 4).to_sparse()})


# ---------------------------------------------------------------- damage and disguise


@hostile("neither a zip nor an older torch file")
def nothing():
    return b""


@hostile("neither a zip nor an older torch file")
def renamed_text():
    return b"dear reader,\n" * 100


@hostile("neither a zip nor an older torch file")
def renamed_picture():
    return b"\x89PNG\r\n\x1a\n" + bytes(1000)


@hostile("cut short")
def a_zip_cut_short():
    return (FIXTURES / "rosinality.pt").read_bytes()[:-1]


@hostile("cut short")
def half_a_zip():
    data = (FIXTURES / "rosinality.pt").read_bytes()
    return data[: len(data) // 2]


@hostile("something was appended")
def something_appended():
    return (FIXTURES / "rosinality.pt").read_bytes() + b"#!/bin/sh\n"


@hostile("neither a zip nor an older torch file")
def something_before():
    return b"#!/bin/sh\n" + zipped(code(b"}"))


@hostile("does not end where it says")
def something_between():
    data = zipped(code(b"}"))
    return data[:-22] + bytes(100) + data[-22:]


@hostile("the size they claim")
def an_old_file_cut_short():
    return (FIXTURES / "rosinality-old.pt").read_bytes()[:-4]


@hostile("cut short")
def an_old_file_cut_very_short():
    return (FIXTURES / "rosinality-old.pt").read_bytes()[:300]


@hostile("unexpected part")
def two_pickles():
    return zipped(code(b"}"), dat1_pkl=code(b"}")).replace(b"dat1_pkl", b"data.pkl")


@hostile("its parts overlap")
def members_that_overlap():
    data = zipped(code(b"}"), {"0": b"abcd"})
    last = data.rindex(b"PK\x01\x02")  # its entry in the directory: point it at the first member
    return data[: last + 42] + struct.pack("<L", 0) + data[last + 46 :]


@hostile("it has no data.pkl")
def somebody_elses_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/version", b"3")
    return buffer.getvalue()


@hostile("big end first")
def the_other_byte_order():
    return zipped(code(b"}"), byteorder=b"big")


@hostile("it is compressed")
def an_encrypted_member():
    data = zipped(code(b"}"))
    first = data.index(b"PK\x01\x02")
    return data[: first + 8] + b"\x01" + data[first + 9 :]


@hostile("damaged")
def an_empty_stack():
    return zipped(code(b"0000s"[4:]))


@hostile("damaged")
def a_memo_never_made():
    return zipped(code(b"h\x07"))


@hostile("holds none of g_ema, g and d")
def somebody_elses_weights():
    return saved({"state_dict": {"conv.weight": torch.zeros(3)}, "epoch": 4})


@hostile("missing: input.input")
def large_and_incomplete():
    """Its honest size is 48 MB: refusing it may take 1.5 times that."""
    return saved({"g_ema": {"big": torch.ones(12 << 20)}})


WATCH = """
import json, os, resource, sys
from pathlib import Path
from stylegan_toon.errors import ToonError
from stylegan_toon.weights.rosinality import read_networks

def now(field):  # kB
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])

seen = []
def watch(event, args):
    if event in {"exec", "compile"} and getattr(args[0], "co_filename", "").startswith(sys.base_prefix):
        return  # Python's own modules, imported late
    if event.split(".")[0] in {"os", "subprocess", "shutil", "socket", "ctypes"} or event in {"exec", "compile"} or (
        event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    ):
        seen.append(f"{event} {args}"[:200])

*fixtures, folder = map(Path, sys.argv[1:])
for path in fixtures:
    read_networks(path)
resource.setrlimit(resource.RLIMIT_AS, ((now("VmPeak") << 10) + (2 << 30),) * 2)  # the machine's own safety
sys.addaudithook(watch)
results = {}
for path in sorted(folder.iterdir()):
    before, size = now("VmPeak"), path.stat().st_size
    seen.clear()
    try:
        read_networks(path)
        message = None
    except ToonError as error:
        message = str(error)
    over = (now("VmPeak") - before) / 1024 - 1.5 * size / 2**20
    results[path.name] = {"message": message, "seen": list(seen), "over": over}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> dict[str, dict]:
    """File name -> the message, what was run, and by how many MB the address space outgrew 1.5 times the file."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "files").mkdir()
    for name, (make, _) in HOSTILE.items():
        (folder / "files" / name).write_bytes(make())
    paths = [FIXTURES / "rosinality.pt", FIXTURES / "rosinality-old.pt", folder / "files"]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *paths], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert os.listdir(folder) == ["files"]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("name", HOSTILE)
def test_refused_unrun_and_small(watched, name):
    result, reason = watched[name], HOSTILE[name][1]
    assert result["message"] is not None, "it was read"
    assert reason in result["message"] and "\n" not in result["message"] and len(result["message"]) < 500
    assert result["seen"] == []
    assert result["over"] < 48


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [(tmp_path, "is not a file"), (tmp_path / "x", "does not exist"), (tmp_path / "pipe", "not a")]:
        with pytest.raises(ToonError, match=reason):
            load_pt(path)


@pytest.mark.parametrize("old_form", [False, True])
def test_honest_files_of_torch_pass(tmp_path, old_form):
    """What torch.save makes of plain values and dense tensors comes back: layouts, empty and shared tensors, too."""
    base = torch.arange(24.0)
    content = {
        "values": [None, True, False, -1, 255, 65535, 2**31 - 1, 2**40, -(2**70), 0.5, "Grüße", (), (1,), (1, 2, 3, 4)],
        "tensors": [
            base.reshape(2, 3, 4).permute(2, 0, 1),
            torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
            torch.tensor(3.0), torch.empty(0), torch.empty(3, 0, 2), torch.ones(1, 5)[:, None],
            *(torch.ones(3, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.bool)),
        ],
        "halves": base.clone().split(12),
        "ordered": collections.OrderedDict(b=1, a=2),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "module": torch.nn.BatchNorm2d(3).state_dict(),
        7: argparse.Namespace(size=16, nested={"lr": 0.002}),
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not old_form)
    loaded = load_pt(tmp_path / "x.pt")
    assert loaded.keys() == content.keys()
    assert loaded["values"] == content["values"] and loaded[7] == content[7] and loaded["ordered"] == content["ordered"]
    for key in ("tensors", "halves"):
        for ours, theirs in zip(loaded[key], content[key], strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(ours, theirs)
    assert torch.equal(loaded["parameter"], content["parameter"])
    assert loaded["module"]._metadata == content["module"]._metadata


def test_a_zip_packed_anew_by_another_tool_still_loads(tmp_path):
    """Its tensors are no longer aligned, so they are copied instead of used where they lie."""
    with zipfile.ZipFile(FIXTURES / "rosinality.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    ours, theirs = (read_networks(path)["G"].state_dict() for path in (tmp_path / "x.pt", FIXTURES / "rosinality.pt"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fixture=st.sampled_from(["rosinality.pt", "rosinality-old.pt"]), data=st.data())
def test_any_flipped_bytes_are_refused_or_harmless(tmp_path, fixture, data):
    """Whatever happens to a few bytes, the result is a sentence or whole networks."""
    content = bytearray((FIXTURES / fixture).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "flipped.pt").write_bytes(content)
    try:
        networks = read_networks(tmp_path / "flipped.pt")
    except ToonError as error:
        assert "\n" not in str(error)
    else:
        assert all(tensor.device.type == "cpu" for net in networks.values() for tensor in net.state_dict().values())

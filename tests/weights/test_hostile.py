"""Hostile, damaged and renamed files: each is refused in a sentence, runs nothing and takes little memory.

All are read in one process that is observed: its address space may not grow by more than 1.5 times a file's real
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
from stylegan_toon.weights import load_networks, read_header, read_networks

FIXTURES = Path(__file__).parent / "fixtures"
MARK = "this must never be made"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {}


def hostile(reason: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Register a function that makes a file's bytes, with the text that the error must contain."""

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
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


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
    return zipped(
        code(b"}", text("input.input"), tensor(numel, offset, shape, stride, **options), b"s"), {"0": bytes(16)}
    )


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


@hostile("was written on a big-endian machine")
def a_pickle_after_the_magic_number():
    magic = pickled(0x1950A86A20F9469CFC6C)
    return magic + pickled(1001) + pickled({"little_endian": False}) + pickled(Call(os.system, f"touch '{MARK}'"))


@hostile("asks for posix.system, which no network needs")
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


@hostile("holds no StyleGAN2 generator or discriminator")
def a_file_inside_the_file():
    inner = saved(Call(os.system, f"touch '{MARK}'"))
    return zipped(pickled(Call(torch.storage._load_from_bytes, inner)))


@hostile("asks for os.system, which no network needs")
def a_global_off_the_stack():
    return zipped(code(text("os"), text("system"), b"\x93(", text(f"touch '{MARK}'"), b"tR"))


@hostile("asks for posix.system, which no network needs")
def another_protocol():
    return zipped(pickle.dumps({"a": Call(os.system, "true")}, protocol=4))


@hostile("uses the opcode b'i', which pickles of networks do not")
def an_instance():
    return zipped(code("(", text("touch x"), "ios\nsystem\n"))


@hostile("holds no StyleGAN2 generator or discriminator")
def state_of_an_ordered_dict():
    return zipped(pickled(Call(collections.OrderedDict, state={"__reduce__": 1})))


@hostile("holds no StyleGAN2 generator or discriminator")
def state_of_a_tensor():
    return zipped(code(tensor(4, 0, (4,), (1,)), b"}b"), {"0": bytes(16)})


@hostile("calls something that is not a function by name")
def calling_what_is_not_callable():
    return zipped(code(tensor(4, 0, (4,), (1,)), b")R"), {"0": bytes(16)})


@hostile("asks for torch.jit")
def a_script_module():
    return zipped(code("ctorch.jit._pickle\nrestore_type_tag\n."))


@hostile("holds no StyleGAN2 generator or discriminator")
def a_torchscript_archive():
    return zipped(code(b"}"), **{"constants.pkl": code(b")"), "code/__torch__.py": "import os"})


@hostile("is damaged")
def a_persistent_id_with_a_path():
    return zipped(
        code(b"(", text("open"), "ctorch\nFloatStorage\n", text("/etc/passwd"), text("cpu"), number(4), b"tQ")
    )


@hostile("is damaged")
def a_storage_that_is_a_path():
    return one(4, 0, (4,), (1,), key="../../../etc/passwd")


@hostile("holds no StyleGAN2 generator or discriminator")
def a_member_that_climbs():
    return zipped(code(b"}"), **{"../../up": b"x"})


# ---------------------------------------------------------------- taking memory


@hostile("asks for __builtin__.bytearray")
def a_terabyte_of_bytes():
    return zipped(pickled({"a": Call(bytearray, 10**12)}))


@hostile("asks for torch.FloatTensor")
def a_tensor_made_to_measure():
    return zipped(code("ctorch\nFloatTensor\n(", number(10**11), b"tR"))


@hostile("holds more objects than a network of its size has")
def dicts_copied_over_and_over():
    entries = b"".join(number(i) + b"N" for i in range(20_000))
    copy = b"ccollections\nOrderedDict\nh\x00\x85R0".replace(b"0", b"")
    return zipped(code(b"](}(", entries, b"uq\x00", copy * 5_000, b"e"))


@hostile("holds no StyleGAN2 generator or discriminator")
def many_namespaces():
    return zipped(pickled([argparse.Namespace(a=i) for i in range(1000)]))


@hostile("zip is compressed or encrypted, which torch.save does not do")
def a_zip_bomb_of_tensors():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", code(b"}"))
        archive.writestr("archive/data/0", bytes(100 << 20))
    return buffer.getvalue()


@hostile("zip is compressed or encrypted, which torch.save does not do")
def a_zip_bomb_of_opcodes():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", code(b"]" * (100 << 20)))
    return buffer.getvalue()


@hostile("is a zip but none of torch.save")
def many_members():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(20_000):
            archive.writestr(f"archive/data/{i}", b"")
    return buffer.getvalue()


@hostile("is a zip with far too many members")
def far_too_many_members():
    """A directory larger than torch.save ever writes; parsed into objects it would take ten times as much memory."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    entries = entry * 100_000
    return b"PK\3\4" + bytes(26) + entries + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, len(entries), 30, 0)


@hostile("zip is damaged")
def a_directory_of_exabytes():
    data = zipped(code(b"}"))
    return data[:-10] + struct.pack("<2L", 0xFFFFFFF0, 0) + data[-2:]


@hostile("zip is damaged")
def a_large_directory_of_exabytes():
    record = b"PK\x06\x06" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 1, 1, 2**60, 0)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 2**50, 1)
    return (
        zipped(code(b"}"))[:-22] + record + locator + b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 1, 1, 2**32 - 1, 0, 0)
    )


@hostile("holds more objects than a network of its size has")
def a_long_pickle():
    return zipped(code(b"]" * 900_000))


@hostile("holds no StyleGAN2 generator or discriminator")
def a_huge_pickle():
    return zipped(code(text("a" * (2 << 20)), b"0", b"}"))


@hostile("holds more objects than a network of its size has")
def a_million_tensors():
    again = b"h\x00h\x01R"
    first = tensor(4, 0, (4,), (1,)).replace(b"v2\n(", b"v2\nq\x00(", 1)[:-1] + b"q\x01R"
    return zipped(code(b"](", first, again * 150_000, b"e"), {"0": bytes(16)})


@hostile("no whole network")
def a_memo_entry_far_out():
    return zipped(code(b"}r\xff\xff\xff\x7f", text("input.input"), b"Ns"))


@hostile("ends too early")
def a_string_longer_than_the_file():
    return zipped(code(b"X\xff\xff\xff\xffabc"))


@hostile("holds more objects than a network of its size has")
def tuples_in_tuples():
    return zipped(code(b")", b"\x85" * 60_000))


@hostile("holds more objects than a network of its size has")
def a_key_that_is_deep():
    return zipped(code(b"})", b"\x85" * 60_000, b"Ns"))


@hostile("is damaged")
def a_storage_larger_than_its_bytes():
    return one(10**12, 0, (10**12,), (1,))


@hostile("is damaged")
def a_tensor_larger_than_its_storage():
    return one(4, 0, (10**12,), (1,))


@hostile("is damaged")
def a_tensor_beyond_its_storage():
    return one(4, 2**62, (1,), (1,))


@hostile("is damaged")
def a_tensor_before_its_storage():
    return one(4, -(2**40), (4,), (1,))


@hostile("is damaged")
def a_negative_size():
    return one(4, 0, (-1, -4), (1, 1))


@hostile("is damaged")
def one_number_spread_over_terabytes():
    return one(4, 0, (512, 512, 1024, 1024), (0, 0, 0, 0))


@hostile("larger than what is stored of it")
def strides_that_repeat():
    return one(4, 0, (2, 2), (1, 1))


@hostile("larger than what is stored of it")
def a_network_spread_out_of_one_number():
    """Every tensor has the right shape, and all but no bytes in the file."""
    state = torch.load(FIXTURES / "rosinality.pt", weights_only=False)["g_ema"]
    pool = torch.zeros(8 * 8 * 9)
    return saved({"g_ema": {name: pool.as_strided(t.shape, [0] * t.ndim) for name, t in state.items()}})


@hostile("is damaged")
def strides_that_leave_the_storage():
    return one(4, 0, (2, 2), (2**40, 1))


@hostile("holds tensors that make no whole network (of shape [3]")
def tensors_that_overlap():
    both = [text(name) + tensor(4, offset, (3,), (1,)) + b"s" for name, offset in (("input.input", 0), ("b", 1))]
    return zipped(code(b"}", *both), {"0": bytes(16)})


@hostile("is damaged")
def a_storage_of_two_types():
    parts = [
        text("input.input" if kind == "FloatStorage" else "b") + tensor(n, 0, (n,), (1,), kind=kind) + b"s"
        for kind, n in (("FloatStorage", 4), ("ByteStorage", 16))
    ]
    return zipped(code(b"}", *parts), {"0": bytes(16)})


@hostile("is damaged")
def an_old_file_that_claims_terabytes():
    data = saved({"input.input": torch.zeros(4)}, _use_new_zipfile_serialization=False)
    at = data.index(b"cpuq") + 5  # the number of elements follows the device
    assert data[at : at + 2] == b"K\x04"
    return data[:at] + number(2**40) + data[at + 2 :]


@hostile("asks for torch._utils._rebuild_sparse_tensor")
def a_sparse_tensor():
    return saved({"a": torch.zeros(4, 4).to_sparse()})


# ---------------------------------------------------------------- the same in a plain pickle, as NVIDIA's files are


def plain(*parts: bytes | str) -> bytes:
    """A pickle written by hand: protocol 4, parts, stop."""
    return b"\x80\x04" + code(*parts)[2:]


def module(state: bytes, source: str = "import os") -> bytes:
    """Opcodes of a generator as those repositories save it, its source code with it."""
    meta = [("type", text("class")), ("version", number(6)), ("module_src", text(source))]
    meta += [("class_name", text("Generator")), ("state", state)]
    items = b"".join(text(key) + value for key, value in meta)
    return b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}(" + items + b"u\x85R"


@hostile("asks for os.system")
def source_that_wants_to_run():
    return plain(b"}", text("G_ema"), module(b"cos\nsystem\n", f"import os; os.system('touch {MARK}')"), b"s")


@hostile("describes a network that cannot be built")
def only_source_that_wants_to_run():
    """The source is never compiled; a generator without tensors is refused."""
    return plain(b"}", text("G_ema"), module(b"}", f"open({MARK!r}, 'w')"), b"s")


@hostile("its modules contain each other")
def a_module_inside_itself():
    state = b"}q\x00(" + text("_modules") + b"}(" + text("m") + module(b"h\x00") + b"uu"
    return plain(b"}", text("G_ema"), module(state), b"s")


@hostile("a module has no state")
def a_module_whose_state_is_a_call():
    return plain(b"}", text("G_ema"), module(b"ccollections\nOrderedDict\n(]tR"), b"s")


@hostile("asks for builtins.exec")
def exec_by_stack_global():
    return plain(text("builtins"), text("exec"), b"\x93", text(f"open({MARK!r}, 'w')"), b"\x85R")


@hostile("asks for builtins.getattr")
def a_chain_of_getattr_to_system():
    attribute = b"cbuiltins\ngetattr\ncos\n__dict__\n" + text("system") + b"\x86R"
    return plain(attribute, text("true"), b"\x85R")


@hostile("asks for marshal.loads")
def marshalled_code():
    return plain("cmarshal\nloads\n", b"C\x04abcd\x85R")


@hostile("asks for types.FunctionType")
def a_function_from_code():
    return plain("ctypes\nFunctionType\n", b")R")


@hostile("asks for numpy.testing._private.utils.runstring")
def a_function_of_numpy():
    return plain("cnumpy.testing._private.utils\nrunstring\n", text("1"), b"}\x86R")


@hostile("asks for torch.load")
def torch_load():
    return plain("ctorch\nload\n", text("/etc/passwd"), b"\x85R")


@hostile("asks for collections.OrderedDict.update")
def a_dotted_name():
    return plain(text("collections"), text("OrderedDict.update"), b"\x93")


@hostile("uses the opcode b'\\x92'")
def new_object_with_keywords():
    return plain(b"ccollections\nOrderedDict\n)}\x92")


@hostile("uses the opcode b'\\x82'")
def an_extension_registered_elsewhere():
    return plain(b"\x82\x01")


@hostile("uses the opcode b'2'")
def doubled_over_and_over():
    return plain(b"]", b"2" * 1000)


@hostile("calls something that is not a function by name")
def a_call_of_a_call():
    return plain("ccollections\nOrderedDict\n)R)R)R")


@hostile("fills something that is no container")
def building_a_name():
    return plain("ccollections\nOrderedDict\n}b")


@hostile("ends too early")
def bytes_longer_than_the_file():
    return plain(b"\x8e", struct.pack("<Q", 2**62), b"abc")


@hostile("ends too early")
def a_frame_longer_than_the_file():
    return plain(b"\x95", struct.pack("<Q", 2**62))[:8]


@hostile("whole number of more than 16 bytes")
def a_number_of_two_hundred_bytes():
    return plain(b"\x8a\xc8", bytes(200))


@hostile("uses the opcode b'\\x8b'")
def a_number_of_gigabytes():
    return plain(b"\x8b\xff\xff\xff\x7f")


@hostile("more objects than a network of its size has")
def half_a_million_remembered():
    return plain(b"N", b"\x94" * 500_000)


@hostile("keys are not names")
def keys_that_collide():
    step = 2**61 - 1  # the hash of each is 0
    return plain(b"}(", b"".join(number(i * step) + b"N" for i in range(1, 6_000)), b"u")


@hostile("bytes are malformed")
def a_storage_of_wide_text():
    encoded = b"c_codecs\nencode\n" + text("\u4e00") + text("latin1") + b"\x86R"
    storage = b"ctorch.storage\n_load_from_bytes\n" + encoded + b"\x85R"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00))\x89NtR"
    return plain(b"}", text("synthesis.b4.const"), rebuilt, b"s")


@hostile("is a TensorFlow pickle")
def a_network_of_the_first_repository():
    return plain(b"cdnnlib.tflib.network\nNetwork\n)\x81q\x00h\x00h\x00\x87")


# ---------------------------------------------------------------- damage and disguise


@hostile("is not a file of networks")
def nothing():
    return b""


@hostile("is not a file of networks")
def renamed_text():
    return b"dear reader,\n" * 100


@hostile("is not a file of networks")
def renamed_picture():
    return b"\x89PNG\r\n\x1a\n" + bytes(1000)


@hostile("zip is damaged")
def a_zip_cut_short():
    return (FIXTURES / "rosinality.pt").read_bytes()[:-1]


@hostile("zip is damaged")
def half_a_zip():
    data = (FIXTURES / "rosinality.pt").read_bytes()
    return data[: len(data) // 2]


@hostile("is not a file of networks")
def something_before():
    return b"#!/bin/sh\n" + zipped(code(b"}"))


@hostile("zip is damaged")
def something_between():
    data = zipped(code(b"}"))
    return data[:-22] + bytes(100) + data[-22:]


@hostile("ends too early")
def an_old_file_cut_short():
    return (FIXTURES / "rosinality-old.pt").read_bytes()[:-4]


@hostile("ends too early")
def an_old_file_cut_very_short():
    return (FIXTURES / "rosinality-old.pt").read_bytes()[:300]


@hostile("is a zip but none of torch.save")
def two_pickles():
    return zipped(code(b"}"), dat1_pkl=code(b"}")).replace(b"dat1_pkl", b"data.pkl")


@hostile("holds no StyleGAN2 generator or discriminator")
def members_that_overlap():
    data = zipped(code(b"}"), {"0": b"abcd"})
    last = data.rindex(b"PK\x01\x02")  # its entry in the directory: point it at the first member
    return data[: last + 42] + struct.pack("<L", 0) + data[last + 46 :]


@hostile("is a zip but none of torch.save")
def somebody_elses_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/version", b"3")
    return buffer.getvalue()


@hostile("ends too early")
def the_other_byte_order():
    return zipped(code(b"}"), byteorder=b"big")


@hostile("zip is compressed or encrypted, which torch.save does not do")
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


@hostile("cannot be built")
def tensors_under_numbers_and_classes():
    named = {"synthesis.b4.const": torch.zeros(4, 4, 4), 5: torch.zeros(3), torch.FloatStorage: torch.zeros(3)}
    return saved(named)


@hostile("holds no StyleGAN2 generator or discriminator")
def somebody_elses_weights():
    return saved({"state_dict": {"conv.weight": torch.zeros(3)}, "epoch": 4})


@hostile("missing: input.input")
def large_and_incomplete():
    """Its real size is 48 MB: refusing it may take 1.5 times that."""
    return saved({"g_ema": {"big": torch.ones(12 << 20)}})


WATCH = """
import json, os, resource, sys
from pathlib import Path
from stylegan_toon.errors import ToonError
from stylegan_toon.weights import read_networks

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
def test_refused_without_running_and_with_little_memory(watched, name):
    result, reason = watched[name], HOSTILE[name][1]
    assert result["message"] is not None, "it was read"
    assert reason in result["message"] and "\n" not in result["message"] and len(result["message"]) < 500
    assert result["seen"] == []
    assert result["over"] < 48


def test_paths_that_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        (tmp_path, "is a folder"),
        (tmp_path / "x", "does not exist"),
        (tmp_path / "pipe", "no ordin"),
    ]:
        with pytest.raises(ToonError, match=reason):
            read_networks(path)
    for read in (load_networks, read_header):
        with pytest.raises(ToonError, match="no ordinary file"):
            read(tmp_path / "pipe")


def test_a_zip_repacked_by_another_tool_loads(tmp_path):
    """Its tensors are no longer aligned, so they are copied instead of mapped."""
    with zipfile.ZipFile(FIXTURES / "rosinality.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    ours, theirs = (read_networks(path)["G"].state_dict() for path in (tmp_path / "x.pt", FIXTURES / "rosinality.pt"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fixture=st.sampled_from(["rosinality.pt", "rosinality-old.pt"]), data=st.data())
def test_any_flipped_bytes_are_refused_or_harmless(tmp_path, fixture, data):
    """With a few bytes changed, the file is refused in a sentence or gives complete networks."""
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

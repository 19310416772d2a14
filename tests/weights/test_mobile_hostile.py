"""Changed, cut and hostile MobileStyleGAN files: each is refused in one sentence."""

from __future__ import annotations

import io
import shutil
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_mobile import Published, Writer, refused, wheel_of, write_ir

from stylegan_toon.errors import ToonError
from stylegan_toon.weights import read_networks
from stylegan_toon.weights.openvino import Graph, GraphError

NETWORK = Published()
XML, BIN = "SynthesisNetwork.xml", "SynthesisNetwork.bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ir")
    write_ir(NETWORK, path)
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Fitting heads is tested elsewhere."""
    monkeypatch.setattr("stylegan_toon.weights.mobile.fit_heads", lambda *args: None)


def changed(folder: Path, to: Path, old: str, new: str, name: str = XML, count: int = 1) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    text = (to / name).read_text()
    assert old in text
    (to / name).write_text(text.replace(old, new, count))
    return to


ENTITIES = '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("</layers>", "", "malformed"),
        ("<net ", ENTITIES.replace("&a0;", "&a;") + "]><net ", "a document type"),
        ("<net ", '<!DOCTYPE net SYSTEM "file:///etc/passwd"><net ', "a document type"),
        ("<layers>", "<layers>" + "<a>" * 50, "nested too deeply"),
        ("<meta_data>", "<meta_data>&unknown;", "malformed"),
        ('offset="', 'offset="99999', "beyond the end of the .bin"),
        ('offset="', 'offset="-', "where a size or an offset belongs"),
        ('offset="', 'offset="' + "9" * 5000, "where a size or an offset belongs"),
        (' size="', ' size="1', "is not that of its shape"),
        ('element_type="i64"', 'element_type="u1"', "is of the type u1"),
        ('type="PReLU"', 'type="Relu"', "there is a Relu where a PReLU belongs"),
        ('type="Tile"', 'type="Repeat"', "there is a Repeat where"),
        ('strides="2, 1"', 'strides="1, 2"', "strides of a GroupConvolutionBackpropData"),
        ('pads_begin="1, 1"', 'pads_begin="0, 0"', "pads_begin of a "),
        ('transpose_a="false"', 'transpose_a="true"', "transpose_a of a MatMul"),
        ("<edge ", "<egde ", "an edge is missing"),
        ("</layers>", '<layer id="x" type="Const"><data element_type="f32" shape="" offset="0" size="4"/></layer>'
         "</layers>", "have no place in the network, such as Const x"),
        ("</layers>", '<layer id="x" type="Parameter"/></layers>', "2 layers of the kind Parameter"),
        ('type="Result"', 'type="Sink"', "0 layers of the kind Result"),
    ],
)  # fmt: skip
def test_a_changed_graph_is_refused(folder, tmp_path, old, new, reason):
    assert reason in refused(changed(folder, tmp_path / "x", old, new))


@pytest.mark.parametrize("constant", ["slope", "filter", "gain", "norm"])
def test_constants_that_our_layers_assume_are_checked(tmp_path, monkeypatch, constant):
    wrong = {"slope": 0.2, "filter": 2**-0.5, "gain": 2**0.5, "norm": 1e-8}[constant]
    original, done = Writer.const, []

    def const(self: Writer, value: object, dtype: str = "f4"):
        tensor = torch.as_tensor(value).detach().double().flatten()
        if not done and 0 < len(tensor) <= 64 and abs(float(tensor[0]) / wrong - 1) < 1e-6:
            done.append(True)
            value = torch.as_tensor(value) * 1.1
        return original(self, value, dtype)

    monkeypatch.setattr(Writer, "const", const)
    write_ir(NETWORK, tmp_path)
    reason = {"slope": "slope", "filter": "are not Haar's", "gain": "gain", "norm": "added in the norm"}[constant]
    assert done and reason in refused(tmp_path)


def test_bands_in_another_order_are_refused(folder, tmp_path):
    text = (folder / XML).read_text()
    split = text.split('type="VariadicSplit"')
    names = [part.rpartition('<layer id="')[2].partition('"')[0] for part in split[:-1]]
    three = next(n for n in names if f'from-layer="{n}" from-port="5"' in text)
    one, two = (f'from-layer="{three}" from-port="{port}"' for port in (3, 4))
    swapped = text.replace(one, "@").replace(two, one).replace("@", two)
    shutil.copytree(folder, tmp_path / "x")
    (tmp_path / "x" / XML).write_text(swapped)
    assert "are in another order" in refused(tmp_path / "x")


def test_a_cyclic_graph_is_refused(folder, tmp_path):
    """The first layer is fed by an activation, any of which comes after it, instead of the constant."""
    text = (folder / XML).read_text()
    kinds = {part.partition('"')[2].partition('"')[0]: part.partition('type="')[2] for part in text.split("<layer ")}
    tile, *prelus = (n for kind in ("Tile", "PReLU") for n, rest in kinds.items() if rest.startswith(f'{kind}"'))
    assert len(prelus) == 11
    for prelu in prelus:
        old, new = (f'from-layer="{name}" from-port="2"' for name in (tile, prelu))
        reason = refused(changed(folder, tmp_path / prelu, old, new)).rpartition(" is not ")[2]  # without the path
        assert any(words in reason for words in ("circle", "do not come in pairs", "where a Tile belongs")), reason


def test_files_that_are_missing_or_cut_short(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / BIN).unlink()
    assert f"{BIN} is missing" in refused(tmp_path / "a" / XML)
    (tmp_path / "a" / BIN).write_bytes((folder / BIN).read_bytes()[:-100])
    assert "beyond the end of the .bin" in refused(tmp_path / "a")
    (tmp_path / "a" / BIN).write_bytes((folder / BIN).read_bytes())
    (tmp_path / "a" / XML).write_text((folder / XML).read_text()[:-400])
    assert "malformed" in refused(tmp_path / "a" / XML)
    (tmp_path / "a" / XML).write_text('<?xml version="1.0"?><svg/>')
    assert "0 layers of the kind Parameter" in refused(tmp_path / "a" / XML)
    (tmp_path / "empty").mkdir()
    assert "is a folder" in refused(tmp_path / "empty")
    (tmp_path / "a" / XML).write_bytes(b"<?xml" + b" " * (5 << 20))
    assert "larger than any file of this kind" in refused(tmp_path / "a" / XML)


def test_zips_that_are_not_the_wheel(folder, tmp_path):
    wheel = wheel_of(folder, tmp_path / "a.whl")
    content = wheel.read_bytes()
    with zipfile.ZipFile(tmp_path / "b.whl", "w") as archive:
        archive.writestr("package/__init__.py", "")
    assert "is a zip but none of torch.save" in refused(tmp_path / "b.whl")
    assert "0 files SynthesisNetwork.bin" in refused(wheel_of(folder, tmp_path / "c.whl", SynthesisNetwork_bin=None))
    bomb = wheel_of(folder, tmp_path / "d.whl", SynthesisNetwork_bin=bytes(300 << 20))
    assert "packed as no wheel is" in refused(bomb)
    (tmp_path / "e.whl").write_bytes(content[: len(content) // 2])
    assert refused(tmp_path / "e.whl")
    middle = len(content) // 2
    (tmp_path / "f.whl").write_bytes(content[:middle] + bytes(100) + content[middle + 100 :])
    assert "damaged zip" in refused(tmp_path / "f.whl")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for _ in range(2):
            for file in folder.iterdir():
                archive.writestr(f"{_}/{file.name}", b"")
    (tmp_path / "g.whl").write_bytes(buffer.getvalue())
    assert "2 files MappingNetwork.xml instead of one" in refused(tmp_path / "g.whl")


def test_constants_cannot_claim_more_than_the_file_holds(folder):
    """Ten thousand large constants at one offset of a small file must not fill the memory."""
    graph = Graph((folder / XML).read_bytes(), (folder / BIN).read_bytes())
    big = max(
        (name for name, layer in graph.layers.items() if layer.kind == "Const"),
        key=lambda name: int(graph.layers[name].data["size"]),
    )
    with pytest.raises(GraphError, match="claim more"):
        for _ in range(10000):
            graph.constant((big, 0))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from([XML, "MappingNetwork.xml", BIN, "x.ckpt", "x.whl"]), data=st.data())
def test_any_flipped_bytes_are_refused_or_harmless(folder, tmp_path, kind, data):
    """With a few bytes changed, the file is refused in a sentence or gives a complete network of finite numbers."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    if kind == "x.ckpt":
        torch.save({"state_dict": NETWORK.state_dict()}, tmp_path / kind)
    if kind == "x.whl":
        wheel_of(folder, tmp_path / kind)
    content = bytearray((tmp_path / kind).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / kind).write_bytes(content)
    try:
        network = read_networks(tmp_path if kind in (XML, "MappingNetwork.xml", BIN) else tmp_path / kind)["G_ema"]
    except ToonError as error:
        assert "\n" not in str(error)
    else:
        assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def test_callbacks_of_lightning_are_read_as_data(tmp_path, monkeypatch):
    """A dict whose key is the class of a callback, as its checkpoints have."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    made = type("ModelCheckpoint", (), {"__module__": name})
    for i in range(1, 4):
        part = ".".join(name.split(".")[:i])
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    sys.modules[name].ModelCheckpoint = made
    kept = {made: {"best_model_score": torch.tensor(0.1), "dirpath": "x"}}
    torch.save({"state_dict": NETWORK.state_dict(), "callbacks": kept}, tmp_path / "x.ckpt")
    assert read_networks(tmp_path / "x.ckpt")["G_ema"].provenance["dropped"] == ["callbacks"]
    made.__module__ = "os"
    monkeypatch.setattr("os.ModelCheckpoint", made, raising=False)
    torch.save({"state_dict": NETWORK.state_dict(), "callbacks": kept}, tmp_path / "y.ckpt")
    assert "os.ModelCheckpoint" in refused(tmp_path / "y.ckpt")

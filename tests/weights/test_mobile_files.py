"""MobileStyleGAN's own files: the pictures that an independent implementation, or OpenVINO, paints with them.

The real wheel is read where ``STYLEGAN_TOON_WHEEL`` names it; all else is made here.
"""

from __future__ import annotations

import copy
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from published_mobile import Published, Writer, write_ir
from tiny import tiny_discriminator
from torch import Tensor

from stylegan_toon.errors import ToonError
from stylegan_toon.nn import MobileConfig, MobileGenerator
from stylegan_toon.weights import load_networks, read_networks, save_networks, write_networks
from stylegan_toon.weights.openvino import Graph, GraphError

WHEEL = os.environ.get("STYLEGAN_TOON_WHEEL")
NETWORK = Published()
XML, BIN = "SynthesisNetwork.xml", "SynthesisNetwork.bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ir")
    write_ir(NETWORK, path)
    return path


@pytest.fixture(scope="module")
def ir(folder) -> MobileGenerator:
    return read_networks(folder)["G_ema"]


def checkpoint(path: Path, change: Callable[[dict], None] = lambda state: None, around: bool = True) -> Path:
    state = copy.deepcopy(NETWORK.state_dict())
    change(state)
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": []} if around else state, path)
    return path


def without_noise(state: dict) -> None:
    for name in [name for name in state if name.endswith("noise.noise")]:
        del state[name]


def overflowing(state: dict) -> None:
    del state["style_mean"]
    for i in (1, 2):
        state[f"mapping_net.layers.{i}.weight"].fill_(1e38)


def latents(count: int = 3) -> Tensor:
    """ws with rows of their own, so that a row in the wrong place is seen."""
    random = torch.Generator().manual_seed(5)
    return torch.randn(count, 2 * len(NETWORK.student.layers) + 2, 12, generator=random)


@torch.no_grad()
def truth(ws: Tensor, network: Published = NETWORK) -> list[Tensor]:
    return [picture.float() for picture in copy.deepcopy(network).double().pictures(ws.double())]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def refused(path: Path, **options) -> str:
    with pytest.raises(ToonError) as caught:
        read_networks(path, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


# ---------------------------------------------------------------- checkpoints


@torch.no_grad()
@pytest.mark.parametrize("around", [True, False], ids=["lightning", "plain"])
def test_a_checkpoint_paints_the_originals_pictures(tmp_path, around):
    G = read_networks(checkpoint(tmp_path / "x.ckpt", around=around))["G_ema"]
    assert G.config.channels == (16, 16, 16, 8, 8, 8) and G.config.resolution == 256 and not G.training
    wanted = truth(latents())
    assert close(G.synthesis(latents()), wanted[-1])
    # The head of the size below has bands of its own; their mean over 2x2 pixels is the picture here.
    assert close(G.synthesis(latents(), resolution=64), F.avg_pool2d(wanted[-2], 2))
    assert close(G.synthesis(latents(), resolution=128), F.avg_pool2d(wanted[-1], 2))
    z = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    assert close(G.mapping(z)[:, 3], NETWORK.mapping_net(z))
    assert torch.equal(G.mapping.w_avg, NETWORK.style_mean[0, 0])


def test_what_is_no_part_of_the_network_is_named(tmp_path):
    def more(state: dict) -> None:
        state |= {"loss.vgg.weight": torch.zeros(3), "synthesis_net.x": torch.zeros(1), "device_info": torch.tensor(1)}

    G = read_networks(checkpoint(tmp_path / "x.ckpt", more))["G_ema"]
    assert G.provenance["dropped"] == ["loss", "synthesis_net", "device_info", "epoch", "optimizer_states"]
    assert G.provenance["name"] == "x.ckpt" and len(G.provenance["sha256"]) == 64
    assert G.provenance["notes"] == []


@torch.no_grad()
def test_noise_that_a_checkpoint_lacks_is_drawn_once(tmp_path):
    before = torch.get_rng_state()
    a, b = (read_networks(checkpoint(tmp_path / name, without_noise))["G_ema"] for name in ("a.pt", "b.pt"))
    assert torch.equal(torch.get_rng_state(), before)
    assert any("noise_const is drawn" in note for note in a.provenance["notes"])
    assert torch.equal(a.synthesis(latents()), b.synthesis(latents()))
    silent = copy.deepcopy(NETWORK)
    for name, tensor in silent.named_buffers():
        if name.endswith("noise.noise"):
            tensor.zero_()
    assert close(a.synthesis(latents(), noise_mode="none"), truth(latents(), silent)[-1])
    layer = a.synthesis.b32.conv0
    assert close(layer.noise_strength().abs(), NETWORK.student.layers[2].conv1.noise.weight[0].abs())


def test_a_missing_mean_is_measured(tmp_path):
    G = read_networks(checkpoint(tmp_path / "x.ckpt", lambda state: state.pop("style_mean")))["G_ema"]
    z = torch.randn(20000, 12, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        assert (G.mapping.w_avg - NETWORK.mapping_net(z).mean(dim=0)).abs().max() < 0.03
    assert any("w_avg is the mean" in note for note in G.provenance["notes"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("student.conv1.conv.style_inv"), "missing: student.conv1.conv.style_inv"),
        (lambda s: s.pop("student.layers.2.conv1.conv.weight_dw"), "missing: student.layers.2.conv1.conv.weight_dw"),
        (lambda s: s.update({"student.extra": torch.zeros(1)}), "unknown: student.extra"),
        (lambda s: s.update({"student.conv1.bias": torch.zeros(1, 17, 1, 1)}), "of shape [1, 17, 1, 1] instead of"),
        (lambda s: s.update({"student.conv1.bias": 3}), "not tensors: student.conv1.bias"),
        (lambda s: s.update({"student.conv1.bias": torch.zeros(1, 16, 1, 1).long()}), "of type int64"),
        (lambda s: s["student.conv1.bias"].fill_(float("nan")), "not finite: b4.conv1.bias"),
        (overflowing, "too large: mapping.w_avg"),
        (lambda s: s["student.layers.0.up.idwt.g1_row"].neg_(), "not the filter of Haar"),
        (lambda s: [s.pop(name) for name in list(s) if name.startswith("mapping_net")], "no mapping network"),
        (lambda s: [s.pop(name) for name in list(s) if ".layers." in name and "student" in name], "layers.0.up"),
        (lambda s: s.update(style_mean=torch.zeros(1, 3, 7)), "w_avg"),
        (lambda s: s.update(style_mean=torch.zeros(())), "style_mean"),
        (lambda s: s.update({"student.layers.0.conv1.conv.weight_permute": torch.zeros(1 << 22, 4, 1, 1)}), "of shape"),
        (lambda s: s.update({"student.input.input": torch.zeros(1, 0, 4, 4)}), "instead of [1, any, 4, 4]"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, change, reason):
    assert reason in refused(checkpoint(tmp_path / "x.ckpt", change))


def test_a_checkpoint_has_one_member(tmp_path):
    assert "holds no D, only G_ema" in refused(checkpoint(tmp_path / "x.ckpt"), which=["D"])


# ---------------------------------------------------------------- OpenVINO's files


@torch.no_grad()
def test_a_graph_paints_the_originals_pictures(ir):
    assert ir.config.channels == (16, 16, 16, 8, 8, 8) and ir.config.mapping_layers == 3
    wanted = truth(latents())[-1]
    assert close(ir.synthesis(latents()), wanted)
    assert close(ir.synthesis(latents(), resolution=128), F.avg_pool2d(wanted, 2))
    z = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    assert close(ir.mapping(z)[:, 0], NETWORK.mapping_net(z))


def test_a_missing_head_is_fitted_and_said(ir):
    assert [note for note in ir.provenance["notes"] if "No heads for 64 px in the file" in note]
    assert torch.equal(ir.synthesis.b64.torgb.affine(torch.randn(2, 12)), torch.ones(2, 8))


@torch.no_grad()
def test_names_and_order_of_a_graph_mean_nothing(folder, ir, tmp_path):
    write_ir(NETWORK, tmp_path, seed=1)
    assert (tmp_path / XML).read_text() != (folder / XML).read_text()
    again = read_networks(tmp_path / XML)["G_ema"]
    assert all(torch.equal(a, b) for a, b in zip(ir.state_dict().values(), again.state_dict().values()))


def test_a_folder_an_xml_and_a_wheel_are_one_network(folder, ir, tmp_path):
    by_name = read_networks(folder / "MappingNetwork.xml")["G_ema"]
    wheel = read_networks(wheel_of(folder, tmp_path / "x.zip"))["G_ema"]
    for other in (by_name, wheel):
        assert all(torch.equal(a, b) for a, b in zip(ir.state_dict().values(), other.state_dict().values()))
    digest = ir.provenance["sha256"]
    assert wheel.provenance["ancestors"] == [digest] != [wheel.provenance["sha256"]]
    assert wheel.provenance["name"] == "x.zip" and by_name.provenance["sha256"] == digest
    assert "is not what it should be" in refused(folder, sha256="0" * 64)
    assert "is not the file it should be" in refused(tmp_path / "x.zip", sha256="0" * 64)
    assert "holds no D, only G_ema" in refused(folder, which=["D"])


@torch.no_grad()
def test_openvino_agrees_about_the_graph(folder, ir):
    openvino = pytest.importorskip("openvino")
    for name, found, z in (
        ("MappingNetwork", lambda z: ir.mapping(z)[:, 0], torch.randn(1, 12)),
        ("SynthesisNetwork", lambda w: ir.synthesis(w[:, None].repeat(1, ir.num_ws, 1)), torch.randn(1, 12)),
    ):
        model = openvino.Core().compile_model(folder / f"{name}.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        (wanted,) = model([z.numpy()]).values()
        assert close(found(z), torch.from_numpy(wanted), 1e-4)


@pytest.mark.skipif(not WHEEL, reason="STYLEGAN_TOON_WHEEL names no wheel")
@torch.no_grad()
def test_the_published_wheel_paints_what_openvino_paints(tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino")
    monkeypatch.setattr("stylegan_toon.weights.mobile.fit_heads", lambda *args: None)  # minutes, and tested elsewhere
    G = read_networks(WHEEL)["G_ema"]
    assert G.config == MobileConfig()
    zipfile.ZipFile(WHEEL).extractall(tmp_path)
    mapping, synthesis = (
        openvino.Core().compile_model(next(tmp_path.rglob(f"{name}.xml")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for name in ("MappingNetwork", "SynthesisNetwork")
    )
    for seed in range(2):
        z = torch.randn(1, 512, generator=torch.Generator().manual_seed(seed))
        (w,) = mapping([z.numpy()]).values()
        ws = G.mapping(z)
        assert (ws[0, 0] - torch.from_numpy(w[0])).abs().max() < 1e-4
        (wanted,) = synthesis([w]).values()
        assert (G.synthesis(ws) - torch.from_numpy(wanted)).abs().mean() < 5e-4


# ---------------------------------------------------------------- graphs that are not what they should be


def wheel_of(folder: Path, path: Path, **changes: bytes | None) -> Path:
    """A zip of the four files; ``changes``: stem and ending (``SynthesisNetwork_bin``) -> other content or none."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            content = changes.get(file.name.replace(".", "_"), file.read_bytes())
            if content is not None:
                archive.writestr(f"random_face/data/{file.name}", content)
    return path


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
def test_constants_that_ours_has_built_in_are_checked(tmp_path, monkeypatch, constant):
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
    assert "stand in another order" in refused(tmp_path / "x")


def test_a_graph_that_is_a_circle_is_refused(folder, tmp_path):
    """The first layer is fed by an activation, any of which comes after it, instead of the constant."""
    text = (folder / XML).read_text()
    kinds = {part.partition('"')[2].partition('"')[0]: part.partition('type="')[2] for part in text.split("<layer ")}
    tile, *prelus = (n for kind in ("Tile", "PReLU") for n, rest in kinds.items() if rest.startswith(f'{kind}"'))
    assert len(prelus) == 11
    for prelu in prelus:
        old, new = (f'from-layer="{name}" from-port="2"' for name in (tile, prelu))
        message = refused(changed(folder, tmp_path / prelu, old, new))
        assert "circle" in message or "do not come in pairs" in message, message


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


def test_zips_that_are_no_wheel(folder, tmp_path):
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


def test_constants_cannot_claim_more_than_there_is(folder):
    """Ten thousand large constants at one place would be a bomb."""
    graph = Graph((folder / XML).read_bytes(), (folder / BIN).read_bytes())
    big = max(
        (name for name, layer in graph.layers.items() if layer.kind == "Const"),
        key=lambda name: int(graph.layers[name].data["size"]),
    )
    with pytest.raises(GraphError, match="claim more"):
        for _ in range(10000):
            graph.constant((big, 0))


# ---------------------------------------------------------------- writing


def test_only_this_packages_format_holds_them(ir, tmp_path):
    for ending in (".pkl", ".pt"):
        with pytest.raises(ToonError, match=r"cannot hold G_ema, which is of the mobile family: save it as"):
            write_networks(tmp_path / f"x{ending}", {"G_ema": ir, "D": tiny_discriminator(0)})
        assert not (tmp_path / f"x{ending}").exists()
    save_networks(tmp_path / "x.safetensors", {"G_ema": ir}, provenance=ir.provenance)
    again = load_networks(tmp_path / "x.safetensors")["G_ema"]
    assert again.config == ir.config and again.provenance["format"] == "openvino"
    assert all(torch.equal(a, b) for a, b in zip(ir.state_dict().values(), again.state_dict().values()))

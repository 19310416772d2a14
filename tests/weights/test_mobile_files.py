"""MobileStyleGAN's own files: the pictures that an independent implementation, or OpenVINO, makes from them.

The real wheel is read where ``STYLEGAN_TOON_WHEEL`` names it; all else is made here.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_mobile import Published, refused, wheel_of, write_ir
from tiny import tiny_discriminator
from torch import Tensor

from stylegan_toon.errors import ToonError
from stylegan_toon.models import MobileConfig, MobileGenerator
from stylegan_toon.weights import load_networks, read_networks, save_networks, write_networks

WHEEL = os.environ.get("STYLEGAN_TOON_WHEEL")
NETWORK = Published()
XML = "SynthesisNetwork.xml"


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


# ---------------------------------------------------------------- checkpoints


@torch.no_grad()
@pytest.mark.parametrize("around", [True, False], ids=["lightning", "plain"])
def test_a_checkpoint_gives_the_pictures_of_the_original(tmp_path, around):
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


def test_entries_outside_the_network_are_named(tmp_path):
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
def test_a_graph_gives_the_pictures_of_the_original(ir):
    assert ir.config.channels == (16, 16, 16, 8, 8, 8) and ir.config.mapping_layers == 3
    wanted = truth(latents())[-1]
    assert close(ir.synthesis(latents()), wanted)
    assert close(ir.synthesis(latents(), resolution=128), F.avg_pool2d(wanted, 2))
    z = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    assert close(ir.mapping(z)[:, 0], NETWORK.mapping_net(z))


def test_a_missing_head_is_fitted_with_a_warning(ir):
    assert [note for note in ir.provenance["notes"] if "No heads for 64 px in the file" in note]
    assert torch.equal(ir.synthesis.b64.torgb.affine(torch.randn(2, 12)), torch.ones(2, 8))


@torch.no_grad()
def test_names_and_order_of_a_graph_do_not_matter(folder, ir, tmp_path):
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
    assert "is not the file it should be" in refused(folder, sha256="0" * 64)
    assert "is not the file it should be" in refused(tmp_path / "x.zip", sha256="0" * 64)
    assert "holds no D, only G_ema" in refused(folder, which=["D"])


_OPENVINO = """
import sys
import numpy
import openvino

graph, given, found = sys.argv[1:]
model = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
(result,) = model([numpy.load(given)]).values()
numpy.save(found, result)
"""


def by_openvino(graph: Path, x: torch.Tensor, folder: Path) -> torch.Tensor:
    """What OpenVINO computes, in a process of its own: its threads and torch's in one have ended in a crash."""
    pytest.importorskip("openvino")
    given, found = folder / "given.npy", folder / "found.npy"
    np.save(given, x.numpy())
    subprocess.run([sys.executable, "-c", _OPENVINO, str(graph), str(given), str(found)], check=True)
    return torch.from_numpy(np.load(found))


@torch.no_grad()
def test_openvino_computes_the_same_from_the_graph(folder, ir, tmp_path):
    for name, result, z in (
        ("MappingNetwork", lambda z: ir.mapping(z)[:, 0], torch.randn(1, 12)),
        ("SynthesisNetwork", lambda w: ir.synthesis(w[:, None].repeat(1, ir.num_ws, 1)), torch.randn(1, 12)),
    ):
        assert close(result(z), by_openvino(folder / f"{name}.xml", z, tmp_path), 1e-4)


@pytest.mark.skipif(not WHEEL, reason="STYLEGAN_TOON_WHEEL names no wheel")
@torch.no_grad()
def test_the_published_wheel_gives_the_pictures_of_openvino(tmp_path, monkeypatch):
    monkeypatch.setattr("stylegan_toon.weights.mobile.fit_heads", lambda *args: None)  # minutes, and tested elsewhere
    G = read_networks(WHEEL)["G_ema"]
    assert G.config == MobileConfig()
    zipfile.ZipFile(WHEEL).extractall(tmp_path)
    mapping, synthesis = (next(tmp_path.rglob(f"{name}.xml")) for name in ("MappingNetwork", "SynthesisNetwork"))
    for seed in range(2):
        z = torch.randn(1, 512, generator=torch.Generator().manual_seed(seed))
        w, ws = by_openvino(mapping, z, tmp_path), G.mapping(z)
        assert (ws[0, 0] - w[0]).abs().max() < 1e-4
        assert (G.synthesis(ws) - by_openvino(synthesis, w, tmp_path)).abs().mean() < 5e-4


# ---------------------------------------------------------------- writing


def test_other_formats_cannot_hold_mobile_networks(ir, tmp_path):
    for ending in (".pkl", ".pt"):
        with pytest.raises(ToonError, match=r"cannot hold G_ema, which is of the mobile family: save it as"):
            write_networks(tmp_path / f"x{ending}", {"G_ema": ir, "D": tiny_discriminator(0)})
        assert not (tmp_path / f"x{ending}").exists()
    save_networks(tmp_path / "x.safetensors", {"G_ema": ir}, provenance=ir.provenance)
    again = load_networks(tmp_path / "x.safetensors")["G_ema"]
    assert again.config == ir.config and again.provenance["format"] == "openvino"
    assert all(torch.equal(a, b) for a, b in zip(ir.state_dict().values(), again.state_dict().values()))

"""Measurements on portraits (pretrained/recipes/portraits.py): chips, columns, values and sheets."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stylegan_toon.errors import ToonError
from stylegan_toon.faces.mesh import Mesh

RECIPE = Path(__file__).parents[2] / "pretrained" / "recipes" / "portraits.py"


@pytest.fixture(scope="module")
def portraits():
    sys.path.insert(0, str(RECIPE.parent))  # as when it is run
    spec = importlib.util.spec_from_file_location("portraits_recipe", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(RECIPE.parent))
    return module


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three faces with a column of drawings: the same ones, darker, a different size."""
    row = np.array(Image.open(Path(__file__).with_name("faces.png")).convert("RGB"))
    first, second, _ = np.split(row, 3, axis=1)
    for name, pixels in {"a": first, "b": second, "c": first[:, ::-1]}.items():
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.save(tmp_path / f"{name}-aligned.png")
        picture.resize((256, 256)).point(lambda v: 0.7 * v).save(tmp_path / f"{name}-toon.png")
    return tmp_path


class MeanColour(nn.Module):
    """In place of the recogniser: the chip's mean colour, so distances are known."""

    def forward(self, x):
        return x.mean((2, 3)) / 255


def test_the_list_holds_fifty(portraits):
    names = portraits.listed()
    assert len(names) == len(set(names)) == 50 and names == sorted(names)


@pytest.mark.parametrize("angle", [0, 0.4, -0.2])
def test_a_chip_is_turned_and_scaled_to_the_mean_face(portraits, angle):
    """Landmarks put down as the mean face, scaled by 2, turned and shifted: the chip is that, undone."""
    mean = np.array(list(portraits.MEAN_FACE.values()))
    in_chip = 150 * (mean + 0.25) / 1.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.zeros((478, 2))
    points[list(portraits.MEAN_FACE)] = (in_chip - 75) @ (2 * turn.T) + 256
    y, x = np.mgrid[:512, :512] + 0.5
    for spot in (133, 362, 98, 291):
        light = np.hypot(x - points[spot, 0], y - points[spot, 1]) < 7
        picture = Image.fromarray(np.repeat(np.uint8(255 * light)[..., None], 3, 2))
        chip = np.asarray(portraits.chip(picture, Mesh(points, np.zeros(478), 1.0)), np.float64)[..., 0]
        assert chip.shape == (150, 150)
        at = np.arange(150) + 0.5
        centre = np.array([(chip.sum(0) * at).sum(), (chip.sum(1) * at).sum()]) / chip.sum()
        assert np.hypot(*(centre - in_chip[list(portraits.MEAN_FACE).index(spot)])) < 0.2


def test_the_mean_face_is_a_face(portraits):
    """Each of its points is where a face in a chip has the point of that number: the mesh looks at the chip itself."""
    face = Image.open(Path(__file__).with_name("faces.png")).convert("RGB").crop((192, 0, 384, 192))
    chip = portraits.chip(face, portraits.face_mesh(face))
    result = portraits.face_mesh(chip).points[list(portraits.MEAN_FACE)]
    off = result - 150 * (np.array(list(portraits.MEAN_FACE.values())) + 0.25) / 1.5
    assert np.hypot(*off.T).mean() < 4 and np.hypot(*off.T).max() < 10
    assert np.hypot(*off.mean(0)) < 1


def test_figures_and_sheets(portraits, folder, monkeypatch, capsys):
    monkeypatch.setattr(portraits, "recogniser", lambda _: MeanColour())
    names = folder / "names.txt"
    names.write_text("# three and one without a face\na.jpg\nb.jpg\nc.jpg\nd.jpg\n")
    monkeypatch.setattr(sys, "argv", ["", "measure", str(folder), "--identity", "x", "--names", str(names)])
    with pytest.raises(SystemExit, match="x holds no facenet_dlib_torch"):
        portraits.main()
    for name in ("facenet_dlib_torch.py", "face_recognition_model.bin"):
        (folder / name).touch()
    monkeypatch.setattr(sys, "argv", [*sys.argv[:4], str(folder), *sys.argv[5:]])
    portraits.main()
    report = json.loads((folder / "portraits.json").read_text())
    assert report["portraits"] == 3 and report["no_face"] == ["d"]
    assert set(report["people"]) == {"a", "b", "c"} and set(report["cheeks"]) == {"toon"}
    assert report["identity"]["mirror image"]["mean"] < 0.02
    assert 0.1 < report["identity"]["toon"]["mean"] < 0.3  # about 0.3 of a mean colour of about (0.6, 0.5, 0.4)
    assert all(row["lightness"] < -12 for row in report["cheeks"]["toon"].values())
    assert [row["portraits"] for row in report["thirds"].values()] == [1, 1, 1]
    low, middle, high = (row["lightness"][0] for row in report["thirds"].values())
    assert low <= middle <= high
    with Image.open(folder / "sheet-1.png") as sheet:
        assert sheet.width > 5 * 256 and sheet.height > 2 * 256
    assert not (folder / "sheet-2.png").exists()
    assert "toon, dark" in capsys.readouterr().out


def test_an_incomplete_column_is_refused(portraits, folder, monkeypatch):
    monkeypatch.setattr(portraits, "recogniser", lambda _: MeanColour())
    (folder / "b-toon.png").unlink()
    with pytest.raises(ToonError, match="b-toon"):
        portraits.measure(folder, ["a.jpg", "b.jpg", "c.jpg"], folder)


def test_nothing_to_measure(portraits, tmp_path):
    with pytest.raises(ToonError, match="run draw first"):
        portraits.measure(tmp_path, ["a.jpg"], tmp_path)


def test_fill(portraits, tmp_path):
    seen = []

    def make(photo: Path) -> dict[str, Image.Image]:
        seen.append(photo)
        return {} if photo.stem == "nobody" else {"toon": Image.new("RGB", (8, 8), "red")}

    assert portraits.fill(Path("photos"), ["one.jpg", "nobody.jpg"], tmp_path, make) == ["nobody.jpg"]
    assert seen == [Path("photos/one.jpg"), Path("photos/nobody.jpg")]
    assert [path.name for path in tmp_path.iterdir()] == ["one-toon.png"]


def test_no_face_is_no_error_but_no_file_is(portraits, tmp_path):
    Image.fromarray(np.full((128, 128, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    assert portraits.draw(tmp_path / "wall.png") == {}
    with pytest.raises(ToonError, match="nothing"):
        portraits.draw(tmp_path / "nothing.png")


def test_embeddings_come_in_order(portraits):
    chips = [Image.new("RGB", (150, 150), (51 * k, 0, 0)) for k in range(3)]
    torch.testing.assert_close(portraits.embed(MeanColour(), chips)[:, 0], torch.tensor([0.0, 0.2, 0.4]))


def test_a_tensorflow_js_graph_equals_plain_loops(portraits, tmp_path):
    """A small graph of every kind of node, against loops over "same" convolutions written out."""
    rng = np.random.default_rng(0)
    kernel, deep = rng.normal(size=(3, 3, 3, 4)), rng.normal(size=(3, 3, 4, 1))
    scale, shift = rng.normal(size=4), rng.normal(size=4)
    weights = {
        "kernel": kernel,
        "deep": deep,
        "scale": scale,
        "shift": shift,
        "six": np.array(6.0),
        "zero": np.array(0),
    }
    nodes = [{"name": "in", "op": "Placeholder"}, *({"name": name, "op": "Const"} for name in weights)]
    same = {"padding": {"s": "U0FNRQ=="}, "strides": {"list": {"i": ["1", "2", "2", "1"]}}}
    for name, op, *inputs in (
        ("global_pooling/Mean", "Mean", "clipped", "zero"),  # out of order on purpose
        ("a", "Conv2D", "in", "kernel"),
        ("b", "DepthwiseConv2dNative", "a", "deep"),
        ("c", "Mul", "b", "scale"),
        ("d", "Add", "c", "shift"),
        ("e", "Relu", "d"),
        ("f", "Minimum", "e", "six"),
        ("clipped", "Maximum", "f", "zero"),
    ):
        nodes.append({"name": name, "op": op, "input": inputs, "attr": same})
    half = {"dtype": "float32", "quantization": {"dtype": "float16"}}
    manifest = [{"name": name, "shape": list(array.shape), **half} for name, array in weights.items()]
    graph = {"modelTopology": {"node": nodes}, "weightsManifest": [{"weights": manifest}]}
    (tmp_path / "faceres.json").write_text(json.dumps(graph))
    stored = {name: np.float16(array) for name, array in weights.items()}
    (tmp_path / "faceres.bin").write_bytes(b"".join(array.tobytes() for array in stored.values()))
    kernel, deep, scale, shift = (np.float64(stored[name]) for name in ("kernel", "deep", "scale", "shift"))

    def convolve(x: np.ndarray, weigh) -> np.ndarray:
        """Stride 2, 3x3, "same": an even side is padded at its end only, an odd one on both."""
        side = x.shape[0]
        before = 0 if side % 2 == 0 else 1
        padded = np.pad(x, ((before, 1), (before, 1), (0, 0)))
        steps = range(0, side, 2)
        return np.array([[weigh(padded[i : i + 3, j : j + 3]) for j in steps] for i in steps])

    img = rng.normal(size=(14, 14, 3))  # 14 -> 7 -> 4
    x = convolve(img, lambda window: np.einsum("ijc,ijco->o", window, kernel))
    x = convolve(x, lambda window: (window * deep[..., 0]).sum((0, 1)))
    expected = np.clip(x * scale + shift, 0, 6).mean((0, 1))
    result = portraits.Faceres(tmp_path)(torch.from_numpy(img).float().permute(2, 0, 1)[None])
    np.testing.assert_allclose(result[0], expected, rtol=1e-4, atol=1e-5)

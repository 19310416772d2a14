"""Feature networks: the packages' own values, messages without a connection, and no code run from weight files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from stylegan_toon.errors import ToonError
from stylegan_toon.features import extractors
from stylegan_toon.features.extractors import PUBLISHED, Inception, Vgg16
from stylegan_toon.features.hub import Unavailable
from stylegan_toon.metrics import extractor
from stylegan_toon.weights import sha256_of
from stylegan_toon.weights.zoo import pretrained_folder

PORTRAIT = Path(__file__).parents[2] / "pretrained" / "examples" / "portrait.jpg"


def bytes_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def lite() -> extractors.Extractor:
    return extractor("efficientnet-lite0")


def test_efficientnet_recognises_the_portrait(lite):
    """Of ImageNet's 1000 classes, the five that our features and the package's classifier find in a portrait."""
    features = lite(bytes_of(Image.open(PORTRAIT)))
    assert features.shape == (1, 1280) and features.dtype == torch.float32
    worn = {474: "cardigan", 610: "jersey", 638: "maillot", 834: "suit", 841: "sweatshirt", 903: "wig"}
    assert set(lite.network._fc(features)[0].topk(5).indices.tolist()) <= set(worn)


def test_features_hardly_depend_on_the_size(lite):
    small, large = (bytes_of(Image.open(PORTRAIT).resize((n, n), Image.Resampling.LANCZOS)) for n in (224, 448))
    alike = torch.cosine_similarity(lite(small), lite(large))
    assert 0.99 < alike < 1 - 1e-6
    flat = [lite(torch.full((1, 3, n, n), 90, dtype=torch.uint8)) for n in (32, 224)]
    torch.testing.assert_close(*flat, rtol=1e-3, atol=1e-4)


def test_the_digest_is_the_published_one(lite):
    assert lite.digest.startswith("57934424")  # the file's own name ends in it


def test_textures_need_no_connection_and_forget_positions():
    """A picture that is moved keeps most of its statistics, and another picture has others."""
    network = extractor("textures")
    assert network.digest == sha256_of(pretrained_folder() / "vgg16.safetensors")
    picture = bytes_of(Image.open(PORTRAIT).resize((256, 256)))
    rows = network(torch.cat([picture, picture.roll(96, 3), 255 - picture]))
    assert rows.shape == (3, 896)
    moved, other = (rows[i] - rows[0] for i in (1, 2))
    assert moved.norm() < 0.25 * other.norm()


@pytest.fixture
def inception(monkeypatch) -> nn.Module:
    """Torch-fidelity's network, freshly initialised: the published weights would have to be downloaded."""
    from torch_fidelity import FeatureExtractorInceptionV3 as Network
    from torch_fidelity import feature_extractor_inceptionv3 as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(Network, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        return Network("inception-v3-compat", ["2048"])


def test_inception_equals_torch_fidelity(inception, tmp_path):
    torch.save(inception.state_dict(), tmp_path / "weights.pth")
    ours = Inception(tmp_path / "weights.pth")
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        result, (truth,) = ours(pictures), inception(pictures)
    assert result.shape == (2, 2048) and not torch.equal(truth[0], truth[1])
    torch.testing.assert_close(result, truth, rtol=0, atol=0)


class SmallVgg(nn.Module):
    """A small network with the layers of VGG16 that torch-fidelity uses."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        layers = [nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)]
        self.classifier = nn.Sequential(*layers)

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def test_vgg16_gives_its_second_layer(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.models, "vgg16", SmallVgg)
    small = SmallVgg().eval()
    torch.save(small.state_dict(), tmp_path / "weights.pth")
    pictures = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    with torch.no_grad():
        truth = small.classifier[:5](small.features((pictures / 255 - mean) / std).mean(dim=(2, 3)))
        torch.testing.assert_close(Vgg16(tmp_path / "weights.pth")(pictures), truth, rtol=1e-4, atol=1e-5)


class Trap:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('sprung').touch()",))


@pytest.mark.parametrize("cls", [Inception, Vgg16])
def test_weights_with_code_in_them_are_refused_and_not_run(cls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.bias": Trap()}, tmp_path / "evil.pth")
    with pytest.raises(Unavailable):
        cls(tmp_path / "evil.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_offline_is_one_sentence_with_a_way_out(name, monkeypatch):
    def fail(url, **kwargs):
        raise Unavailable("no download from there (no answer)")

    monkeypatch.setattr(extractors, "hub_file", fail)
    with pytest.raises(ToonError, match=r"no answer.*use efficientnet-lite0.*fd-efficientnet-lite0") as caught:
        extractor(name)
    assert PUBLISHED[name][1] in str(caught.value)


def test_a_file_that_is_not_the_published_one(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"other")
    monkeypatch.setattr(extractors, "hub_file", lambda url, **kwargs: tmp_path / "weights.pth")
    with pytest.raises(ToonError, match="not the published file"):
        extractor("inception")


@pytest.mark.parametrize(
    ("name", "package"), [("inception", "torch_fidelity"), ("efficientnet-lite0", "efficientnet_lite_pytorch")]
)
def test_without_the_packages(name, package, monkeypatch, tmp_path):
    monkeypatch.setattr(extractors, "_weights", lambda *args: tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ToonError, match=r"pip install 'stylegan_toon\[evaluate\]'"):
        extractor(name)

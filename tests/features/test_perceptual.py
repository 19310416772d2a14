"""Perceptual distance, against the lpips package and against formulas written out here."""

from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylegan_toon.errors import ToonError
from stylegan_toon.features import perceptual as module
from stylegan_toon.features.hub import Unavailable
from stylegan_toon.features.perceptual import LPIPS, DiscriminatorFeatures, fit, load_lpips, perceptual
from stylegan_toon.models import Discriminator, DiscriminatorConfig


@pytest.fixture(scope="module")
def package():
    """lpips' own network on random weights: the published backbone would have to be downloaded."""
    torch.manual_seed(0)
    return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)


@pytest.fixture(scope="module")
def vgg16(package):
    """The same weights under torchvision's names."""
    named = (key.split(".", 1)[1] for key in package.net.state_dict())
    return {f"features.{key}": v for key, v in zip(named, package.net.state_dict().values())}


@pytest.fixture(scope="module")
def ours(vgg16):
    heads = torch.load(Path(lpips.__file__).parent / "weights/v0.1/vgg.pth", map_location="cpu", weights_only=True)
    return LPIPS(vgg16, heads).eval().requires_grad_(False)


@pytest.fixture
def tiny_d():
    torch.manual_seed(0)
    return Discriminator(DiscriminatorConfig(resolution=32, channel_base=512, channel_max=32)).eval()


@pytest.mark.parametrize("size", [32, 50, 96])
def test_lpips_equals_the_package(package, ours, size):
    a, b = torch.rand(2, 2, 3, size, size) * 2 - 1
    with torch.no_grad():
        truth = package(a, b).flatten()
    torch.testing.assert_close(ours.distance(a, b), truth, rtol=1e-4, atol=1e-7)
    assert truth.min() > 0


def test_lpips_reduces_large_pictures_by_area(ours):
    a, b = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    large = [x.repeat_interleave(8, 2).repeat_interleave(8, 3) for x in (a, b)]
    small = [x.repeat_interleave(4, 2).repeat_interleave(4, 3) for x in (a, b)]
    torch.testing.assert_close(ours.distance(*large), ours.distance(*small), rtol=1e-4, atol=1e-7)


def test_gradient_is_finite_where_features_are_zero(ours):
    """sqrt has an infinite slope at 0, and a flat picture has positions where every ReLU is off."""
    a = torch.zeros(1, 3, 32, 32, requires_grad=True)
    ours.distance(a, torch.zeros(1, 3, 32, 32)).sum().backward()
    assert torch.isfinite(a.grad).all()


def test_discriminator_distance_is_the_formula(tiny_d):
    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    measure = DiscriminatorFeatures(tiny_d)
    with torch.no_grad():
        pairs = [(x.numpy().astype(np.float64), y.numpy().astype(np.float64))
                 for x, y in zip(tiny_d.features(a), tiny_d.features(b))]  # fmt: skip
        result = measure.distance(a, b).numpy()
    truth = np.zeros(2)
    for x, y in pairs:
        x, y = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in (x, y))
        truth += ((x - y) ** 2).sum(1).mean((1, 2)) / len(pairs)
    np.testing.assert_allclose(result, truth, rtol=1e-4)


def test_discriminator_distance_grows_with_the_difference(tiny_d):
    measure = DiscriminatorFeatures(tiny_d).requires_grad_(False)
    picture, noise = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    d = [float(measure.distance(picture, picture + s * noise)) for s in (0, 0.1, 0.3, 1)]
    assert d[0] == 0
    assert d == sorted(d) and d[1] < d[2] < d[3]


@pytest.mark.parametrize("size", [16, 32, 128])
def test_discriminator_distance_accepts_any_size(tiny_d, size):
    assert DiscriminatorFeatures(tiny_d)(torch.rand(1, 3, size, size)).shape[0] == 1


def test_fit_changes_channels():
    grey = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(fit(grey, 8, 3), grey.expand(2, 3, 8, 8))
    torch.testing.assert_close(fit(torch.rand(2, 3, 8, 8), 4, 1).shape, torch.Size([2, 1, 4, 4]))


@pytest.fixture
def offline(monkeypatch):
    def fail(url, **kwargs):
        raise Unavailable("no download from there (no answer)")

    monkeypatch.setattr(module, "hub_file", fail)


def test_the_default_ships(offline):
    """VGG16's features, normalised at each position, against the formula written out on torch's own convolutions."""
    measure = perceptual()
    a, b = torch.rand(2, 2, 3, 48, 48) * 2 - 1
    state = measure.network.state_dict()

    def features(x):
        x = (x[:, [2, 1, 0]] + 1) * 127.5 - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
        for stage, count in ((1, 2), (2, 2), (3, 3)):
            for i in range(1, count + 1):
                name = f"conv{stage}_{i}"
                x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu()
            yield F.normalize(x.double(), dim=1)
            x = F.max_pool2d(x, 2)

    with torch.no_grad():
        pairs = zip(features(a), features(b))
        truth = sum((x - y).square().sum(1).mean((1, 2)) for x, y in pairs) / 3
        torch.testing.assert_close(measure.distance(a, b).double(), truth, rtol=1e-3, atol=1e-5)
    assert measure.name == "vgg16" and not any(p.requires_grad for p in measure.parameters())


def test_lpips_without_its_weights(offline):
    with pytest.raises(ToonError, match="--features vgg"):
        perceptual("lpips")


def test_lpips_from_a_file_and_from_the_cache(monkeypatch, tmp_path, vgg16):
    torch.save(vgg16, tmp_path / "vgg16.pth")
    monkeypatch.setattr(module, "hub_file", lambda url, **kwargs: tmp_path / "vgg16.pth")
    assert perceptual(tmp_path / "vgg16.pth").name == "lpips-vgg"
    assert not any(p.requires_grad for p in perceptual("lpips").parameters())


def test_a_wrong_file_is_reported(offline, tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(Unavailable, match="VGG16"):
        load_lpips(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ToonError, match=r"text\.pth"):
        perceptual(tmp_path / "text.pth")

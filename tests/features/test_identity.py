"""Face embeddings, against facenet-pytorch's own preprocessing and against algebra."""

import pytest
import torch
from facenet_pytorch import InceptionResnetV1, fixed_image_standardization

from stylegan_toon.errors import ToonError
from stylegan_toon.features import identity as module
from stylegan_toon.features.dlib import face_chip, recogniser
from stylegan_toon.features.hub import Unavailable
from stylegan_toon.features.identity import FACE_BOX, DlibFaces, FaceNet, face_embedder


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return InceptionResnetV1(pretrained=None).state_dict()


def test_facenet_equals_the_package(state):
    """A 200 px picture whose face box is exactly 110x148 px: cropped and resized by hand."""
    package = InceptionResnetV1(pretrained=None).eval()
    package.load_state_dict(state)
    pixels = torch.randint(0, 256, (2, 3, 200, 200)).float()
    left, top, right, bottom = (round(200 * edge) for edge in FACE_BOX)
    face = torch.nn.functional.interpolate(pixels[:, :, top:bottom, left:right], size=(160, 160), mode="bilinear")
    ours = FaceNet({**state, "logits.weight": torch.zeros(1)}).eval()
    with torch.no_grad():
        truth = package(fixed_image_standardization(face))
        result = ours(pixels / 127.5 - 1)
    torch.testing.assert_close(result, truth, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def dlib():
    return face_embedder()


def test_dlib_is_the_default_and_ships(dlib):
    assert isinstance(dlib, DlibFaces) and dlib.name == "dlib" and not dlib.training
    assert type(face_embedder("dlib")) is DlibFaces


def test_embeddings_are_unit_vectors(dlib):
    img = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(dlib(img).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(dlib.similarity(img, img), torch.ones(3))
    assert (dlib.similarity(img, img.roll(1, 0)) < 0.999).all()


def test_the_distance_is_euclidean_without_normalisation(dlib):
    """Pixels go to the network as 0 to 255, and its vectors are not brought to one length first."""
    a, b = torch.rand(2, 2, 3, 100, 100, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        x, y = (recogniser()(face_chip(127.5 + 127.5 * img)).double() for img in (a, b))
    torch.testing.assert_close(dlib.distance(a, b).double(), (x - y).square().sum(1).sqrt(), rtol=1e-3, atol=1e-4)
    cosine = (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()
    torch.testing.assert_close(dlib.similarity(a, b).double(), cosine, rtol=1e-4, atol=1e-5)


def test_one_channel_equals_three_equal_channels(dlib):
    grey = torch.rand(1, 1, 64, 64) * 2 - 1
    assert torch.equal(dlib(grey), dlib(grey.repeat(1, 3, 1, 1)))


def test_gradients_reach_the_picture_only(dlib):
    img = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    dlib.similarity(img, img.detach().flip(3)).sum().backward()
    assert img.grad.isfinite().all() and (img.grad != 0).any()
    assert not list(dlib.parameters())


@pytest.fixture
def offline(monkeypatch):
    def fail(url, **kwargs):
        raise Unavailable("no download from there (no answer)")

    monkeypatch.setattr(module, "hub_file", fail)


def test_facenet_without_its_weights(offline):
    with pytest.raises(ToonError, match=r"not available.*no answer.*use dlib"):
        face_embedder("facenet")


@pytest.mark.parametrize("name", ["auto", "discriminator", "network.safetensors"])
def test_no_such_embedding(name):
    with pytest.raises(ToonError, match=rf"{name} is not a face embedding: take dlib"):
        face_embedder(name)


def test_facenet_from_a_file(offline, state, tmp_path):
    torch.save(state, tmp_path / "net.pt")
    embed = face_embedder(tmp_path / "net.pt")
    assert embed.name == "facenet-vggface2" and not embed.training
    assert face_embedder(embed) is embed
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ToonError, match=r"other\.pt"):
        face_embedder(tmp_path / "other.pt")

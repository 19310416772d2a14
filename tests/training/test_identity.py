"""Face embeddings, against facenet-pytorch's own preprocessing and against algebra."""

import pytest
import torch
from facenet_pytorch import InceptionResnetV1, fixed_image_standardization

from stylegan_toon.errors import ToonError
from stylegan_toon.nn import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from stylegan_toon.training import identity as module
from stylegan_toon.training.hub import Unavailable
from stylegan_toon.training.identity import FACE_BOX, DiscriminatorFaces, FaceNet, face_embedder

SMALL = dict(resolution=32, channel_base=512, channel_max=32)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return InceptionResnetV1(pretrained=None).state_dict()


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    G = Generator(GeneratorConfig(z_dim=32, w_dim=32, mapping_layers=2, **SMALL))
    D = Discriminator(DiscriminatorConfig(**SMALL))
    return G.eval().requires_grad_(False), D.eval().requires_grad_(False)


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
        found = ours(pixels / 127.5 - 1)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


def test_embeddings_are_unit_vectors_and_alike_to_themselves(networks):
    G, D = networks
    embed = DiscriminatorFaces(D, G)
    img = G(torch.randn(4, 32))
    torch.testing.assert_close(embed(img).norm(dim=1), torch.ones(4))
    torch.testing.assert_close(embed.similarity(img, img), torch.ones(4))
    assert (embed.similarity(img, img.roll(1, 0)) < 0.999).all()


def test_mean_face_is_taken_away(networks):
    """Over the generator's pictures the centred features average to about nothing, the raw ones do not."""
    G, D = networks
    img = G(torch.randn(256, 32, generator=torch.Generator().manual_seed(5)))
    centred, raw = DiscriminatorFaces(D, G, samples=256)(img), DiscriminatorFaces(D)(img)
    assert centred.mean(dim=0).norm() < 0.3
    assert raw.mean(dim=0).norm() > 0.8


@pytest.fixture
def offline(monkeypatch, networks):
    def fail(url, **kwargs):
        raise Unavailable("no download from there (no answer)")

    monkeypatch.setattr(module, "hub_file", fail)
    monkeypatch.setattr(module, "load_network", lambda name, which="G_ema": networks[which == "D"])
    monkeypatch.delenv(module.ENVIRONMENT, raising=False)


def test_auto_falls_back_and_says_so_once(offline):
    lines = []
    assert face_embedder("auto", say=lines.append).name == "discriminator"
    assert len(lines) == 1 and "no answer" in lines[0]


def test_facenet_asked_for_but_not_to_be_had(offline):
    with pytest.raises(ToonError, match="--identity discriminator"):
        face_embedder("facenet")


def test_facenet_from_a_file(offline, state, tmp_path):
    torch.save(state, tmp_path / "net.pt")
    embed = face_embedder(tmp_path / "net.pt")
    assert embed.name == "facenet-vggface2" and not embed.training
    assert face_embedder(embed) is embed
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ToonError, match=r"other\.pt"):
        face_embedder(tmp_path / "other.pt")

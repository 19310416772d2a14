"""The encoder on faces whose latents are known, its map against the formula, and the search that starts from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylegan_toon import InversionConfig, load_network, project
from stylegan_toon.errors import ToonError
from stylegan_toon.features.perceptual import DiscriminatorFeatures, perceptual
from stylegan_toon.inversion.encoder import FEATURES, Encoder, EncoderConfig, encoder, face_features, fits_encoder
from stylegan_toon.inversion.optimise import invert
from stylegan_toon.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from stylegan_toon.weights import pretrained_folder

COUNT = 8


@pytest.fixture(scope="module")
def faces():
    return load_network("faces").requires_grad_(False)


@pytest.fixture(scope="module")
def pairs(faces):
    """w ``[8, 512]`` at psi 0.75, and their pictures at 256 px. The encoder was fitted on other seeds."""
    z = torch.randn(COUNT, 512, generator=torch.Generator().manual_seed(20261127))
    ws = faces.mapping(z, psi=0.75)
    pictures = torch.cat([faces.synthesis(row[None], resolution=512).clamp(-1, 1) for row in ws])
    return ws[:, 0], F.interpolate(pictures, size=256, mode="area")


def explained(faces, truth: torch.Tensor, ws: torch.Tensor) -> float:
    """1 - squared error / squared distance from w_avg; the mean latent has 0."""
    w_avg = faces.mapping.w_avg
    return float(1 - (ws.mean(1) - truth).square().sum() / (truth - w_avg).square().sum())


def test_it_recovers_the_latents_of_faces_it_has_not_seen(faces, pairs):
    truth, pictures = pairs
    ws = encoder()(pictures)
    assert ws.shape == (COUNT, faces.num_ws, 512)
    assert explained(faces, truth, ws) > 0.4
    offset, wanted = ws.mean(1) - faces.mapping.w_avg, truth - faces.mapping.w_avg
    likeness = F.cosine_similarity(offset[:, None], wanted[None], dim=2)
    assert (likeness.argmax(1) == torch.arange(COUNT)).all()  # each one's own latent, of eight, is the nearest
    assert likeness.diagonal().min() > 0.5


def test_blur_a_shift_and_noise_change_little(faces, pairs):
    truth, pictures = pairs
    small = F.interpolate(pictures, size=96, mode="area")
    blurred = F.interpolate(small, size=256, mode="bilinear").roll((4, -4), dims=(2, 3))
    worse = blurred + 0.03 * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(0))
    before, after = (explained(faces, truth, encoder()(x)) for x in (pictures, worse.clamp(-1, 1)))
    assert after > before - 0.1


def test_the_picture_of_its_latent_is_nearer_than_that_of_the_mean(faces, pairs):
    measure = perceptual("vgg")
    for picture in pairs[1][:3, None]:
        mean = faces.mapping.w_avg.expand(1, faces.num_ws, -1)
        near, far = (faces.synthesis(ws, resolution=256) for ws in (encoder()(picture), mean))
        assert measure.distance(near, picture) < 0.7 * measure.distance(far, picture)


def test_the_map_is_the_formula():
    """In float64 and with a matrix product for each group of rows."""
    config = EncoderConfig(rows=(1, 3), w_dim=5, rank=4)
    network, random = Encoder(config), np.random.default_rng(0)
    values = {name: random.standard_normal(tensor.shape) for name, tensor in network.state_dict().items()}
    values["spread"] = 1 + values["spread"] ** 2
    network.load_state_dict({name: torch.from_numpy(value).float() for name, value in values.items()})
    features = random.standard_normal((2, FEATURES))
    mixed = (features - values["centre"]) / values["spread"] @ values["mix"].T
    offsets = mixed @ values["heads"].T + values["bias"]
    first, second = values["w_avg"] + offsets[:, :5], values["w_avg"] + offsets[:, 5:]
    truth = np.stack([first, second, second, second], axis=1)
    torch.testing.assert_close(
        network.decode(torch.from_numpy(features).float()), torch.from_numpy(truth).float(), rtol=1e-3, atol=1e-2
    )


def test_a_batch_is_its_pictures_one_by_one(pairs):
    together = face_features(pairs[1][:3])
    apart = torch.cat([face_features(picture[None]) for picture in pairs[1][:3]])
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-3)  # square roots magnify rounding near 0


@pytest.mark.parametrize("shape", [(1, 3, 256, 255), (1, 3, 32, 32), (2, 1, 128, 128), (1, 4, 128, 128)])
def test_pictures_it_cannot_take_are_refused_in_a_sentence(shape):
    with pytest.raises(ToonError, match=r"square RGB pictures of at least 64 px.*align the photo first\.$"):
        encoder()(torch.zeros(shape))


def test_it_fits_the_networks_that_share_the_mapping_network(faces):
    assert fits_encoder(faces, encoder()) and fits_encoder(load_network("comic"), encoder())
    assert not fits_encoder(tiny(), encoder())
    faces = load_network("faces")
    faces.mapping.w_avg.copy_(faces.mapping(torch.randn(1, 512))[0, 0])
    assert not fits_encoder(faces, encoder())


def test_the_file_is_small():
    assert (pretrained_folder() / "encoder.safetensors").stat().st_size <= 10e6


def tiny() -> Generator:
    torch.manual_seed(0)
    config = GeneratorConfig(resolution=32, channel_base=512, channel_max=32, z_dim=32, w_dim=32, mapping_layers=2)
    network = Generator(config).eval().requires_grad_(False)
    network.mapping.w_avg.copy_(network.mapping(torch.randn(2000, 32))[:, 0].mean(0))
    return network


def tiny_measure() -> DiscriminatorFeatures:
    torch.manual_seed(1)
    config = DiscriminatorConfig(resolution=32, channel_base=512, channel_max=32)
    return DiscriminatorFeatures(Discriminator(config).eval().requires_grad_(False))


def test_a_search_begins_at_the_given_start():
    """Started at the true ws, the first distance is about 0; started at the mean, it is large."""
    G, measure = tiny(), tiny_measure()
    ws = torch.cat([G.mapping(torch.randn(1, 32)).mean(1, keepdim=True) for _ in range(G.num_ws)], dim=1)
    target = G.synthesis(ws, noise_mode="const")
    config = InversionConfig(steps=4, lr=1e-4)
    near, far = (invert(G, target, measure, config, start=start, noise=False) for start in (ws, None))
    assert near.history[0] < 1e-3 * far.history[0]
    torch.testing.assert_close(near.ws, ws, rtol=0, atol=0.02)


def test_in_w_the_published_projector_begins_with_the_mean():
    G, measure = tiny(), tiny_measure()
    target = torch.zeros(1, 3, 32, 32)
    ws = G.mapping(torch.randn(1, 32))
    explicit, plain = (
        invert(G, target, measure, InversionConfig(space="w", steps=3), start=start, noise=False)
        for start in (ws, None)
    )
    assert explicit.history == plain.history


def test_an_unsuitable_network_is_refused():
    G, measure = tiny(), tiny_measure()
    target = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ToonError, match="--start mean"):
        project(G, target, InversionConfig(steps=2, start="encoder"), measure=measure)
    auto, mean = (
        project(G, target, InversionConfig(steps=2, start=start), measure=measure) for start in ("auto", "mean")
    )
    assert auto.history == mean.history


def test_a_short_search_ends_nearer_with_the_encoder(faces, pairs):
    picture = pairs[1][:1]
    encoded, mean = (
        project(faces, picture, InversionConfig(steps=4, start=start), resolution=128, noise=False).history[0]
        for start in ("auto", "mean")
    )
    assert encoded < 0.7 * mean

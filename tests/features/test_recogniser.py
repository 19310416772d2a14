"""dlib's recogniser against the package its weights come from, and its crop of an aligned face against geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from make_identity import chips
from PIL import Image, ImageOps

from stylegan_toon.data.images import to_tensor
from stylegan_toon.faces.align import crop
from stylegan_toon.features.dlib import CENTRE, SHARE, DlibNetwork, face_chip, recogniser
from stylegan_toon.weights import load_networks, pretrained_folder, save_networks

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def network() -> DlibNetwork:
    return recogniser()


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return torch.from_numpy(chips()).permute(0, 3, 1, 2).float()


def test_equals_the_original_package(network, faces):
    """`make_identity.py` got the expected values from @vladmandic/face-api, run on the same pictures."""
    expected = torch.from_numpy(np.load(HERE / "identity.npz")["vectors"])
    with torch.no_grad():
        torch.testing.assert_close(network(faces), expected, rtol=0, atol=1e-4)


def test_gradients_are_those_of_finite_differences(faces):
    """Along three random directions of a 96 px picture, through the chip and the network, in float64."""
    network = recogniser().double()
    random = torch.Generator().manual_seed(0)
    img = torch.nn.functional.interpolate(faces[:1].double(), size=(96, 96), mode="area").requires_grad_()
    weights = torch.randn(128, dtype=torch.float64, generator=random)

    def score(img: torch.Tensor) -> torch.Tensor:
        return (network(face_chip(img))[0] * weights).sum()

    (gradient,) = torch.autograd.grad(score(img), img)
    for _ in range(3):
        way = torch.randn(img.shape, dtype=torch.float64, generator=random)
        with torch.no_grad():
            slope = (score(img + 1e-6 * way) - score(img - 1e-6 * way)) / 2e-6  # few kinks are so near
        assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_weights_follow_the_network(faces):
    """Weights are cached; after a change of dtype or values, also in inference mode, the new ones are used."""
    network = recogniser()
    with torch.inference_mode():
        first = network(faces)
    twice = network.double()(faces.double().requires_grad_())
    assert twice.dtype == torch.float64 and twice.requires_grad
    torch.testing.assert_close(twice.detach().float(), first, rtol=1e-3, atol=1e-4)
    assert network.float()(faces).dtype == torch.float32
    network.load_state_dict({name: torch.zeros_like(t) for name, t in network.state_dict().items()})
    assert (network(faces) == 0).all()


def test_the_file_holds_the_levels_of_the_package(tmp_path, network, faces):
    path = pretrained_folder() / "dlib-identity.safetensors"
    assert path.stat().st_size <= 6.5e6
    assert sum(t.numel() for t in network.state_dict().values() if t.dtype == torch.uint8) > 5e6
    save_networks(tmp_path / "again.safetensors", {"identity": network})
    again = load_networks(tmp_path / "again.safetensors")["identity"]
    with torch.no_grad():
        assert torch.equal(again(faces), network(faces))


def square(side: int) -> np.ndarray:
    """Corners of the chip in pixels, as `crop` takes them."""
    x, y, half = CENTRE[0], CENTRE[1], SHARE / 2
    return side * np.array([[x - half, y - half], [x - half, y + half], [x + half, y + half], [x + half, y - half]])


@pytest.mark.parametrize("side", [100, 256, 320, 1024])
def test_position_of_the_chip(side):
    """In a picture whose colours encode the position, the chip has exactly the colours of its square."""
    at = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    img = torch.stack([at.expand(side, side), at[:, None].expand(side, side), torch.zeros(side, side)])[None]
    chip = face_chip(img)[0]
    for axis, (centre, row) in enumerate(zip(CENTRE, (chip[0, 75], chip[1, :, 75]))):
        wanted = centre + SHARE * ((torch.arange(150, dtype=torch.float64) + 0.5) / 150 - 0.5)
        # The width of the blocks that a large picture is averaged over need not divide its side.
        torch.testing.assert_close(row, wanted, rtol=0, atol=2e-3, msg=f"axis {axis}")


@pytest.mark.parametrize("side", [192, 512, 1024])
def test_the_chip_is_what_alignment_would_cut(side):
    """Against the antialiased crop that the photos are aligned with: a face, and fine stripes, which vanish."""
    face = (
        Image.open(HERE.parent / "faces" / "faces.png")
        .convert("RGB")
        .crop((0, 0, 192, 192))
        .resize((side, side), Image.LANCZOS)
    )
    wanted = np.asarray(crop(face, square(side), 150), np.float64)
    result = (face_chip(to_tensor(face))[0].permute(1, 2, 0).double().numpy() + 1) * 127.5
    assert np.sqrt(np.square(wanted - result).mean()) < 2.5
    if side > 400:
        stripes = torch.ones(1, 3, side, side)
        stripes[..., ::2] = -1
        assert face_chip(stripes).abs().max() < 0.35


def test_distances_of_the_same_person_and_of_others(network):
    """The example's photo beside its mirror image, and beside two other faces."""
    from stylegan_toon.faces.photo import open_photo

    portrait = open_photo(pretrained_folder() / "examples" / "portrait.jpg", 256).faces[0].image
    row = Image.open(HERE.parent / "faces" / "faces.png").convert("RGB")
    others = [row.crop((left, 0, left + 192, 192)) for left in (0, 192)]
    with torch.no_grad():
        me, mirror, *unrelated = (
            network((face_chip(to_tensor(p)) + 1) * 127.5) for p in (portrait, ImageOps.mirror(portrait), *others)
        )
    assert (me - mirror).norm() < 0.3
    assert all((me - other).norm() > 0.6 for other in unrelated)

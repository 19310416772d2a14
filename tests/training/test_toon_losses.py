"""Losses of fine-tooning against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from stylegan_toon.features.vgg import VggLoss
from stylegan_toon.training.toon_losses import StayCartoon, chroma, colour_loss, structure_loss, triplet_loss


def plain(*rgb: float, side: int = 64) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.float32)[None, :, None, None].expand(1, 3, side, side).clone()


@pytest.mark.parametrize("legacy", [False, True])
def test_the_sign_of_the_triplet(legacy):
    """Descending the loss brings the anchor to the person; with the legacy sign it moves away."""
    to_person, to_toon = torch.tensor([0.5], requires_grad=True), torch.tensor([0.7], requires_grad=True)
    triplet_loss(to_person, to_toon, legacy_sign=legacy).sum().backward()
    assert (to_person.grad.item(), to_toon.grad.item()) == ((1, -1) if legacy else (-1, 1))


def test_beyond_the_margin_nothing_pulls():
    to_person = torch.tensor([0.9], requires_grad=True)
    loss = triplet_loss(to_person, torch.tensor([0.5]), margin=0.3)
    loss.sum().backward()
    assert loss.item() == 0 and to_person.grad.item() == 0


def test_chroma_is_cb_and_cr():
    """Pure red, -1 to 1: luma 0.299 * 2 - 1; Cb and Cr by BT.601's constants, twice the published ones' range."""
    red = chroma(plain(1, -1, -1))
    assert red.shape == (1, 2, 32, 32)
    assert red[0, 0, 0, 0].item() == pytest.approx(2 * -0.168736, abs=1e-5)
    assert red[0, 1, 0, 0].item() == pytest.approx(2 * 0.5, abs=1e-5)
    assert chroma(plain(0.3, 0.3, 0.3)).abs().max() < 1e-6
    assert chroma(plain(0.3, 0.3, 0.3)[:, :1]).abs().max() < 1e-6  # one channel


def test_light_is_no_colour_and_hue_is():
    skin, darker, redder = plain(0.5, 0.2, 0.1), plain(0.3, 0.0, -0.1), plain(0.7, 0.2, 0.1)
    assert colour_loss(darker, chroma(skin)).item() == pytest.approx(0, abs=1e-6)
    expected = (0.2 * 0.299 / 1.772 + 0.2 * 0.701 / 1.402) / 2
    assert colour_loss(redder, chroma(skin)).item() == pytest.approx(expected, abs=1e-6)


def test_colour_pulls_towards_the_person():
    img = plain(0.7, 0.2, 0.1).requires_grad_()
    colour_loss(img, chroma(plain(0.5, 0.2, 0.1))).sum().backward()
    assert (img.grad[:, 0] > 0).all()  # descending lowers red


def test_structure_by_hand():
    """Two places of two channels: cosines 1 and 0.6."""
    wanted = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])
    found = torch.tensor([[[[2.0, 1.0]], [[0.0, 0.0]]]])
    assert structure_loss(found, wanted).item() == pytest.approx(1 - (1 + 0.6) / 2)


def test_staying_is_zero_at_the_start_and_the_package_s_vgg_loss_elsewhere():
    stays = StayCartoon()
    a, b = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kept, style = stays(a, stays.small(a))
    assert kept.abs().max() < 1e-5 and style.abs().max() < 1e-5
    kept, style = stays(a, stays.small(b))
    alone = torch.stack([VggLoss()(a[i : i + 1], b[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(kept, alone, rtol=1e-4, atol=1e-6)
    assert (style > 0).all()


def test_style_does_not_see_places_and_keep_does():
    """A picture and its mirror image have nearly the same statistics and other features in every place."""
    stays = StayCartoon()
    img = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    img = torch.nn.functional.interpolate(img, size=(128, 128), mode="bicubic").clamp(-1, 1)
    kept, style = stays(img.roll(64, 3), stays.small(img))
    assert kept.item() > 5 * style.item()


def test_large_pictures_are_reduced_and_gradients_are_finite():
    stays = StayCartoon()
    img = torch.zeros(1, 3, 256, 256, requires_grad=True)  # flat: deviations are zero
    assert stays.small(img).shape[-1] == 128
    kept, style = stays(img, stays.small(torch.full((1, 3, 256, 256), 0.5)))
    (kept + style).sum().backward()
    assert img.grad.isfinite().all()

"""The projected discriminator: what is trained, what is frozen, and that it learns from few pictures."""

from __future__ import annotations

import pytest
import torch

from stylegan_toon.features.projected import ProjectedConfig, ProjectedDiscriminator, SpectralConv
from stylegan_toon.training.losses import discriminator_loss, score, scores
from stylegan_toon.weights import load_networks, save_networks


def build(resolution: int = 64, **changes) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    return ProjectedDiscriminator(ProjectedConfig(resolution, **{"view": 64, "width": 16, **changes}))


def test_the_largest_singular_value_is_divided_out():
    torch.manual_seed(1)
    conv = SpectralConv(3, 5, 4, stride=2)
    with torch.no_grad():
        conv.weight.copy_(torch.randn_like(conv.weight) * 7)
        conv.bias.zero_()
    x = torch.randn(2, 3, 16, 16)
    largest = torch.linalg.svdvals(conv.weight.double().flatten(1))[0]
    expected = torch.nn.functional.conv2d(x.double(), conv.weight.double() / largest, None, 2, 1)
    torch.testing.assert_close(conv(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_score_for_each_patch_of_each_size():
    D = build(256, view=256)
    assert D(torch.zeros(2, 3, 256, 256)).shape == (2, 4 * 8 * 8)
    with pytest.raises(ValueError, match="pictures must be"):
        D(torch.zeros(1, 3, 128, 128))


@pytest.mark.parametrize(
    ("change", "error"), [(dict(view=32), ValueError), (dict(view=96), ValueError), (dict(c_dim=2), ValueError)]
)
def test_configurations_that_do_not_work(change, error):
    with pytest.raises(error):
        ProjectedConfig(**change)


def test_only_the_heads_are_trained_and_stored(tmp_path):
    D = build()
    assert {name.split(".")[0] for name, _ in D.named_parameters()} == {"heads"}
    assert {name.split(".")[0] for name in D.state_dict()} == {"heads", "mixing"}
    frozen = {k: v.clone() for k, v in D.state_dict().items() if k.startswith("mixing")}
    x = torch.randn(2, 3, 64, 64)
    discriminator_loss(D(x), D(-x)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in D.heads.parameters() if p.ndim > 1)
    torch.optim.SGD(D.parameters(), 0.1).step()
    assert all(torch.equal(v, D.state_dict()[k]) for k, v in frozen.items())
    save_networks(tmp_path / "d.safetensors", {"D": D})
    again = load_networks(tmp_path / "d.safetensors")["D"]
    assert torch.equal(again(x), D(x))  # the random mixing is stored, the EfficientNet is that of the extra


def test_a_window_of_a_large_picture_is_the_same_for_all():
    """Scores of a picture repeated are equal, and equal those of the window alone."""
    D, large = build(128), torch.randn(1, 3, 128, 128)
    torch.manual_seed(3)
    both = D(large.repeat(2, 1, 1, 1))
    torch.testing.assert_close(both[0], both[1])
    torch.manual_seed(3)
    y, x = (int(torch.randint(65, [])) for _ in range(2))
    small = build(64)
    small.load_state_dict(D.state_dict())
    torch.testing.assert_close(small(large[:, :, y : y + 64, x : x + 64])[0], both[0])


def test_samples_are_scored_one_by_one():
    D, x = build(), torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(score(D, x, None), torch.cat([D(one[None]) for one in x]), rtol=1e-4, atol=1e-4)
    real, fake = scores(D, x, -x, None)
    torch.testing.assert_close(real, D(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fake, D(-x), rtol=1e-4, atol=1e-4)


def test_it_learns_lines_from_few_pictures():
    """16 pictures with lines, 16 with the same lines blurred; after 30 steps unseen ones are told apart."""
    torch.manual_seed(0)

    def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        coarse = torch.nn.functional.interpolate(torch.randn(count, 1, 8, 8), size=(64, 64), mode="bicubic")
        lines = 1 - 2 * (coarse.abs() < 0.1).float().expand(-1, 3, -1, -1)
        return lines, torch.nn.functional.avg_pool2d(lines, 5, 1, 2)

    D = build()
    optimizer = torch.optim.Adam(D.parameters(), 2e-3, betas=(0.0, 0.99))
    real, fake = pictures(16)
    for _ in range(30):
        loss = discriminator_loss(*scores(D, real, fake, None)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        unseen = [D(part).mean(dim=1) for part in pictures(8)]
    assert unseen[0].min() > unseen[1].max()

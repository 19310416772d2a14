"""Parity with the published pipe, when STYLEGAN_TOON_PEER names a checkout of stylegan2-ada-pytorch.

Two ways: the same parameters must give the same pictures, and the pictures must have the same distribution.
"""

from __future__ import annotations

import math
import os
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylegan_toon.training.augment import PIPES, AugmentConfig, AugmentPipe, color
from stylegan_toon.training.augment.corrupt import amplify, balanced_gains
from stylegan_toon.training.augment.geometry import permute, rotate, scale, translate, warp

PEER = os.environ.get("STYLEGAN_TOON_PEER")
pytestmark = pytest.mark.skipif(not PEER, reason="STYLEGAN_TOON_PEER names no checkout of stylegan2-ada-pytorch")

EACH = [name for name in PIPES["bgcfnc"].__dataclass_fields__ if getattr(PIPES["bgcfnc"], name) == 1]
EACH = [name for name in EACH if not name.endswith(("_max", "_std"))]


@pytest.fixture(scope="module")
def published():
    """The published class; its top-level packages are forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, PEER)
    try:
        from training.augment import AugmentPipe as Published

        yield lambda p, **options: _ready(Published(**options), p)
    finally:
        sys.path.remove(PEER)
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("training", "torch_utils", "dnnlib"):
                del sys.modules[name]


def _ready(pipe: torch.nn.Module, p: float) -> torch.nn.Module:
    pipe.p.fill_(p)
    return pipe


@pytest.fixture
def smooth() -> torch.Tensor:
    torch.manual_seed(0)
    x = F.interpolate(torch.randn(1, 3, 4, 4), size=(32, 32), mode="bicubic")
    return x / x.std()


# ------------------------------------------------------------ the same parameters, by the peer's debug_percentile

PERCENTILE = 0.8
Z = torch.tensor([math.erf(0)], dtype=torch.float64) + torch.erfinv(torch.tensor(2 * PERCENTILE - 1).double())
ONE = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "inverse"),
    [
        ("scale", scale(torch.exp2(-0.2 * Z), torch.exp2(-0.2 * Z))),
        ("rotate", rotate(ONE * 0.6 * math.pi)),
        ("aniso", scale(torch.exp2(-0.2 * Z), torch.exp2(0.2 * Z))),
        ("xfrac", translate(-0.125 * 32 * Z.repeat(1, 2))),
    ],
)
def test_the_same_geometry(published, smooth, name, inverse):
    wanted = published(1, **{name: 1})(smooth, debug_percentile=PERCENTILE)
    result = warp(smooth, inverse.float())
    inside = (result - wanted)[:, :, 4:-4, 4:-4]
    # Where the picture continues by reflection, the wavelet's asymmetry is reflected here and not there.
    assert (result - wanted).square().mean().sqrt() < 0.03 and inside.abs().median() < 2e-6
    assert (smooth - wanted).square().mean().sqrt() > 0.1


@pytest.mark.parametrize(
    ("name", "inverse"),
    [
        ("xflip", scale(-ONE, ONE)),
        ("rotate90", rotate(ONE * 1.5 * math.pi).round()),
        ("xint", translate(torch.full((1, 2), -round(0.6 * 0.125 * 32)).double())),
    ],
)
def test_the_same_blits(published, smooth, name, inverse):
    wanted = published(1, **{name: 1})(smooth, debug_percentile=PERCENTILE)
    result = permute(smooth, inverse.float())
    assert (result - wanted).square().mean().sqrt() < 0.05  # exact here, through the wavelet there


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("brightness", color.brightness(0.2 * Z)),
        ("contrast", color.contrast(torch.exp2(0.5 * Z))),
        ("lumaflip", color.luma_flip(ONE)),
        ("hue", color.hue(ONE * 0.6 * math.pi)),
        ("saturation", color.saturation(torch.exp2(Z))),
    ],
)
def test_the_same_colours(published, smooth, name, matrix):
    wanted = published(1, **{name: 1})(smooth, debug_percentile=PERCENTILE)
    assert torch.allclose(color.recolor(smooth, matrix.float()), wanted, atol=1e-5)
    grey = smooth[:, :1]
    wanted = published(1, **{name: 1})(grey, debug_percentile=PERCENTILE)
    if name not in ("hue", "saturation"):
        assert torch.allclose(color.recolor(grey, matrix.float()), wanted, atol=1e-5)


@pytest.mark.parametrize("bands", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1)])
def test_the_same_filter(published, bands):
    x = torch.randn(2, 3, 32, 32)
    wanted = published(1, imgfilter=1, imgfilter_bands=bands)(x, debug_percentile=PERCENTILE)
    gains = balanced_gains((Z * torch.tensor(bands))[None].expand(2, -1)).float()
    assert torch.allclose(amplify(x, gains), wanted, atol=1e-4)


# ------------------------------------------------------------ the same distribution


def features(pictures: torch.Tensor) -> dict[str, np.ndarray]:
    """Statistics of each picture to compare distributions by: moments, pixels, projections on random patterns."""
    pictures = pictures.double()
    pattern = torch.randn(4, *pictures.shape[1:], generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    result = {
        "mean": pictures.mean(dim=(1, 2, 3)),
        "deviation": pictures.std(dim=(1, 2, 3)).log2(),
        "detail": pictures.diff(dim=3).square().mean(dim=(1, 2, 3)).log2(),
        "chroma": pictures.std(dim=1).mean(dim=(1, 2)).log2(),
        "corner": pictures[:, 0, 2, 3],
        "centre": pictures[:, -1, 16, 16],
        **{f"pattern{i}": (pictures * pattern[i]).mean(dim=(1, 2, 3)) for i in range(4)},
    }
    return {name: value.numpy() for name, value in result.items()}


def levy_excess(a: np.ndarray, b: np.ndarray, slack: float) -> float:
    """The two-sample Kolmogorov-Smirnov distance, with shifts of up to ``slack`` allowed (Levy distance)."""
    both = np.concatenate([a, b])
    share = lambda x, at: np.searchsorted(np.sort(x), at, side="right") / len(x)  # noqa: E731
    return max((share(a, both) - share(b, both + slack)).max(), (share(b, both) - share(a, both + slack)).max())


@pytest.mark.parametrize("name", [*EACH, *list(PIPES)[6:]])
@torch.no_grad()
def test_the_same_distribution(published, smooth, name):
    """Mean, deviation and Kolmogorov-Smirnov distance of every feature, over 2000 pictures each."""
    n, p = 2000, 0.6
    config = PIPES.get(name) if name.startswith("bg") else AugmentConfig(**{name: 1})
    torch.manual_seed(1)
    ours = features(AugmentPipe(config, p=p)(smooth.expand(n, -1, -1, -1)))
    torch.manual_seed(2)
    pipe = published(p, **{key: getattr(config, key) for key in EACH})
    theirs = features(torch.cat([pipe(part) for part in smooth.expand(n, -1, -1, -1).split(25)]))
    distances = []
    for feature, a in ours.items():
        b = theirs[feature]
        spread = max(a.std(), b.std(), 1e-3)
        # Flips and edges differ by what the wavelet's asymmetry does to them, a few hundredths of the picture.
        slack = 0.05 * spread + 0.03
        distance = levy_excess(a, b, slack)
        distances.append((distance, feature, (a.mean() - b.mean()) / spread, a.std() / max(b.std(), 1e-9)))
        assert abs(a.mean() - b.mean()) < 4.5 * spread * math.sqrt(2 / n) + slack, feature
        assert a.std() == pytest.approx(b.std(), rel=0.15, abs=0.02), feature
        assert distance < 2.3 * math.sqrt(2 / n), feature  # equal distributions exceed this once in 20,000
    distance, feature, apart, ratio = max(distances)
    print(f"{name}: {distance:.3f} ({feature}: means {apart:.3f} deviations apart, ratio of deviations {ratio:.3f})")

"""The pipe: how often augmentations fire, how strong they are, what stays unchanged, and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from stylegan_toon.errors import ToonError
from stylegan_toon.training.augment import (
    PIPES,
    AdaController,
    AugmentConfig,
    AugmentPipe,
    DiffAugment,
    build_augment,
)
from stylegan_toon.training.augment import pipe as pipe_module
from stylegan_toon.training.augment.base import RandomNumbers
from stylegan_toon.training.augment.geometry import permute, warp

N = 4000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------ what fires, how often, how strongly

UNIFORM, NORMAL = stats.uniform(-1, 2), stats.norm()  # on [-1, 1]
DRAWS = {  # augmentation: (matrix or gains, the value drawn from it in units of its strength, distribution)
    "xint": ("blit_matrix", lambda m: -m[:, 0, 2] / 125, UNIFORM),  # the picture is 1000 px wide
    "scale": ("geometry_matrix", lambda m: -m[:, 0, 0].log2() / 0.2, NORMAL),
    "rotate": ("geometry_matrix", lambda m: torch.atan2(m[:, 1, 0], m[:, 0, 0]) / math.pi, UNIFORM),
    "aniso": ("geometry_matrix", lambda m: (m[:, 1, 1] / m[:, 0, 0]).log2() / 0.4, NORMAL),
    "xfrac": ("geometry_matrix", lambda m: -m[:, 1, 2] / 125, NORMAL),
    "brightness": ("color_matrix", lambda m: m[:, 1, 3] / 0.2, NORMAL),
    "contrast": ("color_matrix", lambda m: m[:, 2, 2].log2() / 0.5, NORMAL),
    "hue": (
        "color_matrix",
        lambda m: (
            torch.atan2((m[:, 1, 0] - m[:, 0, 1]) * math.sqrt(3), m[:, :3, :3].diagonal(0, 1, 2).sum(1) - 1) / math.pi
        ),
        UNIFORM,
    ),
    "saturation": ("color_matrix", lambda m: (m[:, 0, 0] - m[:, 0, 1]).log2(), NORMAL),
    "imgfilter": ("band_gains", lambda g: g[:, 2], NORMAL),
}


def draw(name: str, p: float, multiplier: float = 1.0) -> torch.Tensor:
    method, value, _ = DRAWS[name]
    pipe = AugmentPipe(AugmentConfig(**{name: multiplier}), p=p)
    sizes = (1000, 1000) if method in ("blit_matrix", "geometry_matrix") else ()
    return value(getattr(pipe, method)(RandomNumbers(N, seeded()), *sizes))


@pytest.mark.parametrize("name", DRAWS)
def test_strengths_have_the_published_distribution(name):
    value = draw(name, p=1).numpy()
    assert stats.kstest(value, DRAWS[name][2].cdf).pvalue > 0.01
    assert value.mean() == pytest.approx(0, abs=0.06)
    assert value.std() == pytest.approx(DRAWS[name][2].std(), rel=0.05)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(("p", "multiplier"), [(0.3, 1.0), (0.8, 0.25)])
def test_each_fires_with_p_times_its_multiplier(name, p, multiplier):
    fired = (draw(name, p, multiplier).abs() > 1e-9).double().mean().item()
    rate = p * multiplier
    if name == "xint":
        rate *= 1 - 1 / 250  # a shift of less than half a pixel is none
    assert fired == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / N))


def test_both_shifts_are_two_independent_numbers():
    for name, method in (("xint", "blit_matrix"), ("xfrac", "geometry_matrix")):
        m = getattr(AugmentPipe(AugmentConfig(**{name: 1}), p=1), method)(RandomNumbers(N, seeded()), 1000, 1000)
        assert abs(stats.pearsonr(m[:, 0, 2], m[:, 1, 2])[0]) < 0.05


def test_a_rotation_before_and_one_after_the_stretch_and_the_shift_last():
    """The axes of the stretch have any direction in the input and in the output; the shift is in output pixels."""
    m = AugmentPipe("geom", p=1).geometry_matrix(RandomNumbers(N, seeded()), 1000, 1000)
    linear = m[:, :2, :2]
    axes = [
        torch.atan2(2 * square[:, 0, 1], square[:, 0, 0] - square[:, 1, 1]) / math.pi
        for square in (linear @ linear.mT, linear.mT @ linear)
    ]
    for axis in axes:
        assert stats.kstest(axis.numpy(), UNIFORM.cdf).pvalue > 0.01
    assert abs(torch.exp(1j * math.pi * (axes[0] - axes[1])).mean()) < 0.05  # independent of each other
    shift = torch.linalg.solve(linear, -m[:, :2, 2])
    assert stats.kstest((shift / 125).flatten().numpy(), NORMAL.cdf).pvalue > 0.01


def test_contrast_multiplies_what_brightness_added():
    m = AugmentPipe(AugmentConfig(brightness=1, contrast=1), p=1).color_matrix(RandomNumbers(N, seeded()))
    added, factor = m[:, 0, 3] / m[:, 0, 0], m[:, 0, 0]
    assert stats.kstest((added / 0.2).numpy(), NORMAL.cdf).pvalue > 0.01
    assert stats.spearmanr(added.abs(), factor).pvalue > 0.01  # independent


@pytest.mark.parametrize("p", [0.4, 1.0])
def test_flips_and_turns_are_exact_and_have_the_documented_frequency(p):
    """xflip flips half of what it fires on; rotate90 takes 0 to 3 quarter turns alike."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8)
    y = AugmentPipe(AugmentConfig(xflip=1, rotate90=1), p=p)(x.expand(N, -1, -1, -1))
    seen = torch.zeros(2, 4, dtype=torch.float64)
    for flip in (0, 1):
        for turns in range(4):
            moved = (x.flip(3) if flip else x).rot90(turns, (2, 3))
            seen[flip, turns] = (y == moved).flatten(1).all(dim=1).sum()
    assert seen.sum() == N  # every picture is one of the eight, exactly
    flips, turns = torch.tensor([1 - p / 2, p / 2]).double(), torch.tensor([1 - 0.75 * p, *[p / 4] * 3]).double()
    wanted = torch.outer(flips, turns) * N
    assert stats.chisquare(seen.flatten(), wanted.flatten()).pvalue > 0.01


def test_half_of_the_luma_flips_flip():
    m = AugmentPipe(AugmentConfig(lumaflip=1), p=0.6).color_matrix(RandomNumbers(N, seeded()))
    assert (m[:, 0, 0] < 0.9).double().mean().item() == pytest.approx(0.3, abs=0.03)


def test_the_bands_fire_independently():
    config = AugmentConfig(imgfilter=1, imgfilter_bands=(1, 0.5, 0, 1))
    fired = AugmentPipe(config, p=0.5).band_gains(RandomNumbers(N, seeded())) != 0
    assert fired.double().mean(dim=0).tolist() == pytest.approx([0.5, 0.25, 0, 0.5], abs=0.03)
    assert (fired[:, 0] & fired[:, 3]).double().mean().item() == pytest.approx(0.25, abs=0.03)


def test_noise_is_half_normal_in_strength_and_white():
    noise = AugmentPipe("noise", p=0.5)(torch.zeros(2000, 3, 12, 12), generator=seeded())
    sigma = noise.flatten(1).std(dim=1)
    fired = sigma > 0
    assert fired.double().mean().item() == pytest.approx(0.5, abs=0.04)
    assert stats.kstest(sigma[fired].numpy(), stats.halfnorm(scale=0.1).cdf).pvalue > 0.01
    white = noise[fired] / sigma[fired][:, None, None, None]
    assert stats.kstest(white.flatten()[:20000].numpy(), NORMAL.cdf).pvalue > 0.01
    for shift in ((0, 1), (1, 0)):
        assert abs((white * white.roll(shift, (2, 3))).mean()) < 0.01
    assert abs((white[:, 0] * white[:, 1]).mean()) < 0.01


def test_cutout_covers_what_a_box_of_half_the_side_covers():
    """Its centre is uniform over the picture: along an axis 7/16 are covered on average, the middle most often."""
    kept = AugmentPipe("cutout", p=0.8)(torch.ones(N, 1, 16, 16), generator=seeded())[:, 0]
    assert kept.unique().tolist() == [0, 1]
    assert (1 - kept).mean().item() == pytest.approx(0.8 * (7 / 16) ** 2, abs=0.01)
    assert (1 - kept[:, 8, 8]).mean().item() == pytest.approx(0.8 * 0.5**2, abs=0.03)
    assert (1 - kept[:, 0, 0]).mean().item() == pytest.approx(0.8 * (1 / 4 + 1 / 32) ** 2, abs=0.02)


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_brightness_contrast_and_luma_flip_act_in_this_order(p):
    """Of a grey picture g: brightness N(0.2) is added, contrast 2^N(0.5) multiplies the sum, the luma flip turns it."""
    n, g = 40000, 0.5
    pipe = AugmentPipe("color", p=p)
    value = pipe(torch.full((n, 3, 1, 1), g), generator=seeded())[:, 0, 0, 0].double()
    b2 = p * 0.2**2  # variance of the brightness
    c2 = 1 - p + p * math.exp(2 * (0.5 * math.log(2)) ** 2)  # second moment of the contrast
    assert value.square().mean().item() == pytest.approx((g**2 + b2) * c2, rel=0.06)
    c1 = 1 - p + p * math.exp((0.5 * math.log(2)) ** 2 / 2)
    assert value.mean().item() == pytest.approx(g * c1 * (1 - p), abs=0.02)  # half of the fired flips turn it: p / 2


# ------------------------------------------------------------ what stays unchanged


def test_p_zero_is_the_identity():
    x = torch.randn(2, 3, 16, 16)
    assert AugmentPipe("bgcfnc", p=0)(x) is x and DiffAugment(p=0)(x) is x


def test_no_copy_where_nothing_fires():
    x = torch.randn(2, 3, 16, 16)
    assert AugmentPipe(AugmentConfig(), p=1)(x) is x
    assert AugmentPipe("bgcfnc", p=1e-9)(x) is x


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_augmented_independently(name, channels):
    """Those on which nothing fires stay as they are, bit for bit."""
    x = torch.randn(64, channels, 16, 16)
    y = AugmentPipe(name, p=0.15)(x, generator=seeded())
    same = (x == y).flatten(1).all(dim=1)
    assert y.shape == x.shape and y.isfinite().all() and 0 < same.sum() < 64


def test_only_geometry_resamples(monkeypatch):
    resampled = []
    warp = pipe_module.warp
    monkeypatch.setattr(pipe_module, "warp", lambda x, m: resampled.append(len(x)) or warp(x, m))
    x = torch.randn(N, 1, 8, 8)
    AugmentPipe("blit", p=1)(x)
    assert not resampled
    AugmentPipe("bg", p=0.1)(x, generator=seeded())
    assert sum(resampled) == pytest.approx(N * (1 - 0.9**4), rel=0.08)  # scale, rotate, aniso or xfrac fired
    AugmentPipe("blit", p=1)(torch.randn(N, 1, 8, 9), generator=seeded())
    assert resampled[-1] == pytest.approx(N / 2, rel=0.08)  # odd quarter turns of oblong pictures


def test_blit_and_geometry_are_one_move():
    """Where both fire, the picture is resampled once, by the product: the flip of the picture first."""
    torch.manual_seed(0)
    x = torch.randn(32, 3, 16, 16)
    pipe, random = AugmentPipe("bg", p=0.4), RandomNumbers(32, seeded())
    blit, geometry = pipe.blit_matrix(random, 16, 16), pipe.geometry_matrix(random, 16, 16)
    still = (geometry == torch.eye(3)).flatten(1).all(dim=1)[:, None, None, None]
    inverse = (blit @ geometry).float()
    wanted = torch.where(still, permute(x, blit.float()), warp(x, inverse))
    assert torch.allclose(pipe(x, generator=seeded()), wanted, atol=1e-5)
    assert 0 < still.sum() < 32


def test_oblong_and_small_pictures():
    for shape in ((4, 3, 16, 24), (4, 3, 8, 8), (4, 1, 4, 4)):
        assert AugmentPipe("bgcfnc", p=1)(torch.randn(shape)).shape == shape


def test_colour_augmentation_refuses_other_channel_counts():
    x = torch.randn(2, 4, 16, 16)
    assert AugmentPipe("bg", p=1)(x).shape == x.shape
    with pytest.raises(ToonError, match=r"4 channels.*--augpipe bg"):
        AugmentPipe("bgc", p=1)(x)


# ------------------------------------------------------------ chance, precision, gradients


@pytest.mark.parametrize("make", [lambda: AugmentPipe("bgcfnc", p=0.7), DiffAugment])
def test_a_generator_fixes_all_random_choices(make):
    x = torch.randn(8, 3, 16, 16)
    pipe = make()
    first = pipe(x, generator=seeded(1))
    torch.manual_seed(5)
    assert torch.equal(pipe(x, generator=seeded(1)), first)
    assert not torch.equal(pipe(x, generator=seeded(2)), first)
    torch.manual_seed(1)
    assert torch.equal(pipe(x), first)  # the global one, seeded alike


@pytest.mark.parametrize("make", [lambda: AugmentPipe("bgcfnc", p=1), DiffAugment])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(make, dtype):
    x = torch.randn(4, 3, 16, 16).to(dtype)
    wanted = make()(x.float(), generator=seeded())
    result = make()(x, generator=seeded())
    assert result.dtype == dtype and torch.equal(result, wanted.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(make()(x.float(), generator=seeded()), wanted)


@pytest.mark.parametrize("make", [lambda: AugmentPipe("bgcfnc", p=1), DiffAugment])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_whole_pipe_differentiates_twice(make, channels):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 4, 4, dtype=torch.float64, requires_grad=True)
    pipe = make()
    assert torch.autograd.gradcheck(lambda a: pipe(a, generator=seeded()), x)
    assert torch.autograd.gradgradcheck(lambda a: pipe(a, generator=seeded()).pow(2), x, fast_mode=True)


def test_r1_with_some_pictures_augmented():
    x = torch.randn(16, 3, 16, 16, requires_grad=True)
    score = AugmentPipe("bgcfnc", p=0.2)(x, generator=seeded()).pow(3).sum()
    (grad,) = torch.autograd.grad(score, x, create_graph=True)
    grad.square().sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad != 0).flatten(1).any(dim=1).all()


# ------------------------------------------------------------ p and names


def test_p_is_part_of_the_state_dict():
    pipe = AugmentPipe(p=0.1)
    pipe.p = torch.tensor(0.375)
    assert pipe.p == 0.375 and isinstance(pipe.p, float)
    pipe.p = 1 / 3
    other = AugmentPipe()
    other.load_state_dict(pipe.state_dict())
    assert other.p == 1 / 3
    assert AdaController(pipe).state_dict().keys() >= {"sum", "count"}
    for wrong in (-0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            pipe.p = wrong


def test_the_eleven_pipes():
    assert list(PIPES) == ["blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"]
    on = {
        name: {k for k, v in vars(c).items() if v == 1 and not k.endswith(("_max", "_std"))}
        for name, c in PIPES.items()
    }
    assert on["blit"] == {"xflip", "rotate90", "xint"} and on["geom"] == {"scale", "rotate", "aniso", "xfrac"}
    assert on["color"] == {"brightness", "contrast", "lumaflip", "hue", "saturation"}
    assert (on["filter"], on["noise"], on["cutout"]) == ({"imgfilter"}, {"noise"}, {"cutout"})
    assert on["bgc"] == on["blit"] | on["geom"] | on["color"] and on["bgcfn"] == on["bgc"] | on["filter"] | on["noise"]
    assert len(on["bgcfnc"]) == 15


def test_invalid_values_are_refused():
    with pytest.raises(ValueError, match="scale_std"):
        AugmentConfig(scale_std=-1)
    with pytest.raises(ValueError, match="4 bands"):
        AugmentConfig(imgfilter_bands=(1, 1))


@pytest.mark.parametrize(
    ("arguments", "kind", "p"),
    [
        (("ada",), "bgc", 0.0),
        (("ada", "bgcfnc", 0.2), "bgcfnc", 0.2),
        (("fixed", "blit", 0.5), "blit", 0.5),
        (("off",), "bgc", 0.0),
        (("diff",), "color,translation,cutout", 1.0),
        (("diff", "cutout", 0.5), "cutout", 0.5),
    ],
)
def test_an_augmentation_by_name(arguments, kind, p):
    pipe = build_augment(*arguments)
    assert pipe.p == p
    assert (pipe.policy == kind) if arguments[0] == "diff" else (pipe.config == PIPES[kind])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("adb",), "ada, fixed, diff, off"),
        (("ada", "bgx"), "bgcfnc"),
        (("diff", "color,blur"), "'blur'.*color,translation,cutout"),
        (("fixed",), "--p"),
        (("off", None, 0.5), "leave out --p"),
    ],
)
def test_an_unknown_name_is_refused(arguments, sentence):
    with pytest.raises(ToonError, match=sentence):
        build_augment(*arguments)

"""The swap grammar, the swap itself, and its agreement with two published conventions."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_generator

from stylegan_toon.errors import ToonError
from stylegan_toon.models.swap import layer_names, parse_swap, smooth, swap_layers

BASE, TOON = tiny_generator(0), tiny_generator(1)
NAMES = layer_names(BASE)


def chosen(text: str, names: list[str] = NAMES) -> set[str]:
    shares = parse_swap(text, names)
    assert set(shares.values()) <= {0.0, 1.0}
    return {name for name, share in shares.items() if share == 1}


def shares_of(result, base=BASE, toon=TOON) -> dict[str, float]:
    """The share of the toon in each tensor of a blend; asserts that every tensor is an interpolation."""
    actual = {}
    ours, theirs = base.state_dict(), toon.state_dict()
    for key, tensor in result.state_dict().items():
        a, b = ours[key].double(), theirs[key].double()
        share = float(((tensor - a) * (b - a)).sum() / (b - a).square().sum())
        torch.testing.assert_close(tensor.double(), a + share * (b - a), atol=1e-6, rtol=1e-5)
        actual[key] = share
    return actual


def test_names():
    assert NAMES == [
        "mapping", "b4.const", "b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "b8.torgb",
        "b16.conv0", "b16.conv1", "b16.torgb", "b32.conv0", "b32.conv1", "b32.torgb",
    ]  # fmt: skip
    assert "b8.skip" in layer_names(tiny_generator(0, architecture="resnet"))
    assert "b8.torgb" not in layer_names(tiny_generator(0, architecture="orig"))


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", ""),
        (" , ", ""),
        ("b8", "8"),
        ("b8,b32", "8 32"),
        (" b8 , b32 ", "8 32"),
        ("b16-", "16 32"),
        ("-b8", "4 8"),
        ("b8-b16", "8 16"),
        ("b16-b16", "16"),
        ("b4-", "4 8 16 32"),
        ("-b32", "4 8 16 32"),
        ("toonify", "4 8 16 32"),
        ("all,mapping=0", "4 8 16 32"),
        ("b4-,b8=0", "4 16 32"),
        ("b8=0,b4-", "4 8 16 32"),
    ],
)
def test_blocks_and_ranges(text, blocks):
    wanted = [f"b{block}." for block in blocks.split()]
    assert chosen(text) == {name for name in NAMES if name.startswith(tuple(wanted)) and wanted}


def test_layers_mapping_all_and_parts():
    assert chosen("all") == set(NAMES)
    assert chosen("mapping") == {"mapping"}
    assert chosen("b16.conv0,b4.const") == {"b16.conv0", "b4.const"}
    shares = parse_swap("b16-=0.25,b32.torgb=.5,mapping=1", NAMES)
    assert shares == {
        **dict.fromkeys(NAMES, 0.0), **dict.fromkeys([n for n in NAMES if re.match("b16|b32", n)], 0.25),
        "b32.torgb": 0.5, "mapping": 1.0,
    }  # fmt: skip


def test_presets_mirror_each_other():
    names = [*NAMES, "b64.conv0", "b64.conv1", "b64.torgb", "b128.conv0", "b128.conv1", "b128.torgb"]
    assert chosen("fine-toon", names) == {n for n in names if re.match("b64|b128", n)}
    assert chosen("toonify", names) == set(names) - {"mapping"} - chosen("fine-toon", names)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("b7", "'b7' in the swap is no part of these networks: use b4, b8, b16, b32,"),
        ("b64", "'b64' in the swap is no part"),
        ("b64-", "'b64' in the swap is no part"),
        ("b8-b64", "'b64' in the swap is no part"),
        ("b8-b12-b16", "is no part"),
        ("-", "'-' in the swap is no part"),
        ("b8.conv2", "'b8.conv2' in the swap is no part"),
        ("b4.conv0", "'b4.conv0' in the swap is no part"),
        ("b8.conv0-b16", "is no part"),
        ("synthesis.b8", "is no part"),
        ("B8", "is no part"),
        ("b32-b8", "runs backwards: write b8-b32"),
        ("b8=1.5", "needs a number from 0 (base) to 1 (toon)"),
        ("b8=-1", "needs a number"),
        ("b8=nan", "needs a number"),
        ("b8=", "needs a number"),
        ("b8=0.5=0.5", "needs a number"),
        ("=0.5", "'' in the swap is no part"),
    ],
)
def test_invalid_swaps(text, reason):
    with pytest.raises(ToonError, match=re.escape(reason)):
        parse_swap(text, NAMES)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="b0123456789-,=. abcdefghijklmnopqrstuvwxyz", max_size=24))
def test_any_text_is_a_swap_or_a_sentence(text):
    try:
        shares = parse_swap(text, NAMES)
    except ToonError as error:
        assert "\n" not in str(error)
    else:
        assert list(shares) == NAMES and all(0 <= share <= 1 for share in shares.values())


# The swap itself


@pytest.mark.parametrize("changes", [{}, {"architecture": "resnet"}, {"architecture": "orig"}, {"c_dim": 2}])
def test_nothing_is_the_base_and_all_is_the_toon_bit_for_bit(changes):
    base, toon = tiny_generator(0, **changes), tiny_generator(1, **changes)
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    for text, source in [("", base), ("all", toon), ("all=0", base), ("b8=1,b8=0", base), ("b4-,mapping", toon)]:
        result = swap_layers(base, toon, text)
        expected = source.state_dict()
        assert result.state_dict().keys() == expected.keys()
        for key, tensor in result.state_dict().items():
            assert torch.equal(tensor, expected[key]), (text, key)
        z = torch.randn(2, 32)
        assert torch.equal(result(z, psi=0.5), source(z, psi=0.5))
    assert all(torch.equal(tensor, before[key]) for key, tensor in base.state_dict().items()), "base was changed"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(NAMES), unique=True))
def test_every_tensor_comes_whole_from_where_the_swap_says(layers):
    """Noise, its strength and the affine go with the layer; no tensor is left behind, none is mixed."""
    result = swap_layers(BASE, TOON, ",".join(layers)).state_dict()
    ours, theirs = BASE.state_dict(), TOON.state_dict()
    for key, tensor in result.items():
        from_toon = any(key.startswith(layer if layer == "mapping" else f"synthesis.{layer}") for layer in layers)
        assert torch.equal(tensor, (theirs if from_toon else ours)[key]), key


def test_a_swap_and_its_complement_exchange_the_networks():
    one, other = swap_layers(BASE, TOON, "b16-"), swap_layers(TOON, BASE, "-b8,mapping")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


def test_parts_interpolate():
    actual = shares_of(swap_layers(BASE, TOON, "b8.conv0=0.25,b32=0.5,b16"))
    for key, share in actual.items():
        wanted = 0.25 if ".b8.conv0." in key else 0.5 if ".b32." in key else 1 if ".b16." in key else 0
        assert share == pytest.approx(wanted, abs=1e-6), key


def test_the_result_stands_alone(device):
    base, toon = tiny_generator(0).to(device).train(), tiny_generator(1)
    result = swap_layers(base, toon, "b8")
    assert not result.training and base.training
    assert {tensor.device.type for tensor in result.state_dict().values()} == {device.type}
    with torch.no_grad():
        for tensor in result.state_dict().values():
            tensor.zero_()
    assert base.synthesis.b4.const.abs().sum() > 0 and toon.synthesis.b8.conv0.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "swap", "reason"),
    [
        ({"resolution": 64}, "", "faces and comic cannot be blended, they differ in resolution (32 and 64)"),
        ({"w_dim": 16, "z_dim": 16}, "b8", "they differ in z_dim (32 and 16), w_dim (32 and 16)"),
        ({"c_dim": 2}, "b8", "c_dim (0 and 2)"),
        ({"architecture": "resnet"}, "b8", "architecture (skip and resnet)"),
        ({"resample_filter": (1, 2, 1)}, "b8", "resample_filter"),
        ({"channel_max": 16}, "b4", "synthesis.b4.const is [32, 4, 4] and [16, 4, 4]"),
        ({"mapping_layers": 3}, "all", "mapping.fc2.bias is nothing and [32]"),
        ({"mapping_lr_multiplier": 0.1}, "mapping", "mapping_lr_multiplier (0.01 and 0.1)"),
    ],
)
def test_networks_that_do_not_fit(changes, swap, reason):
    with pytest.raises(ToonError, match=re.escape(reason)) as caught:
        swap_layers(BASE, tiny_generator(1, **changes), swap, names=("faces", "comic"))
    assert "\n" not in str(caught.value)


def test_a_differing_mapping_matters_only_if_swapped():
    toon = tiny_generator(1, mapping_layers=3)
    assert torch.equal(swap_layers(BASE, toon, "b8").synthesis.b8.conv0.weight, toon.synthesis.b8.conv0.weight)


# The smooth swap


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("width", [0.3, 1.0, 4.0])
def test_one_boundary_is_the_logistic_of_the_distance_in_octaves(width):
    soft = parse_swap("b16-", NAMES, width)
    for name, share in soft.items():
        if name == "mapping":
            assert share == 0
        else:
            x = math.log2(int(name.partition(".")[0][1:])) - 3.5  # the boundary lies halfway between 8 and 16
            assert share == pytest.approx(logistic(x / width), abs=1e-12)
    falling = parse_swap("-b8", NAMES, width)
    assert all(falling[name] == pytest.approx(1 - soft[name]) for name in NAMES if name != "mapping")


def test_two_boundaries_add_up():
    soft = parse_swap("b8-b16", NAMES, 0.5)
    for block, level in (("b4", 2), ("b8", 3), ("b16", 4), ("b32", 5)):
        assert soft[f"{block}.torgb"] == pytest.approx(logistic((level - 2.5) / 0.5) - logistic((level - 4.5) / 0.5))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(1e-3, 1e3), st.sampled_from([0.0, 1.0]))
def test_smoothing_keeps_bounds_constants_and_the_mapping(levels, width, mapping):
    hard = {name: levels[[4, 8, 16, 32].index(int(name.partition(".")[0][1:]))] for name in NAMES if name != "mapping"}
    soft = smooth({"mapping": mapping, **hard}, width)
    assert soft.pop("mapping") == mapping
    assert min(levels) - 1e-9 <= min(soft.values()) and max(soft.values()) <= max(levels) + 1e-9
    assert smooth(dict.fromkeys(NAMES, levels[0]), width) == dict.fromkeys(NAMES, levels[0])
    assert smooth(hard, 1e-4) == pytest.approx(hard)


@pytest.mark.parametrize("width", [0, -1, math.nan, math.inf])
def test_invalid_widths(width):
    with pytest.raises(ToonError, match="above 0"):
        parse_swap("b8", NAMES, width)


def test_parts_of_a_block_cannot_be_smoothed():
    with pytest.raises(ToonError, match="not parts of b8"):
        parse_swap("b8.conv0", NAMES, 1.0)


# Two published conventions, implemented here from their description

PARAMETERS = [name for name, _ in BASE.named_parameters()]


def jp_weight(key: str, resolution: int, level: int, width: float | None) -> float:
    """Share of the second network in justinpinkney/stylegan2's blend_models.py.

    Positions count half resolutions: level 0 is const and conv0, level 1 is conv1 and torgb, and x is the distance
    from the chosen one. Hard: the second network where x > 1. Smooth: 1 / (1 + e^(-x / width)). Neither the mapping
    nor the 4x4 convolution takes part: they stay the first network's.
    """
    match = re.match(r"synthesis\.b(\d+)\.(const|conv0|conv1|torgb)", key)
    if match is None or key.startswith("synthesis.b4.conv1"):
        return 0.0

    def position(res: int, level: int) -> int:
        return 2 * int(math.log2(res)) + level

    x = position(int(match[1]), int(match[2] in ("conv1", "torgb"))) - position(resolution, level)
    if width is None:
        return float(x > 1)
    return 1 / (1 + math.exp(-x / width))


@pytest.mark.parametrize("resolution", [4, 8, 16])
def test_agrees_with_the_hard_blend_of_jp(resolution):
    """(R, level 0) keeps all of R from the first network: our range from the block above R, from the toon."""
    actual = shares_of(swap_layers(BASE, TOON, f"b{2 * resolution}-"))
    assert all(actual[key] == pytest.approx(jp_weight(key, resolution, 0, None), abs=1e-6) for key in PARAMETERS)


def test_agrees_with_toonify_of_jp():
    """Toonify: first network (low, and mapping) the toon, second (high) the person's."""
    actual = shares_of(swap_layers(BASE, TOON, "-b8,mapping"))
    assert all(actual[key] == pytest.approx(1 - jp_weight(key, 8, 0, None), abs=1e-6) for key in PARAMETERS)


def test_the_smooth_blend_of_jp_as_fractional_shares():
    """Its centre and half steps differ from ours, but a share for each layer expresses it in our grammar."""
    shares = {name: jp_weight(f"synthesis.{name}", 16, 0, 1.5) for name in NAMES}
    actual = shares_of(swap_layers(BASE, TOON, ",".join(f"{name}={share!r}" for name, share in shares.items())))
    assert all(actual[key] == pytest.approx(jp_weight(key, 16, 0, 1.5), abs=1e-5) for key in PARAMETERS)


@pytest.mark.parametrize("split", [4, 8, 16])
def test_agrees_with_the_split_of_dvs(split):
    """dvschultz: of the synthesis, the parameters up to and with split_res are the low network's; no noise_const."""
    actual = shares_of(swap_layers(BASE, TOON, f"-b{split}"))
    for key in PARAMETERS:
        match = re.match(r"synthesis\.b(\d+)\.", key)
        assert actual[key] == pytest.approx(float(match is not None and int(match[1]) <= split), abs=1e-6), key
    assert actual[f"synthesis.b{split}.conv1.noise_const"] == pytest.approx(1), "ours moves the noise with its layer"


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_strength_is_a_factor_of_every_share(strength):
    result = swap_layers(BASE, TOON, "b16-,b8.conv0=0.5", strength=strength)
    whole = parse_swap("b16-,b8.conv0=0.5", NAMES)
    for key, share in shares_of(result).items():
        layer = "mapping" if key.startswith("mapping") else ".".join(key.split(".")[1:3])
        assert share == pytest.approx(strength * whole[layer], abs=1e-4), key
    if strength in (0, 1):  # bit for bit
        truth = BASE if strength == 0 else swap_layers(BASE, TOON, "b16-,b8.conv0=0.5")
        for key, tensor in truth.state_dict().items():
            assert torch.equal(result.state_dict()[key], tensor)


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan, math.inf])
def test_impossible_strengths_are_refused(strength):
    with pytest.raises(ToonError, match="from 0"):
        swap_layers(BASE, TOON, "b16-", strength=strength)

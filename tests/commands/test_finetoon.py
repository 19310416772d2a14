"""Fine-tooning: the loss against numbers and torch's own, what training does to likeness, and the command's files."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shell
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import TinyFaces, tiny_generator, tiny_mobile

from stylegan_toon import blend, finetoon, load_network
from stylegan_toon.errors import ToonError
from stylegan_toon.features.identity import face_embedder
from stylegan_toon.finetoon import main
from stylegan_toon.models.swap import layer_names, swap_layers
from stylegan_toon.pipelines.finetoon import FinetoonConfig, learning, toonier, triplet
from stylegan_toon.pipelines.finetoon_report import HeldOut, held_out_seeds
from stylegan_toon.pipelines.generate import generate
from stylegan_toon.training.toon_losses import triplet_loss
from stylegan_toon.weights import add_delta, lineage, save_networks, sha256_of

module = importlib.import_module("stylegan_toon.pipelines.finetoon")
SEEDS = list(range(8))
# The triplet loss alone, on all of G, at one rate: as fine-tooning was published.
PUBLISHED = {
    "schedule": "constant",
    "blocks": "all",
    "likeness": 0.0,
    "structure": 0.0,
    "colour": 0.0,
    "keep": 0.0,
    "texture": 0.0,
    "jitter": 0.0,
}


@pytest.fixture
def faces() -> TinyFaces:
    return TinyFaces()


@pytest.fixture
def child(tmp_path, checkpoint) -> Path:
    """A toon network whose provenance has ``checkpoint`` as its parent."""
    path = tmp_path / "child.safetensors"
    save_networks(path, {"G_ema": tiny_generator(1)}, provenance={"ancestors": [sha256_of(checkpoint)]})
    return path


@pytest.fixture
def options(checkpoint, child, tmp_path) -> list[object]:
    """A short run of the command into ``out``; the shipped recogniser compares the faces."""
    return ["--base", checkpoint, "--toon", child, "--swap", "b16-", "--seeds", "0-2", "--epochs", 2, "--batch", 2,
            "--lr", 1e-3, "--held-out", 4, "--device", "cpu", "--out", tmp_path / "out"]  # fmt: skip


run, refused = partial(shell.run, main), partial(shell.refused, main)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# The loss


@pytest.mark.parametrize(
    ("anchor", "cosines", "legacy", "corrected"),
    [("the person", (1.0, 0.3), 1.7, 0.3), ("the cartoon", (0.3, 1.0), 0.3, 1.7)],
)
def test_the_legacy_sign_rewards_the_cartoon(anchor, cosines, legacy, corrected):
    """Person and cartoon have cosine 0.3, margin 1: the old loss is lowest where the anchor is the cartoon."""
    cosines = [torch.tensor(c) for c in cosines]
    assert float(triplet_loss(*cosines, legacy_sign=True)) == pytest.approx(legacy)
    assert float(triplet_loss(*cosines)) == pytest.approx(corrected)


@pytest.mark.parametrize("margin", [0.1, 0.3, 1.0])
def test_the_loss_is_that_of_torch(margin):
    a, p, n = torch.randn(3, 64, 5, generator=torch.Generator().manual_seed(0))
    to_person, to_toon = F.cosine_similarity(a, p), F.cosine_similarity(a, n)
    for legacy, distance in ((False, lambda x, y: 1 - F.cosine_similarity(x, y)), (True, torch.nn.CosineSimilarity())):
        torchs = torch.nn.TripletMarginWithDistanceLoss(distance_function=distance, margin=margin, reduction="none")
        found = triplet_loss(to_person, to_toon, margin, legacy)
        torch.testing.assert_close(found, torchs(a, p, n))
        assert found.min() == 0 or margin == 1  # the hinge is reached


# Networks


@pytest.mark.parametrize(
    ("swap", "negative"), [("b16-", "b8"), ("b32", "b16"), ("b32.conv1", "b16"), ("b16=0.5,mapping", "b8")]
)
def test_the_negative_has_the_next_block_too(swap, negative):
    names = layer_names(tiny_generator(0))
    assert toonier(swap, names) == f"{swap},{negative}"


@pytest.mark.parametrize("swap", ["", "mapping", "-b8", "all", "b16=0"])
def test_no_block_below(swap):
    with pytest.raises(ToonError, match="--negative-swap"):
        toonier(swap, layer_names(tiny_generator(0)))


def likeness(G, other, faces) -> float:
    """Mean cosine of the pictures of two networks, straight from the pictures."""
    return float(faces.similarity(generate(G, SEEDS), generate(other, SEEDS)).mean())


def test_the_face_comes_closer_and_with_the_legacy_sign_goes_away(tiny_G, tiny_toon, faces):
    start, negative = blend(tiny_G, tiny_toon, "b16-"), swap_layers(tiny_G, tiny_toon, "b8-")
    tuned, legacy = (
        finetoon(
            tiny_G, tiny_toon, "b16-", seeds=SEEDS, embedder=faces,
            config=FinetoonConfig(epochs=10, lr=1e-3, legacy_sign=legacy_sign, **PUBLISHED),
        )
        for legacy_sign in (False, True)
    )  # fmt: skip
    person, toon = ([likeness(G, other, faces) for G in (legacy, start, tuned)] for other in (tiny_G, negative))
    assert person[0] + 0.05 < person[1] < person[2] - 0.05, person
    assert toon[0] - toon[1] > 0.02 and toon[2] - toon[1] < toon[0] - toon[1], toon
    assert tuned.provenance["loss"][-1] < tuned.provenance["loss"][0]
    assert same(tiny_G, tiny_generator(0)) and same(tiny_toon, tiny_generator(1))


def test_one_step_is_adam_on_the_written_out_loss(tiny_G, tiny_toon, faces):
    """Every parameter, the mapping network's too, moves as in a second implementation with torch's loss."""
    config = FinetoonConfig(epochs=1, batch=8, psi=0.5, lr=1e-3, **PUBLISHED)
    tuned = finetoon(tiny_G, tiny_toon, "b16-", seeds=SEEDS, config=config, embedder=faces)
    mine = swap_layers(tiny_G, tiny_toon, "b16-")
    z = torch.cat([torch.from_numpy(np.random.RandomState(seed).randn(1, 32)).float() for seed in SEEDS])
    p, n = (faces(G(z, psi=0.5)).detach() for G in (tiny_G, swap_layers(tiny_G, tiny_toon, "b8-")))
    distance = torch.nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: 1 - F.cosine_similarity(x, y))
    loss = distance(faces(mine(z, psi=0.5)), p, n)
    loss.backward()
    assert tuned.provenance["loss"] == [pytest.approx(loss.item(), rel=1e-5)]
    for (name, ours), theirs in zip(tuned.named_parameters(), mine.parameters(), strict=True):
        # The first step of Adam is lr * g / (|g| + eps), all but the sign of the gradient.
        step = -1e-3 * theirs.grad / (theirs.grad.abs() + 1e-8)
        clear = theirs.grad.abs() > 1e-6  # where rounding cannot turn the sign
        torch.testing.assert_close((ours - theirs)[clear], step[clear], rtol=0.05, atol=1e-6, msg=name)
    assert not torch.equal(tuned.mapping.fc0.weight, mine.mapping.fc0.weight)


def test_no_epochs_are_the_blend_bit_for_bit(tiny_G, tiny_toon, faces):
    tuned = finetoon(tiny_G, tiny_toon, "b16-", seeds=SEEDS, config=FinetoonConfig(epochs=0), embedder=faces)
    assert same(tuned, blend(tiny_G, tiny_toon, "b16-")) and tuned.provenance["steps"] == 0


@pytest.mark.parametrize("seeds", [[*range(60)], None])
def test_the_same_seed_gives_the_same_network(tiny_G, tiny_toon, faces, seeds):
    first, again, other = (
        finetoon(
            tiny_G,
            tiny_toon,
            "b16-",
            seeds=seeds,
            config=FinetoonConfig(epochs=1, batch=50, seed=seed, keep=0, texture=0),
            embedder=faces,
        )
        for seed in (0, 0, 1)
    )
    assert same(first, again) and not same(first, other)


def test_every_picture_once_an_epoch(tiny_G, tiny_toon, faces):
    seen = []
    config = FinetoonConfig(epochs=2, batch=2, keep=0, texture=0)
    finetoon(tiny_G, tiny_toon, "b16-", seeds=[*range(5), 0], config=config, embedder=faces, callback=seen.append)
    assert [(p.epoch, p.step, p.steps) for p in seen] == [(e, s, 3) for e in (1, 2) for s in (1, 2, 3)]


def test_a_learning_rate_that_diverges(tiny_G, tiny_toon, faces):
    with pytest.raises(ToonError, match="--lr"):
        finetoon(tiny_G, tiny_toon, "b16-", seeds=SEEDS, config=FinetoonConfig(epochs=3, lr=1e30), embedder=faces)


def test_no_seeds_and_classes(tiny_G, tiny_toon, faces):
    with pytest.raises(ToonError, match="seed"):
        finetoon(tiny_G, tiny_toon, "b16-", seeds=[], embedder=faces)
    with pytest.raises(ToonError, match="classes"):
        finetoon(tiny_generator(0, c_dim=2), tiny_generator(1, c_dim=2), "b16-", seeds=SEEDS, embedder=faces)


# The terms together


def test_only_coarse_blocks_learn():
    """Of a mobile network: up to 64 px, no torgb, no strength of the noise, not the mapping network."""
    G = tiny_mobile(0, resolution=128, channels=(16, 16, 8, 8, 8))
    chosen = {id(parameter) for parameter in learning(G, "coarse")}
    names = {name for name, parameter in G.named_parameters() if id(parameter) in chosen}
    assert "synthesis.b4.const.value" in names and any(name.startswith("synthesis.b64.conv1.") for name in names)
    assert not any("torgb" in name or "noise_strength" in name or "mapping" in name for name in names)
    assert not any(name.startswith("synthesis.b128.") for name in names)
    assert all(parameter.requires_grad == (id(parameter) in chosen) for parameter in G.parameters())
    assert len(learning(G, "all")) == len(list(G.parameters()))


def test_what_does_not_learn_stays_bit_for_bit(faces):
    base, toon = (tiny_mobile(seed, resolution=128, channels=(16, 16, 8, 8, 8)) for seed in (0, 1))
    tuned = finetoon(base, toon, "b64-", seeds=[0, 1], config=FinetoonConfig(epochs=1, resolution=64), embedder=faces)
    start = blend(base, toon, "b64-").state_dict()
    changed = {
        name.split(".")[1] for name, tensor in tuned.state_dict().items() if not torch.equal(tensor, start[name])
    }
    assert changed == {"b4", "b8", "b16", "b32", "b64"}


@pytest.mark.parametrize("weights", [{"likeness": 50.0}, {"colour": 50.0}])
def test_each_term_alone_brings_the_person_closer(tiny_G, tiny_toon, faces, weights):
    """One term at a time, against its own measure on the pictures."""
    config = {**PUBLISHED, "triplet": 0.0, **weights}
    tuned = finetoon(
        tiny_G, tiny_toon, "b16-", seeds=SEEDS, embedder=faces, config=FinetoonConfig(epochs=10, lr=1e-3, **config)
    )
    start = blend(tiny_G, tiny_toon, "b16-")

    def colours(G) -> torch.Tensor:
        img = generate(G, SEEDS)
        return torch.stack([img[:, 0] - img[:, 1], img[:, 2] - img[:, 1]])

    if "colour" in weights:
        gap = [float((colours(G) - colours(tiny_G)).abs().mean()) for G in (start, tuned)]
        assert gap[1] < 0.9 * gap[0]
    else:
        assert likeness(tuned, tiny_G, faces) > likeness(start, tiny_G, faces) + 0.05


def test_structure_alone_brings_the_inner_features_closer(tiny_G, tiny_toon):
    """With dlib's network, whose features have places; against its own measure on the pictures."""
    dlib = face_embedder("dlib")
    config = FinetoonConfig(epochs=4, lr=1e-3, **{**PUBLISHED, "triplet": 0.0, "structure": 50.0})
    tuned = finetoon(tiny_G, tiny_toon, "b16-", seeds=SEEDS, embedder=dlib, config=config)

    def gap(G) -> float:
        with torch.no_grad():
            ours, theirs = (F.normalize(dlib.with_maps(generate(network, SEEDS))[1], dim=1) for network in (G, tiny_G))
        return float(1 - (ours * theirs).sum(1).mean())

    assert gap(tuned) < 0.95 * gap(blend(tiny_G, tiny_toon, "b16-"))


def test_keep_and_style_hold_it_where_it_was(tiny_G, tiny_toon, faces):
    start = generate(blend(tiny_G, tiny_toon, "b16-"), SEEDS)
    moved = []
    for weight in (0.0, 1000.0):
        config = {**PUBLISHED, "triplet": 0.0, "likeness": 1.0, "keep": weight, "texture": weight}
        tuned = finetoon(
            tiny_G, tiny_toon, "b16-", seeds=SEEDS, embedder=faces, config=FinetoonConfig(epochs=6, lr=1e-3, **config)
        )
        moved.append(float((generate(tuned, SEEDS) - start).abs().mean()))
    assert moved[1] < 0.7 * moved[0]


def test_fresh_latents_are_100_an_epoch(tiny_G, tiny_toon, faces):
    seen = []
    config = FinetoonConfig(epochs=2, batch=30, keep=0, texture=0)
    tuned = finetoon(tiny_G, tiny_toon, "b16-", config=config, embedder=faces, callback=seen.append)
    assert [(p.epoch, p.step, p.steps) for p in seen] == [(e, s, 4) for e in (1, 2) for s in (1, 2, 3, 4)]
    assert config.rounds == 4 and tuned.provenance["options"]["seeds"] is None
    assert seen[0].terms.keys() == {"triplet", "likeness", "colour"}


def test_the_rate_rises_and_falls():
    rates = [module._rate("cosine", step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == max(rates[8:14]) > 0.95
    assert rates[-1] == pytest.approx(0.1, abs=0.001) and rates[50] == pytest.approx(0.55)
    assert module._rate("constant", 3, 100) == 1


def test_nothing_that_pulls(tiny_G, tiny_toon, faces):
    with pytest.raises(ToonError, match="Nothing pulls towards the person"):
        config = FinetoonConfig(**{**PUBLISHED, "triplet": 0.0})
        finetoon(tiny_G, tiny_toon, "b16-", seeds=SEEDS, config=config, embedder=faces)


# Held-out faces


def test_held_out_seeds_are_not_learned_from():
    assert held_out_seeds([3, 1_000_001], 3) == [1_000_000, 1_000_002, 1_000_003]


def test_likeness_is_the_mean_cosine_of_held_out_pictures(tiny_G, tiny_toon, faces):
    report = HeldOut(triplet(tiny_G, tiny_toon, "b16-"), faces, "another", count=7)
    seeds = range(1_000_000, 1_000_007)
    pairs = [generate(G, seeds) for G in (tiny_G, blend(tiny_G, tiny_toon, "b16-"))]
    assert report.before == pytest.approx(float(faces.similarity(*pairs).mean()), abs=1e-5)
    assert report.likeness(tiny_G) == pytest.approx(1, abs=1e-5)


def test_the_judge_is_not_the_teacher(tiny_G, tiny_toon, faces):
    with pytest.raises(ToonError, match="tiny trains the network and cannot judge it"):
        HeldOut(triplet(tiny_G, tiny_toon, "b16-"), faces, "tiny")


# The command


def test_the_command_writes_network_pictures_and_numbers(tmp_path, checkpoint, child, options):
    result = run(*options)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert result.stdout.splitlines()[-1] == str(out) and "loss=" in result.stderr
    pages = ["finetoon-epoch01.png", "finetoon-epoch02.png"]
    written = ["finetoon.json", "finetoon.png", "finetoon.safetensors"]
    assert sorted(os.listdir(out)) == ["finetoon-delta.safetensors", *pages, *written]

    network = load_network(out / "finetoon.safetensors")
    base, toon = load_network(checkpoint), load_network(child)
    expected = finetoon(base, toon, "b16-", seeds=range(3), config=FinetoonConfig(epochs=2, batch=2, lr=1e-3))
    assert same(network, expected)
    known = network.provenance
    again = blend(base, toon, "b16-")
    add_delta(again, out / "finetoon-delta.safetensors")
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, network.state_dict()[name], rtol=1e-3, atol=1e-3)
    assert known["verb"] == "finetoon" and known["identity"] == "dlib"
    assert (known["epochs"], known["steps"], known["interrupted"], len(known["loss"])) == (2, 4, False, 2)
    assert known["options"].items() >= {
        "swap": "b16-", "negative_swap": "b16-,b8", "seeds": [0, 1, 2], "epochs": 2, "batch": 2, "psi": 0.7,
        "lr": 1e-3, "margin": 1.0, "legacy_sign": False, "seed": 0, "dtype": "float32",
    }.items()  # fmt: skip
    assert [parent["name"] for parent in known["parents"]] == ["tiny.safetensors", "child.safetensors"]
    assert lineage(network) >= {sha256_of(checkpoint), sha256_of(child)}

    report = HeldOut(triplet(base, toon, "b16-"), face_embedder("faceres"), "dlib", seeds=range(3), count=4)
    numbers = json.loads((out / "finetoon.json").read_text())
    assert numbers["before"] == pytest.approx(report.before, abs=1e-4)
    assert numbers["after"] == pytest.approx(report.likeness(network), abs=1e-4)
    assert (numbers["judge"], numbers["identity"], len(numbers["history"])) == ("faceres", "dlib", 4)
    said = f"over 4 faces it did not learn from: {numbers['before']:.3f} before, {numbers['after']:.3f} after"
    assert said in result.stderr and "warning" not in result.stderr
    first, second, last = (np.asarray(Image.open(out / name)) for name in (*pages, "finetoon.png"))
    assert np.array_equal(last, np.asarray(report.sheet(network)))
    assert np.array_equal(last, second) and not np.array_equal(first, second)


def test_another_negative_and_the_legacy_sign_reach_the_training(options, tmp_path, checkpoint, child):
    assert run(*options, "--negative-swap", "all", "--legacy-sign", "--margin", 0.5, "--quiet").exit_code == 0
    expected = finetoon(
        checkpoint, child, "b16-", negative_swap="all", seeds=range(3),
        config=FinetoonConfig(legacy_sign=True, margin=0.5, epochs=2, batch=2, lr=1e-3),
    )  # fmt: skip
    assert same(load_network(tmp_path / "out" / "finetoon.safetensors"), expected)


def test_ctrl_c_saves_the_network(tmp_path, checkpoint, child, options, monkeypatch):
    """SIGINT in the fourth step, the second of the second epoch."""
    calls = []

    def loss(*args):
        calls.append(args)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return triplet_loss(*args)

    monkeypatch.setattr(module, "triplet_loss", loss)
    result = run(*options)
    assert result.exit_code == 130 and "Stopped early; the network so far is in" in result.stderr
    out = tmp_path / "out"
    written = ["finetoon.json", "finetoon.png", "finetoon.safetensors"]
    assert sorted(os.listdir(out)) == ["finetoon-delta.safetensors", "finetoon-epoch01.png", *written]
    network = load_network(out / "finetoon.safetensors")
    known = network.provenance
    assert (known["epochs"], known["steps"], known["interrupted"]) == (1, 3, True)
    assert not same(network, blend(checkpoint, child, "b16-"))
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


# Mistakes


@pytest.mark.parametrize("swap", ["--swap", "--negative-swap"])
def test_no_such_block(tmp_path, options, swap):
    assert "'b7' in the swap is no part of these networks" in refused(*options, swap, "b7")
    assert not (tmp_path / "out").exists()


def test_no_toonier_blend(tmp_path, options):
    assert "--negative-swap" in refused(*options, "--swap", "-b16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("swap", "negative", "message"),
    [
        ("all", "all", "are the same blend"),
        ("b16-", "b16,b32", "are the same blend"),
        ("b16-", "b32", "takes less of the toon"),
        ("b16-", "b16-=0.5", "takes less of the toon"),
        ("b16=0", "b16-", "takes nothing from the toon"),
    ],
)
def test_swaps_that_teach_nothing(tmp_path, options, swap, negative, message):
    assert message in refused(*options, "--swap", swap, "--negative-swap", negative)
    assert not (tmp_path / "out").exists()


def test_the_teacher_as_judge(tmp_path, options):
    assert "dlib trains the network and cannot judge it" in refused(*options, "--judge", "dlib")
    assert not (tmp_path / "out").exists()


def test_networks_of_different_sizes(tmp_path, options):
    big = tmp_path / "big.safetensors"
    save_networks(big, {"G_ema": tiny_generator(1, resolution=64)})
    line = refused(*options, "--toon", big)
    assert "tiny.safetensors and big.safetensors cannot be blended, they differ in resolution (32 and 64)" in line
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_unasked(tmp_path, options):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("finetoon.safetensors", "finetoon.png", "finetoon-epoch02.png"):
        (out / name).write_bytes(b"mine")
        assert "--overwrite" in refused(*options)
        assert os.listdir(out) == [name] and (out / name).read_bytes() == b"mine"
        (out / name).unlink()
    (out / "finetoon.safetensors").write_bytes(b"mine")
    assert run(*options, "--overwrite").exit_code == 0
    assert load_network(out / "finetoon.safetensors").provenance["steps"] == 4


def test_a_folder_that_cannot_be(tmp_path, options):
    (tmp_path / "file").touch()
    assert "is a file, not a folder" in refused(*options, "--out", tmp_path / "file")


def test_a_folder_that_cannot_be_written(options, monkeypatch):
    """Permissions do not bind root, so the operating system's answer is given here."""

    def denied(**where):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("stylegan_toon.files.tempfile.TemporaryFile", denied)
    monkeypatch.setattr(
        importlib.import_module("stylegan_toon.finetoon"),
        "tune",
        lambda *args, **options: pytest.fail("the long work came first"),
    )
    assert "cannot be written (no permission)" in refused(*options)


def test_no_face_embedding(options, toon_checkpoint):
    """A network file does not compare faces."""
    assert "toon.safetensors is not a face embedding" in refused(*options, "--identity", toon_checkpoint)


def test_unrelated_networks_are_warned_of_once(options, toon_checkpoint):
    result = run(*options, "--toon", toon_checkpoint, "--epochs", 0)
    assert result.exit_code == 0 and result.stderr.count("share no ancestor") == 1

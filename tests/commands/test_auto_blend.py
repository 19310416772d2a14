"""The search for amounts: the front and the choice by hand, a search with a known answer, the journal, the command."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shell
import torch
from tiny import TinyFaces, tiny_generator, tiny_mobile

from stylegan_toon import blend, load_network
from stylegan_toon.blend import main
from stylegan_toon.errors import ToonError
from stylegan_toon.pipelines.auto_blend import AutoConfig, Candidate, Trial, choose, front, plain_swaps, search
from stylegan_toon.weights import save_networks, sha256_of

run, refused = partial(shell.run, main), partial(shell.refused, main)


def made(identity: float, cartoon: float, **amounts: float) -> Candidate:
    return Candidate(amounts, identity, 1 - cartoon, cartoon)


class Known:
    """Stands for a trial whose best blends are known: half of ``a`` and half of ``b`` beat all of one."""

    def __init__(self) -> None:
        self.blocks = ["a", "b"]
        self.tried: list[dict[str, float]] = []

    def measure(self, amounts):
        self.tried.append(amounts)
        a, b = amounts["a"], amounts["b"]
        return made(1 - (a * a + b * b) / 2, (a + b) / 2, a=a, b=b)


def test_the_front_has_no_blend_that_another_beats_in_both():
    good = [made(0.9, 0.1), made(0.8, 0.5), made(0.5, 1.0)]
    bad = [made(0.79, 0.5), made(0.8, 0.4), made(0.1, 0.1)]
    assert front([bad[0], good[2], good[0], bad[1], good[1], bad[2]]) == good


def test_the_choice():
    candidates = [made(0.9, 0.1), made(0.8, 0.5), made(0.7, 0.5), made(0.5, 0.9)]
    assert choose(candidates, 0.4) is candidates[1]
    assert choose(candidates, 0.95) is candidates[3]  # none is near enough: the nearest


def test_plain_swaps():
    rows = [tuple(row.values()) for row in plain_swaps(["a", "b"])]
    assert sorted(rows) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    seven = [tuple(row.values()) for row in plain_swaps(list("abcdefg"))]
    assert len(set(seven)) == len(seven) == 19  # 14 from or up to a block, and those in the middle alone
    assert (0, 0, 1, 0, 0, 0, 0) in seven


def test_the_search_finds_what_is_known():
    """At cartoon 0.5 the best has 0.5 of each and identity 0.75; the plain swaps have 0.5."""
    found = search(Known(), AutoConfig(candidates=40), cartoon=0.5)
    assert choose(found[:4], 0.5).identity == 0.5
    assert choose(found, 0.5).identity == pytest.approx(0.75, abs=0.02)
    assert len({tuple(c.amounts.values()) for c in found}) == 40  # nothing is tried twice


def test_the_same_seed_makes_the_same_search():
    first, again, other = (search(Known(), AutoConfig(candidates=20, seed=seed)) for seed in (3, 3, 4))
    assert first == again != other


@pytest.fixture
def pair() -> tuple:
    return tiny_mobile(0), tiny_mobile(1)


def test_a_trial_measures_pictures(pair):
    """The ends of the scale are the base and the toon, and the swap that is named makes the network that was tried."""
    trial = Trial(*pair, TinyFaces(), AutoConfig(count=4, resolution=64))
    assert trial.blocks == ["b4", "b8", "b16", "b32", "b64"]
    nothing, everything = (trial.measure(dict.fromkeys(trial.blocks, share)) for share in (0.0, 1.0))
    assert nothing.identity == pytest.approx(1, abs=1e-5) and nothing.cartoon == pytest.approx(0, abs=1e-9)
    assert everything.cartoon == pytest.approx(1) and everything.identity < 1
    amounts = dict(zip(trial.blocks, (0.0, 0.25, 0.0, 1.0, 0.5)))
    assert trial.swap(amounts) == "b8=0.25,b32,b64=0.5" and trial.amounts_of("b8=0.25,b32,b64=0.5") == amounts
    ours, theirs = trial.blend(amounts).state_dict(), blend(*pair, trial.swap(amounts)).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_finer_blocks_follow(pair):
    trial = Trial(*pair, TinyFaces(), AutoConfig(count=8, resolution=32))
    assert trial.blocks == ["b4", "b8", "b16", "b32"] and trial.side == 32
    assert trial.swap(dict(zip(trial.blocks, (0, 0, 0, 0.5)))) == "b32=0.5,b64=0.5"


def test_two_networks_that_are_one():
    with pytest.raises(ToonError, match="lie as near"):
        Trial(tiny_generator(0), tiny_generator(0), TinyFaces(), AutoConfig(count=2))


# The journal


def test_a_search_goes_on_from_its_journal(pair, tmp_path):
    config, journal = AutoConfig(count=8, candidates=14, resolution=32), tmp_path / "auto.jsonl"
    trial = Trial(*pair, TinyFaces(), config)
    whole = search(trial, config)
    search(trial, AutoConfig(count=8, candidates=9, resolution=32), journal=journal)
    with open(journal, "a") as file:
        file.write('{"amounts": {"b4"')  # cut off
    trial.measure, measure, calls = lambda amounts: calls.append(amounts) or measure(amounts), trial.measure, []
    assert search(trial, config, journal=journal) == whole and len(calls) == 5
    assert len(journal.read_text().splitlines()) == 15
    with pytest.raises(ToonError, match="of another search"):
        search(trial, AutoConfig(count=8, seed=1), journal=journal)


@pytest.mark.parametrize("line", ["[]", '{"amounts": {}}', '{"amounts": {"b4": "x"}, "identity": 1}', "nonsense\n{}"])
def test_a_journal_with_other_lines(pair, tmp_path, line):
    config, journal = AutoConfig(count=8, candidates=1, resolution=32), tmp_path / "auto.jsonl"
    trial = Trial(*pair, TinyFaces(), config)
    search(trial, config, journal=journal)
    head = journal.read_text().splitlines()[0]
    journal.write_text(f"{head}\n{line}\n{{}}\n")
    with pytest.raises(ToonError, match="of another search"):
        search(trial, config, journal=journal)


def test_ctrl_c_keeps_what_was_tried():
    def stop(candidate, number):
        if number == 2:
            raise KeyboardInterrupt

    assert len(search(Known(), AutoConfig(candidates=9), callback=stop)) == 3


# The command


@pytest.fixture
def options(tmp_path, checkpoint) -> list[object]:
    child = tmp_path / "child.safetensors"
    toon = tiny_generator(1)
    with torch.no_grad():
        toon.synthesis.b32.torgb.bias += torch.tensor([0.8, 0.0, -0.8])  # a colour that the base does not have
    save_networks(child, {"G_ema": toon}, provenance={"ancestors": [sha256_of(checkpoint)]})
    return ["--base", checkpoint, "--toon", child, "--auto", "--candidates", 8, "--count", 4, "--seeds", "0",
            "--swap", "b16-", "--device", "cpu", "--out", tmp_path / "out"]  # fmt: skip


def test_the_command_saves_the_blend_that_it_names(tmp_path, options):
    result = run(*options)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["auto.jsonl", "auto.png", "blend.png", "blend.safetensors"]
    told, command, last = result.stdout.splitlines()
    assert last == str(out) and command.startswith("python -m stylegan_toon.blend --base ") and "8 blends" in told
    swap = command.rpartition("--swap ")[2]
    network, expected = load_network(out / "blend.safetensors"), blend(options[1], options[3], swap)
    assert all(np.array_equal(a, b) for a, b in zip(network.state_dict().values(), expected.state_dict().values()))
    lines = [json.loads(line) for line in Path(out / "auto.jsonl").read_text().splitlines()]
    assert len(lines) == 9 and lines[1]["amounts"] == {"b4": 0, "b8": 0, "b16": 1, "b32": 1}
    plain, best = (
        lines[1],
        max((c for c in lines[1:] if c["cartoon"] >= lines[1]["cartoon"]), key=lambda c: c["identity"]),
    )
    assert f"{best['identity']:.3f} at cartoon" in told and f"{plain['identity']:.3f} at" in told


def test_no_such_recogniser(tmp_path, options):
    assert "nope is not a face embedding" in refused(*options, "--judge", "nope")
    assert not (tmp_path / "out").exists()

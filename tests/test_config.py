"""Options from dataclass fields: checked once, and the same on the command line, in TOML and in a header."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from stylegan_toon.cli.from_config import options_of, with_config
from stylegan_toon.config import Config, ConfigError, from_values, option, read_toml
from stylegan_toon.errors import ToonError


@dataclass(frozen=True)
class Example(Config):
    steps: int = option(400, "Steps.", low=1, high=1000)
    lr: float = option(0.1, "Learning rate.", above=0)
    space: str = option("w+", "Space.", choices=("w", "w+"))
    seed: int | None = option(None, "Seed.", low=0)
    front: bool = option(False, "Front.")
    noise: bool = option(True, "Noise.")
    file: Path | None = option(None, "File.", flags=("--from-file",))
    secret: int = option(3, hidden=True)


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0}, {"steps": 1001}, {"steps": 1.5}, {"steps": True}, {"lr": 0}, {"lr": math.nan}, {"lr": math.inf},
        {"lr": "1"}, {"space": "z"}, {"seed": -1}, {"front": 1}, {"file": "x"},
    ],
)  # fmt: skip
def test_invalid_values_are_refused_in_a_sentence(values):
    name = next(iter(values)).replace("file", "from-file")
    with pytest.raises(ConfigError, match=f"^--{name} is .*\\.$"):
        Example(**values)


def command(decorator, seen: list) -> click.Command:
    @click.command()
    @decorator
    def main(**given):
        seen.append(given)

    return main


def test_the_command_line_makes_the_config():
    seen: list = []
    arguments = ["--steps", "7", "--lr", "2", "--no-noise", "--front", "--from-file", "a.txt", "--seed", "4"]
    result = CliRunner().invoke(command(with_config(Example), seen), arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert seen == [{"config": Example(7, 2.0, "w+", 4, True, False, Path("a.txt"))}]


@given(st.sampled_from(["steps", "lr", "seed"]), st.sampled_from(["nan", "inf", "-inf", "-1", "1e400", "", "x", "--"]))
def test_no_option_takes_what_its_field_refuses(name, value):
    seen: list = []
    result = CliRunner().invoke(command(with_config(Example), seen), [f"--{name}={value}"])
    assert result.exit_code == 2 and not seen and "Traceback" not in result.output


def test_defaults_are_shown_unless_they_come_from_elsewhere():
    text = CliRunner().invoke(command(options_of(Example, skip=("lr",)), []), ["--help"]).output
    assert "--lr" not in text and "--secret" not in text and "--from-file" in text
    seen: list = []
    CliRunner().invoke(command(options_of(Example, unset=True), seen), [])
    assert set(seen[0].values()) == {None} and len(seen[0]) == len(fields(Example)) - 1


def test_values_from_a_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('steps = 3\nlr = 1\nspace = "w"\n')
    assert read_toml(Example, path, {"lr": 0.5}) == Example(3, 0.5, "w")
    for text in ("steps = 0", "lr = nan", "wrong = 1", "steps = '3'", "steps =", "front = 1", "\udcff"):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ToonError):
            read_toml(Example, path)
    with pytest.raises(ToonError, match="cannot be read"):
        read_toml(Example, tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="no option wrong"):
        from_values(Example, {"wrong": 1})

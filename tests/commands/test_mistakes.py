"""Every option of every command, given an invalid value: exit code 2, one sentence, nothing written.

The options are taken from click itself, so a new option is tested as soon as it exists. The expensive functions behind
the commands are replaced: a value that a command accepts ends in `Started`, before any work.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from stylegan_toon import cli
from stylegan_toon.errors import ToonError

BAD = ["nan", "inf", "-inf", "-1", "1e400", "", "9" * 400]
# What a command needs besides the option that is tested. PHOTO and DATA are replaced by paths.
REQUIRED = {
    "toonify": ["PHOTO"],
    "project": ["PHOTO"],
    "dataset make": ["DATA"],
    "dataset draw": ["DATA"],
    "dataset check": ["DATA"],
    "convert": ["faces", "--out", "x.safetensors"],
    "evaluate metrics": ["--network", "faces", "--metrics", "detection"],
    "evaluate likeness": ["faces"],
    "train": ["--data", "DATA"],
}
# The first expensive function that each command calls: its module in the package and its name there.
WORK = {
    "toonify": [("pipelines.toonify", "load_network")],
    "blend": [("blend", "load_network")],
    "generate": [("generate", "load_network")],
    "project": [("weights", "load_network")],
    "edit": [("weights", "load_network")],
    "dataset": [("pipelines.dataset", "make_set"), ("dataset", "Avatars"), ("dataset", "ImageDataset")],
    "convert": [("pipelines.convert", "load_family")],
    "finetoon": [("finetoon", "face_embedder")],
    "evaluate": [("evaluate", "load_network"), ("evaluate", "face_embedder")],
    "train": [("pipelines.train", "ImageDataset")],
    "env": [],
}
# Options whose value is free text that only the work itself can judge: a name, a path, a list of layers.
TEXT = (click.types.StringParamType, click.Path, type(cli.TEXT))


class Started(Exception):
    """A command accepted its options and began to work."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by what is typed after ``stylegan-toon``."""
    for name in WORK:
        command = importlib.import_module(f"stylegan_toon.{name}").main
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", child) for sub, child in command.commands.items())
        else:
            yield name, command


def options() -> list[tuple[str, click.Option]]:
    """Every option of every command that takes a value."""
    return [
        (name, option)
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag
    ]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs a command up to its work in an empty folder; gives the result and checks that nothing was written."""
    photo, data = tmp_path / "given" / "me.png", tmp_path / "given" / "set"
    data.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(photo)
    shutil.copy(photo, data / "a.png")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("STYLEGAN_TOON_HOME", str(tmp_path / "home"))

    def started(*_: object, **__: object) -> None:
        raise Started

    def run(name: str, *args: str, required: list[str] | None = None) -> Result:
        for module, function in WORK[name.split()[0]]:
            monkeypatch.setattr(importlib.import_module(f"stylegan_toon.{module}"), function, started)
        places = {"PHOTO": str(photo), "DATA": str(data)}
        needed = [places.get(part, part) for part in (REQUIRED.get(name, []) if required is None else required)]
        environment = dict(os.environ)
        result = CliRunner().invoke(cli.main, [*name.split(), *needed, *args])
        assert os.listdir(here) == [], "a refused command has left files"
        assert dict(os.environ) == environment, "the environment was changed"
        return result

    return run


def refused(result: Result) -> str:
    assert result.exit_code == 2, (result.exception, result.output)
    *warnings, line = result.stderr.splitlines()
    assert all(text.startswith("warning: ") for text in warnings), result.stderr
    assert line.startswith("error: ") and line.endswith(".") and len(line) < 800, line
    return line


def is_number(option: click.Option) -> bool:
    return isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType, click.FloatRange))


def test_every_command_is_tested():
    walked = {name.split()[0] for name, _ in commands()}
    assert walked == set(WORK) == set(cli.COMMANDS)
    assert len(options()) > 100
    assert {option.name for _, option in options() if is_number(option)} >= {
        "psi",
        "width",
        "steps",
        "tune_steps",
        "lr",
    }


@pytest.mark.parametrize(("name", "option"), [pytest.param(n, o, id=f"{n} {o.opts[0]}") for n, o in options()])
def test_no_option_takes_nonsense(start, name, option):
    """A number is refused by the option itself; a text may be refused by the option or begin the (replaced) work."""
    for value in BAD:
        result = start(name, f"{option.opts[0]}={value}")
        if may_begin(option, value) and isinstance(result.exception, Started):
            continue
        refused(result)


def may_begin(option: click.Option, value: str) -> bool:
    """Whether the work may begin: with any text (an empty one if that is the default), or with -1 as truncation."""
    if is_number(option):
        return value == "-1" and option.name == "psi"
    return isinstance(option.type, TEXT) and (value != "" or option.default == "")


@pytest.mark.parametrize("name", [name for name, _ in commands() if name != "env"])
def test_good_values_reach_the_work(start, name):
    """With good values the commands do begin their work: the refusals above are not those of a broken call."""
    assert isinstance(start(name).exception, Started)


@pytest.mark.parametrize("name", [n for n, c in commands() if any(isinstance(p, click.Argument) for p in c.params)])
def test_no_argument_is_empty(start, name):
    refused(start(name, required=["", *REQUIRED[name][1:]]))


# Mistakes of single commands


def test_unknown_names_are_answered_with_known_ones():
    from stylegan_toon.features.identity import face_embedder
    from stylegan_toon.weights import load_network

    with pytest.raises(ToonError, match="no network named 'nonet': say faces or comic or"):
        load_network("nonet")
    with pytest.raises(ToonError, match="no network named 'commic': say comic, or"):
        load_network("commic")
    with pytest.raises(ToonError, match="dlib, faceres, facenet or"):
        face_embedder("nope")


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("generate", ["--network", "NETWORK", "--class", "3"], "leave out --class"),
        ("finetoon", ["--identity", "nope"], "nope is not a face embedding"),
        ("finetoon", ["--margin", "inf"], "--margin"),
        ("project", ["PHOTO", "--network", "nonet"], "no network named 'nonet'"),
        ("toonify", ["PHOTO", "--swap", ""], "--swap"),
        ("toonify", ["PHOTO", "--network", "x"], "No such option"),
        ("dataset", ["SET", "--out", "SET", "--overwrite"], "is a source of the set"),
        ("dataset", ["SET", "--out", "FOLDER", "--overwrite"], "is a source of the set, or contains one"),
        ("convert", ["NETWORK", "--out", "NETWORK", "--overwrite"], "is the network that is to be converted"),
    ],
)
def test_failed_starts_leave_nothing(tmp_path, checkpoint, monkeypatch, name, args, sentence):
    given = tmp_path / "given"
    given.mkdir()
    Image.new("RGB", (64, 64)).save(given / "me.png")
    shutil.make_archive(str(given / "set"), "zip", given, "me.png")
    places = {"PHOTO": given / "me.png", "NETWORK": checkpoint, "SET": given / "set.zip", "FOLDER": given}
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = CliRunner().invoke(cli.main, [name, *(str(places.get(part, part)) for part in args)])
    assert sentence in refused(result)
    assert os.listdir(here) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_base_and_toon_that_are_one_network_are_told(checkpoint):
    from stylegan_toon import blend
    from stylegan_toon.pipelines.toonify import Toonifier

    with pytest.warns(UserWarning, match="base and toon are one network"):
        blend(checkpoint, checkpoint, "b8")
    with pytest.warns(UserWarning, match="base and toon are one network"):
        Toonifier.load(checkpoint, checkpoint, "b8")


def test_a_mirror_is_passed_down_and_not_written_into_the_environment(tmp_path, monkeypatch):
    seen = []

    def download(url: str, **options: object) -> Path:
        seen.append(options["mirror"])
        raise ToonError("No download in a test.")

    monkeypatch.setattr("stylegan_toon.weights.zoo.download", download)
    monkeypatch.delenv("STYLEGAN_TOON_MIRROR", raising=False)
    options = ["ffhq-256", "--mirror", "https://example.invalid/x", "--out", str(tmp_path / "x.pt")]
    assert CliRunner().invoke(cli.main, ["convert", *options]).exit_code == 2
    assert seen == ["https://example.invalid/x"] and "STYLEGAN_TOON_MIRROR" not in os.environ


def test_metrics_whose_packages_are_missing_say_how_to_install_them(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("stylegan_toon.evaluate"), "find_spec", lambda name: None)
    result = CliRunner().invoke(cli.main, ["evaluate", "--network", "faces", "--out", str(tmp_path / "out")])
    assert "pip install 'stylegan_toon[evaluate]'" in refused(result) and not (tmp_path / "out").exists()

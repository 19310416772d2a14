"""What all commands share: help pages, option types, and errors of one sentence with exit code 2."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tiny import tiny_generator

from stylegan_toon import cli
from stylegan_toon.errors import ToonError
from stylegan_toon.weights import save_networks, sha256_of


def run(command: click.Command, *args: str):
    return CliRunner().invoke(command, list(args))


# Help


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_a_page_with_an_example(name):
    pages = [run(cli.main, name, "--help"), run(cli.main, name, "-h"), run(cli.main.get_command(None, name), "--help")]
    for page in pages:
        assert page.exit_code == 0
        assert f"Example:\n  python -m stylegan_toon.{name}" in page.output


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_is_a_module(name):
    module = importlib.import_module(f"stylegan_toon.{name}")
    assert module.main.name == name and module.main.callback.__module__ == f"stylegan_toon.{name}"


def test_the_overview_lists_the_commands_and_is_what_no_arguments_show():
    page = run(cli.main)
    assert page.exit_code == 0 and page.output == run(cli.main, "--help").output
    for name, summary in cli.COMMANDS.items():
        assert name in page.output and summary in page.output


def test_the_overview_imports_nothing_heavy():
    code = (
        "import sys; from stylegan_toon.cli import main; main(['--help'], standalone_mode=False); "
        "print(sorted({'torch', 'numpy', 'PIL', 'tqdm', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# Mistakes


def toy(error: BaseException | None = None, warning: str | None = None) -> click.Command:
    @cli.command("toy --seeds 1")
    @cli.seeds("0")
    def main(seeds):
        """Do nothing."""
        if warning:
            warnings.warn(warning, stacklevel=1)
        if error:
            raise error
        click.echo("done")

    return main


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ToonError("The moon is full: wait."), "The moon is full: wait."),
        (MemoryError(), "There is not enough memory for this"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 20 GiB"), "There is not enough memory for this"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "There is not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x.png"), "out/x.png: No space left on device."),
        (click.UsageError("No such thing."), "No such thing."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(error, sentence):
    result = run(toy(error))
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith(f"error: {sentence}") and result.stderr.count("\n") == 1


def test_torch_uses_the_expected_words_when_memory_is_short():
    """The words that `cli` looks for are the ones torch uses."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert "There is not enough memory" in run(toy(caught.value)).stderr


def test_ctrl_c_is_no_traceback():
    result = run(toy(KeyboardInterrupt()))
    assert result.exit_code == 130 and result.stderr.strip() == "stopped"


def test_ctrl_c_while_python_still_imports_is_no_traceback(tmp_path):
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")  # the first import of a command
    command = [sys.executable, "-m", "stylegan_toon.train"]
    places = os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[1])])
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": places}, cwd=tmp_path, check=False
    )
    assert done.returncode != 0 and done.stderr == "stopped\n"


def test_a_defect_of_ours_keeps_its_traceback():
    result = run(toy(ZeroDivisionError("oh")))
    assert isinstance(result.exception, ZeroDivisionError) and "error:" not in result.stderr


def test_warnings_are_one_line():
    before = warnings.showwarning
    result = run(toy(warning="mind the gap"))
    assert result.stderr == "warning: mind the gap\n" and result.stdout == "done\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize("args", [["nonsense"], ["--nonsense"], ["generate", "--nonsense"], ["generate", "extra"]])
def test_usage_mistakes(args):
    result = run(cli.main, *args)
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


# Types


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("7", [7]),
        ("0-3,33", [0, 1, 2, 3, 33]),
        (" 1 , 2 - 3 ", [1, 2, 3]),
        ("5,5", [5, 5]),
        ("4294967295", [2**32 - 1]),
    ],
)
def test_seeds(text, seeds):
    assert cli.SEEDS.convert(text, None, None) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "-3", "3-", "3-1", "1,,2", "1.5", "4294967296", "0-99999999999", "0-4294967295", "²", "0x10"]
)
def test_invalid_seeds(text):
    result = run(toy(), "--seeds", text)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1


def test_devices(monkeypatch):
    def convert(text):
        return cli.DEVICE.convert(text, None, None)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert convert("auto") == torch.device("cuda") and convert("cuda:1") == torch.device("cuda:1")
    with pytest.raises(click.BadParameter, match="the last device is cuda:1"):
        convert("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert convert("auto") == convert("cpu") == torch.device("cpu")
    for text in ("cuda", "cuda:0", "mps"):
        with pytest.raises(click.BadParameter, match="use auto or cpu"):
            convert(text)
    for text in ("gpu", "cuda:-1", "cuda:x", "", "CPU"):
        with pytest.raises(click.BadParameter, match="is not one of"):
            convert(text)


def test_dtypes():
    assert cli.DTYPE.convert("auto", None, None) is None
    assert cli.DTYPE.convert("bfloat16", None, None) is torch.bfloat16
    with pytest.raises(click.BadParameter, match="is not one of"):
        cli.DTYPE.convert("int8", None, None)


@pytest.mark.parametrize("name", ["generate", "blend", "project", "toonify", "finetoon", "dataset", "evaluate"])
def test_quiet_commands_print_nothing_but_results(name, tmp_path, checkpoint, crop):
    """One line (or the table of results) on stdout, nothing on stderr."""
    child = tmp_path / "child.safetensors"
    save_networks(child, {"G_ema": tiny_generator(1)}, provenance={"ancestors": [sha256_of(checkpoint)]})
    pair = ["--base", checkpoint, "--toon", child, "--swap", "b16-"]
    options = {
        "generate": ["--network", checkpoint, "--seeds", "0-2", "--quiet"],
        "blend": [*pair, "--seeds", "0"],  # shows no progress at all
        "project": [crop, "--aligned", "--network", checkpoint, "--features", checkpoint, "--steps", 2, "--quiet"],
        "toonify": [crop, "--aligned", *pair, "--features", checkpoint, "--steps", 2, "--tune", 1, "--quiet"],
        "finetoon": [*pair, "--seeds", "0,1", "--epochs", 1, "--quiet"],
        "dataset": [crop, "--size", 32, "--workers", 1, "--quiet"],
        "evaluate": ["--network", checkpoint, "--metrics", "detection", "--samples", 2, "--quiet"],
    }[name]
    if name == "dataset":
        folder = tmp_path / "pictures"
        folder.mkdir()
        Image.open(crop).save(folder / "a.png")
        options[0] = folder
    out = tmp_path / ("set.zip" if name == "dataset" else "out")
    result = run(
        cli.main, name, *map(str, options), "--out", str(out), *([] if name == "dataset" else ["--device", "cpu"])
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == "" and str(out) in result.stdout.splitlines()[-1]

"""Runs commands as a shell would, but in this process."""

from __future__ import annotations

import click
from click.testing import CliRunner, Result


def run(command: click.Command, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def refused(command: click.Command, *args: object) -> str:
    """The error of a command that must fail with exit code 2 and print only warnings and progress bars besides."""
    result = run(command, *args)
    assert result.exit_code == 2 and result.stdout == "", result.output
    *before, line = result.stderr.splitlines()
    assert all(text.startswith("warning: ") or "%|" in text for text in before if text.strip()), result.stderr
    assert line.startswith("error: ") and line.endswith("."), line
    return line

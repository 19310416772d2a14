"""Show versions, devices, kernels, networks and folders: the first thing to look at when something does not work."""

from __future__ import annotations

import json

import click

from . import cli
from .pipelines.env import env


@cli.command("python -m stylegan_toon.env --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(as_json: bool) -> None:
    """Show versions, devices, which kernels are in use and why, networks and folders."""
    report = env()
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for section, entries in report.items():
        click.echo(section)
        for name, value in entries.items():
            click.echo(f"  {name:20} {'; '.join(value) if isinstance(value, list) else value}")


if __name__ == "__main__":
    main()

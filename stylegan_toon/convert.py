"""Convert networks between this package, the NVIDIA repositories and rosinality's, and compare their pictures."""

from __future__ import annotations

from pathlib import Path

import click

from . import cli
from .models import Generator
from .pipelines.convert import SEEDS, convert, round_trip, table
from .weights.nvlabs_writer import LAYOUTS


@cli.command(
    "python -m stylegan_toon.convert comic --resolution 256 --half --out comic-256.safetensors\n"
    "python -m stylegan_toon.convert network-snapshot.pkl --out mine.safetensors\n"
    "python -m stylegan_toon.convert random_face-2021.7.21.1-py3-none-any.whl --resolution 256 --out face.safetensors"
)
@click.argument("network", type=cli.TEXT)
@click.option("--out", type=cli.PATH, required=True, help="File to write: .safetensors, .pkl or .pt.")
@click.option("--only", type=cli.TEXT, help="Members to take, like G_ema,D; all by default.")
@click.option("--layout", type=click.Choice(list(LAYOUTS)), default="ada", help="Repository that will load the .pkl.")
@click.option("--half", is_flag=True, help="Store .safetensors in float16.")
@click.option("--resolution", type=cli.integer(1, 65_536), help="Cut a mobile generator to pictures of this side.")
@click.option("--mirror", type=cli.TEXT, help="https folder to download networks from instead of their own address.")
@cli.overwrite()
def main(
    network: str, out: Path, only: str | None, layout: str, half: bool, resolution: int | None, mirror: str | None,
    overwrite: bool,
) -> None:  # fmt: skip
    """Convert NETWORK (name, file or https address) between formats.

    Prints the configuration of the networks, and the largest difference between the pictures of the original and of
    the written file.
    """
    members = [part.strip() for part in only.split(",")] if only else None
    networks, notes = convert(
        network, out, only=members, layout=layout, half=half, resolution=resolution, mirror=mirror,
        overwrite=overwrite,
    )  # fmt: skip
    click.echo(table(networks))
    for note in notes:
        click.echo(f"note: {note}")
    for name, difference in round_trip(networks, out).items():
        what = "pictures" if isinstance(networks[name], Generator) else "scores"
        click.echo(
            f"{name}: largest difference of {what} on {len(SEEDS)} seeds after reading it back: {difference:.3g}"
        )
    click.echo(out)


if __name__ == "__main__":
    main()

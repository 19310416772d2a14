"""Train StyleGAN2-ADA from scratch, or teach an existing network a new style (transfer learning)."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from . import cli
from .distributed import first_process
from .pipelines.train import UNSET, TrainOptions, train_from_options
from .training.config import TrainConfig
from .training.snapshots import snapshots


@cli.command(
    """python -m stylegan_toon.train --data faces.zip --resolution 128 --out runs/faces
python -m stylegan_toon.train --data cartoons/ --init-from faces --kimg 40 --freeze-d 4 --out runs/cartoons
torchrun --nproc-per-node 8 -m stylegan_toon.train --data faces.zip --out runs/faces --resume auto"""
)
@cli.with_config(TrainOptions, name="options")
@cli.options_of(TrainConfig, defaults=dict.fromkeys(UNSET))
@cli.out("runs/train")
@cli.device()
@cli.overwrite()
@cli.quiet()
@click.pass_context
def main(
    ctx: click.Context, options: TrainOptions, out: Path, device: torch.device, overwrite: bool, quiet: bool,
    **values: Any,
) -> None:  # fmt: skip
    """Train StyleGAN2-ADA on a set of pictures.

    From scratch, or with --init-from from any network. Snapshots (networks, optimisers, everything) are written to
    --out every --snapshot-kimg thousand pictures, at the end, and on Ctrl-C; --resume goes on from one exactly; options
    that are not given keep their values. With --pairs, pictures whose latents are known are learnt first, which saves
    most of the time of a training from scratch. torchrun starts many processes.
    """
    names = {field.name for field in fields(TrainConfig)} & set(values)
    given = {name: values[name] for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    try:
        final = train_from_options(options, given, out, device=device, overwrite=overwrite, quiet=quiet)
    except KeyboardInterrupt:
        if first_process() and snapshots(out):
            click.echo(f"Stopped; --resume auto goes on from what is in {out}.", err=True)
        raise click.Abort from None
    if final is not None:
        click.echo(final)


if __name__ == "__main__":
    main()

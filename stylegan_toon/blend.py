"""Swap layers between two networks: the person's structure in the drawing's colours, or the reverse."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import cli
from .data.images import save_image
from .features.identity import face_embedder
from .files import refuse_overwrite, results_folder
from .metrics.likeness_chart import chart
from .pipelines.auto_blend import AutoConfig, Candidate, Trial, choose, front, search
from .pipelines.blend import blend, comparison
from .pipelines.defaults import BLEND_SWAP
from .weights import add_delta, load_network, name_of, provenance_of, save_networks

if TYPE_CHECKING:
    import torch


@cli.command(
    "python -m stylegan_toon.blend --swap b64,b128\n"
    "python -m stylegan_toon.blend --base faces --toon comic --swap b32-,mapping=0.3 --seeds 0-7\n"
    "python -m stylegan_toon.blend --swap fine-toon --delta out/finetoon/finetoon-delta.safetensors\n"
    "python -m stylegan_toon.blend --auto --cartoon 0.7"
)
@cli.base()
@cli.toon()
@cli.swap(BLEND_SWAP)
@cli.width()
@click.option("--delta", type=cli.PATH, help="Add what finetoon changed: its finetoon-delta.safetensors.")
@click.option(
    "--delta-strength", type=cli.number(0, 10), default=1.0, help="Factor of --delta; above 1 exaggerates it."
)
@click.option(
    "--auto", is_flag=True,
    help="Search how much of each block to take for the best likeness, with as much cartoon as --swap has.",
)  # fmt: skip
@cli.with_config(AutoConfig, skip=("psi",))
@click.option("--judge", type=cli.TEXT, default="faceres", help="Face recogniser of --auto: faceres, dlib, facenet.")
@cli.seeds("0-5", help="Seeds on the picture, like 0-5,33.")
@cli.psi()
@cli.out("out/blend")
@cli.device()
@cli.dtype()
@cli.quiet()
@cli.overwrite()
def main(
    base: str, toon: str, swap: str, width: float | None, delta: Path | None, delta_strength: float, auto: bool,
    config: AutoConfig, judge: str, seeds: list[int], psi: float, out: Path, device: torch.device,
    dtype: torch.dtype | None, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Swap layers between two networks.

    Writes blend.safetensors, a network whose header names its parents, and blend.png: base, toon and blend side by
    side. With --auto also auto.png, a chart of the blends that were tried, and auto.jsonl, from which a search that was
    stopped goes on; prints the command that makes the chosen blend.
    """
    network, picture, graph = out / "blend.safetensors", out / "blend.png", out / "auto.png"
    refuse_overwrite([network, picture, *[graph] * auto], overwrite)
    recogniser = face_embedder(judge, device=device) if auto else None
    parents = load_network(base, device=device), load_network(toon, device=device)
    labels = [f"{role}: {Path(name_of(G, role)).stem}" for role, G in zip(("base", "toon"), parents)]
    stopped = False
    with results_folder(out):
        if recogniser is not None:
            trial = Trial(*parents, recogniser, replace(config, psi=psi))
            swap, stopped = _search(trial, replace(config, psi=psi), swap, out, quiet)
            width = None
        blended = blend(*parents, swap, width)
        if delta is not None:
            add_delta(blended, delta, strength=delta_strength)
        sheet = comparison(dict(zip([*labels, "blend"], [*parents, blended])), seeds, psi=psi, dtype=dtype)
        save_networks(network, {"G_ema": blended}, provenance=provenance_of(blended), overwrite=overwrite)
        save_image(sheet, picture)
    if auto:
        given = "" if (base, toon) == ("faces", "comic") else f" --base {shlex.quote(base)} --toon {shlex.quote(toon)}"
        click.echo(f"python -m stylegan_toon.blend{given} --swap {swap}")
    click.echo(out)
    if stopped:
        raise click.Abort


def _search(trial: Trial, config: AutoConfig, swap: str, out: Path, quiet: bool) -> tuple[str, bool]:
    """The swap of the best blend, and whether Ctrl-C stopped the search; writes the chart."""
    first = trial.amounts_of(swap)
    wanted = config.cartoon
    with cli.progress(total=config.candidates, quiet=quiet, unit="blend", desc="search") as bar:

        def report(candidate: Candidate, number: int) -> None:
            bar.set_postfix(identity=f"{candidate.identity:.3f}", cartoon=f"{candidate.cartoon:.2f}", refresh=False)
            bar.update()

        found = search(trial, config, cartoon=wanted, first=[first], journal=out / "auto.jsonl", callback=report)
    if not found:
        raise click.Abort
    plain = found[0]
    best = choose(found, plain.cartoon if wanted is None else wanted)
    chosen = trial.swap(best.amounts)
    tried = {swap: (plain.toon_distance, plain.identity)}
    edge = {trial.swap(c.amounts) or "base": (c.toon_distance, c.identity) for c in front(found)}
    save_image(chart(edge | tried, judge=trial.judge.name), out / "auto.png")
    click.echo(
        f"identity by {trial.judge.name} {best.identity:.3f} at cartoon {best.cartoon:.2f}; {swap} has "
        f"{plain.identity:.3f} at {plain.cartoon:.2f} ({len(found)} blends, {config.count} faces)"
    )
    return chosen, len(found) < config.candidates


if __name__ == "__main__":
    main()

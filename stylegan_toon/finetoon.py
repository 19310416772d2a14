"""Fine-tooning: tune a blended network until its drawings look like the person again.

For the same z three networks make a picture: the *anchor* (a copy of the blend, the only one that learns), the
*positive* (the network of the person) and the *negative* (a toonier blend: one more block of the toon). A triplet loss
(Schroff et al., "FaceNet", arXiv 1503.03832, equation 3) on face embeddings pulls the anchor's face towards the
person's and away from the cartoon's. Three more terms give it the person's colours and keep it the cartoon it was.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
import torch

from . import __version__, cli
from .data.images import save_image
from .features.identity import face_embedder
from .files import atomic_path, refuse_overwrite, results_folder
from .memory import keep_pages
from .models.swap import swap_layers
from .pipelines.defaults import FINETOON_SWAP
from .pipelines.finetoon import FinetoonConfig, Progress, triplet, tune
from .pipelines.finetoon_report import HeldOut
from .weights import load_network, provenance_of, save_delta, save_networks

RANK = 16  # of the delta: the judge sees no difference to the whole one, which is 13 MB


@cli.command(
    "python -m stylegan_toon.finetoon\n"
    "python -m stylegan_toon.finetoon --base faces --toon comic --swap b32- --epochs 5 --colour 2\n"
    "python -m stylegan_toon.finetoon --seeds 0-99 --epochs 10 --lr 1e-5 --schedule constant --blocks all "
    "--likeness 0 --structure 0 --colour 0 --keep 0 --texture 0 --jitter 0"
)
@cli.base()
@cli.toon()
@cli.swap(FINETOON_SWAP)
@click.option("--negative-swap", type=cli.TEXT, help="The same for the toonier blend to move away from; --swap and the "
              "block below it if not given.")  # fmt: skip
@click.option("--seeds", type=cli.SEEDS, help="Learn from a fixed pool of seeds, like 0-99, in place of fresh latents.")
@cli.with_config(FinetoonConfig)
@click.option(
    "--judge", type=cli.TEXT, default="faceres",
    help="Face recogniser that measures likeness before and after: one that --identity does not name.",
)  # fmt: skip
@click.option("--held-out", type=cli.integer(2, 10_000), default=16, help="Faces that likeness is measured on.")
@cli.out("out/finetoon")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    base: str, toon: str, swap: str, negative_swap: str | None, seeds: list[int] | None, config: FinetoonConfig,
    judge: str, held_out: int, out: Path, device: torch.device, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Tune a blended network to keep the face.

    Trains the blend so that its faces resemble those of --base. Writes finetoon.safetensors, finetoon.png (base, blend,
    fine-tooned network and toonier blend side by side), finetoon.json and finetoon-delta.safetensors (what changed, for
    "blend --delta") at the end or on Ctrl-C, and finetoon-epochNN.png after every epoch. Likeness before and after is
    measured on faces that it does not learn from, by a recogniser that it is not trained with.
    """
    network, picture, numbers = (out / f"finetoon.{suffix}" for suffix in ("safetensors", "png", "json"))
    delta = out / "finetoon-delta.safetensors"
    pages = [out / f"finetoon-epoch{epoch:02d}.png" for epoch in range(1, config.epochs + 1)]
    refuse_overwrite([network, delta, picture, numbers, *pages], overwrite)
    keep_pages()
    embedder, critic = (face_embedder(name, device=device) for name in (config.identity, judge))
    networks = triplet(load_network(base, device=device), load_network(toon, device=device), swap, negative_swap)
    faces = HeldOut(
        networks, critic, embedder.name, seeds=seeds or (), count=held_out, psi=config.psi, resolution=config.resolution
    )

    def report(at: Progress) -> None:
        bar.set_description(f"epoch {at.epoch}/{config.epochs}", refresh=False)
        bar.set_postfix(loss=f"{at.loss:.3f}", person=f"{at.to_person:.3f}", toon=f"{at.to_toon:.3f}")
        bar.update()
        history.append({"epoch": at.epoch, "loss": at.loss, "person": at.to_person, "toon": at.to_toon, **at.terms})
        if at.step == at.steps:
            save_image(faces.sheet(at.generator), pages[at.epoch - 1])

    history: list[dict[str, float]] = []
    steps = config.epochs * (-(-len(set(seeds)) // config.batch) if seeds else config.rounds)
    with results_folder(out):
        with cli.progress(total=steps, quiet=quiet, unit="step") as bar:
            G = tune(networks, seeds=seeds, config=config, embedder=embedder, callback=report)
        known = provenance_of(G)
        after = faces.likeness(G)
        save_networks(network, {"G_ema": G}, provenance=known, overwrite=overwrite)
        start = swap_layers(networks.positive, networks.toon, networks.swap)
        save_delta(delta, start, G, provenance=known, rank=RANK, overwrite=overwrite)
        save_image(faces.sheet(G), picture)
        result = {
            "judge": critic.name, "identity": embedder.name, "held_out": held_out, "before": faces.before,
            "after": after, "options": {**asdict(config), "swap": networks.swap, "negative": networks.negative_swap},
            "history": history, "version": __version__,
        }  # fmt: skip
        with atomic_path(numbers) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if known["interrupted"]:
        click.echo(f"Stopped early; the network so far is in {out}.", err=True)
    if not quiet:
        click.echo(
            f"Likeness to the person by {critic.name}, over {held_out} faces it did not learn from: {faces.before:.3f} "
            f"before, {after:.3f} after (trained with {embedder.name}).",
            err=True,
        )
    if known["interrupted"]:
        raise click.Abort
    click.echo(out)


if __name__ == "__main__":
    main()

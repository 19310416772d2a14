"""Fine-tooning: tune a blended network until its drawings look like the person again.

For every seed three networks make a picture of the same z: the *anchor* (a copy of the blend, the only one that
learns), the *positive* (the network of the person) and the *negative* (a toonier blend: one more block of the toon).
A triplet loss (Schroff et al., "FaceNet", arXiv 1503.03832, equation 3) on face embeddings pulls the anchor's face
towards the person's and away from the cartoon's.
"""

from __future__ import annotations

import copy
from pathlib import Path

import click
import torch

from . import cli
from .data.images import save_image
from .features.identity import face_embedder
from .files import refuse_overwrite, results_folder
from .memory import keep_pages
from .models import Generator
from .pipelines.blend import comparison
from .pipelines.defaults import FINETOON_SWAP
from .pipelines.finetoon import FinetoonConfig, Progress, triplet, tune
from .weights import load_network, provenance_of, save_networks

ROWS = 6  # seeds on the sample grid at most


@cli.command(
    "python -m stylegan_toon.finetoon --swap b64,b128\n"
    "python -m stylegan_toon.finetoon --base faces --toon comic --swap b32- --epochs 20 --lr 2e-5 --seeds 0-199"
)
@cli.base()
@cli.toon()
@cli.swap(FINETOON_SWAP)
@click.option("--negative-swap", type=cli.TEXT, help="The same for the toonier blend to move away from; --swap and the "
              "block below it if not given.")  # fmt: skip
@cli.seeds("0-99", help="Fixed pool of seeds to learn from, like 0-99.")
@cli.with_config(FinetoonConfig)
@cli.out("out/finetoon")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    base: str, toon: str, swap: str, negative_swap: str | None, seeds: list[int], config: FinetoonConfig, out: Path,
    device: torch.device, quiet: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Tune a blended network to keep the face.

    Trains all of the blend, its mapping network too, so that its faces resemble those of --base. Writes
    finetoon.safetensors and finetoon.png at the end or on Ctrl-C, and finetoon-epochNN.png after every epoch: base,
    blend, the fine-tooned network and the toonier blend side by side.
    """
    network, picture = out / "finetoon.safetensors", out / "finetoon.png"
    pages = [out / f"finetoon-epoch{epoch:02d}.png" for epoch in range(1, config.epochs + 1)]
    refuse_overwrite([network, picture, *pages], overwrite)
    keep_pages()
    embedder = face_embedder(config.identity, device=device)
    networks = triplet(load_network(base, device=device), load_network(toon, device=device), swap, negative_swap)
    before = copy.deepcopy(networks.anchor)

    def sheet(now: Generator, path: Path) -> None:
        columns = {"base": networks.positive, "blend": before, "fine-tooned": now, "toonier": networks.negative}
        save_image(comparison(columns, seeds[:ROWS], psi=config.psi, dtype=torch.float32), path)

    def report(at: Progress) -> None:
        bar.set_description(f"epoch {at.epoch}/{config.epochs}", refresh=False)
        bar.set_postfix(loss=f"{at.loss:.3f}", person=f"{at.to_person:.3f}", toon=f"{at.to_toon:.3f}")
        bar.update()
        if at.step == at.steps:
            sheet(at.generator, pages[at.epoch - 1])

    steps = config.epochs * -(-len(set(seeds)) // config.batch)
    with results_folder(out):
        with cli.progress(total=steps, quiet=quiet, unit="step") as bar:
            G = tune(networks, seeds=seeds, config=config, embedder=embedder, callback=report)
        history = provenance_of(G)
        save_networks(network, {"G_ema": G}, provenance=history, overwrite=overwrite)
        sheet(G, picture)
    if history["interrupted"]:
        click.echo(f"Stopped early; the network so far is in {out}.", err=True)
        raise click.Abort
    if not quiet:
        click.echo(f"Faces were compared by {history['identity']}.", err=True)
    click.echo(out)


if __name__ == "__main__":
    main()

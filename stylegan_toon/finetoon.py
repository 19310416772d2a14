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
from .files import output_folder, refuse_overwrite
from .memory import keep_pages
from .models import Generator
from .pipelines.blend import comparison
from .pipelines.finetoon import Progress, triplet, tune
from .weights import load_network, save_networks

ROWS = 6  # seeds on the sample grid at most


@cli.command(
    "python -m stylegan_toon.finetoon --swap b64,b128\n"
    "python -m stylegan_toon.finetoon --base faces --toon comic --swap b32- --epochs 20 --lr 2e-5 --seeds 0-199"
)
@cli.base()
@cli.toon()
@cli.swap("fine-toon")
@click.option("--negative-swap", help="The same for the toonier blend to move away from; --swap and the block below it "
              "if not given.")  # fmt: skip
@cli.seeds("0-99", help="Fixed pool of seeds to learn from, like 0-99.")
@click.option("--epochs", type=click.IntRange(0), default=10, help="Rounds through the pool.")
@click.option("--batch", type=click.IntRange(1, 1024), default=4, help="Pictures per step.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-5, help="Learning rate, for all of G.")
@click.option("--margin", type=click.FloatRange(0), default=1.0, help="Of the triplet loss.")
@click.option("--legacy-sign", is_flag=True, help="The mistake of the first fine-tooning: move away from the person.")
@click.option("--identity", default="dlib", help="Face embedding: dlib, facenet, or a file with FaceNet's weights.")
@cli.psi()
@cli.out("out/finetoon")
@cli.seed(help="Seed of the order of the pictures.")
@cli.device()
@cli.quiet()
@cli.overwrite()
def main(
    base: str, toon: str, swap: str, negative_swap: str | None, out: Path, device: torch.device, quiet: bool,
    overwrite: bool, **options,
) -> None:  # fmt: skip
    """Tune a blended network to keep the face.

    Trains all of the blend, its mapping network too, so that its faces resemble those of --base. Writes
    finetoon.safetensors and finetoon.png at the end or on Ctrl-C, and finetoon-epochNN.png after every epoch: base,
    blend, the fine-tooned network and the toonier blend side by side.
    """
    network, picture = out / "finetoon.safetensors", out / "finetoon.png"
    epochs, shown = options["epochs"], options["seeds"][:ROWS]
    pages = [out / f"finetoon-epoch{epoch:02d}.png" for epoch in range(1, epochs + 1)]
    refuse_overwrite([network, picture, *pages], overwrite)
    keep_pages()
    parents = [load_network(source, device=device) for source in (base, toon)]
    networks = triplet(*parents, swap, negative_swap)
    output_folder(out)
    before = copy.deepcopy(networks.anchor)

    def sheet(now: Generator, path: Path) -> None:
        columns = {"base": networks.positive, "blend": before, "fine-tooned": now, "toonier": networks.negative}
        save_image(comparison(columns, shown, psi=options["psi"], dtype=torch.float32), path)

    def tell(progress: Progress) -> None:
        bar.set_description(f"epoch {progress.epoch}/{epochs}", refresh=False)
        bar.set_postfix(loss=f"{progress.loss:.3f}", person=f"{progress.to_person:.3f}", toon=f"{progress.to_toon:.3f}")
        bar.update()
        if progress.step == progress.steps:
            sheet(progress.generator, pages[progress.epoch - 1])

    steps = epochs * -(-len(set(options["seeds"])) // options["batch"])
    with cli.progress(total=steps, quiet=quiet, unit="step") as bar:
        G = tune(networks, callback=tell, **options)
    save_networks(network, {"G_ema": G}, provenance=G.provenance, overwrite=overwrite)
    sheet(G, picture)
    if G.provenance["interrupted"]:
        click.echo(f"Stopped; what was learnt is in {out}.", err=True)
        raise click.Abort
    click.echo(f"Faces were compared by {G.provenance['identity']}.", err=True)
    click.echo(out)


if __name__ == "__main__":
    main()

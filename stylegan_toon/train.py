"""Train StyleGAN2-ADA from scratch, or teach an existing network a new style (transfer learning)."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import click
import torch

from . import cli
from ._callable import callable_module
from .data.dataset import ImageDataset, PairDataset
from .data.images import image_grid, save_image
from .errors import ToonError
from .files import output_folder
from .nn import PRESETS, Discriminator, Generator, preset
from .training.augment import AUGMENTATIONS, build_augment
from .training.loop import TrainConfig, Trainer
from .training.memory import keep_pages
from .training.vgg import VggLoss
from .training.warmstart import fit_mapping, read_latents
from .weights import load_network
from .weights.provenance import descend


def build(
    resolution: int,
    cfg: str,
    *,
    c_dim: int = 0,
    channel_base: int | None = None,
    channel_max: int | None = None,
    mapping_layers: int | None = None,
    mapping_features: int | None = None,
) -> tuple[Generator, Discriminator]:
    """New networks of preset ``cfg`` at ``resolution``; the other arguments override the preset."""
    row = preset(cfg, resolution)
    g, d = row.generator(resolution, c_dim=c_dim), row.discriminator(resolution, c_dim=c_dim)
    sizes = {"channel_base": channel_base, "channel_max": channel_max}
    sizes = {name: value for name, value in sizes.items() if value}
    mapping = {"mapping_layers": mapping_layers, "mapping_features": mapping_features}
    mapping = {name: value for name, value in mapping.items() if value}
    return Generator(replace(g, **sizes, **mapping)), Discriminator(replace(d, **sizes))


def load_family(source: str, device: torch.device) -> dict[str, torch.nn.Module]:
    """``G_ema`` and, where the source has them too, ``G`` and ``D``."""
    found = {"G_ema": load_network(source, device=device)}
    for which in ("G", "D"):
        with contextlib.suppress(ToonError):  # a file for use, not for training on: G starts from G_ema, D anew
            found[which] = load_network(source, which=which, device=device)
    return found


def train(G: Generator, D: Discriminator, pictures: ImageDataset, folder: Path, config: TrainConfig, **more) -> Path:
    """Train ``G`` and ``D`` on ``pictures``; the arguments, also ``more``, are those of `Trainer`.

    Returns:
        path of ``network.safetensors`` (``G_ema`` and ``D``) in ``folder``.
    """
    return Trainer(G, D, pictures, folder, config, **more).run()


@cli.verb(
    """python -m stylegan_toon.train --data faces.zip --resolution 128 --out runs/faces
python -m stylegan_toon.train --data cartoons/ --init-from faces --kimg 40 --freeze-d 4 --out runs/cartoons"""
)
@click.option("--data", type=cli.PATH, required=True, help="Folder or zip of square pictures.")
@cli.out("runs/train")
@click.option("--init-from", help="Start from this network (transfer learning): zoo name, file or https address.")
@click.option("--cfg", default="auto", type=click.Choice(["auto", *PRESETS]), help="Published configuration.")
@click.option("--resolution", type=int, help="Side of the pictures; that of the first picture if not given.")
@click.option("--kimg", type=click.FloatRange(0), default=25000.0, help="Thousands of pictures to train on.")
@click.option("--batch", type=click.IntRange(1), help="Pictures per step.")
@click.option("--gamma", type=click.FloatRange(0), help="R1 weight.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Learning rate.")
@click.option("--ema-kimg", type=click.FloatRange(0), help="Half-life of the averaged generator.")
@click.option("--pl-weight", type=click.FloatRange(0), help="Path length weight; 0 turns it off.")
@click.option("--channel-base", type=click.IntRange(4), help="Channels of block bR: this over R ...")
@click.option("--channel-max", type=click.IntRange(4), help="... and at most this.")
@click.option("--mapping-layers", type=click.IntRange(1), help="Depth of a new mapping network.")
@click.option("--mapping-features", type=click.IntRange(1), help="Width of its hidden layers.")
@click.option("--aug", type=click.Choice(AUGMENTATIONS), default="ada", help="Augmentation; diff is DiffAugment.")
@click.option("--augpipe", help="blit, geom, color, filter, noise, cutout, bg, bgc, ... bgcfnc; or parts of diff.")
@click.option("--p", type=click.FloatRange(0, 1), default=0.0, help="Augmentation probability to begin with.")
@click.option("--target", type=click.FloatRange(0, 1), default=0.6, help="Aim of ADA.")
@click.option("--freeze-d", type=click.IntRange(0), default=0, help="Freeze-D: layers of D to keep.")
@click.option("--mirror", is_flag=True, help="Double the set by mirror images.")
@click.option("--cond", is_flag=True, help="Use the labels in dataset.json.")
@click.option("--pairs", type=cli.PATH, help="npz with w [N, w_dim]: row i is the latent of picture i.")
@click.option("--pairs-kimg", type=click.FloatRange(0), default=0.0, help="Learn the pairs this long first.")
@click.option("--pairs-lr", type=click.FloatRange(0), default=0.002, help="Learning rate of that phase.")
@click.option("--pairs-weight", type=click.FloatRange(0), default=0.0, help="Keep to the pairs while training.")
@click.option("--pairs-features", type=cli.PATH, help="npz of VGG16 weights for a perceptual loss on pairs.")
@click.option("--snapshot-kimg", type=click.FloatRange(0, min_open=True), default=10.0, help="Between snapshots.")
@click.option("--workers", type=click.IntRange(0), default=1, help="Processes that read pictures.")
@cli.device()
@cli.seed()
@cli.quiet()
def main(
    data: Path, out: Path, init_from: str | None, cfg: str, resolution: int | None, kimg: float, batch: int | None,
    gamma: float | None, lr: float | None, ema_kimg: float | None, pl_weight: float | None, channel_base: int | None,
    channel_max: int | None, mapping_layers: int | None, mapping_features: int | None, aug: str,
    augpipe: str | None, p: float,
    target: float, freeze_d: int, mirror: bool, cond: bool, pairs: Path | None, pairs_kimg: float, pairs_lr: float,
    pairs_weight: float, pairs_features: Path | None, snapshot_kimg: float, workers: int, device: torch.device,
    seed: int, quiet: bool,
) -> None:  # fmt: skip
    """Train StyleGAN2-ADA on a set of pictures.

    From scratch, or with --init-from from any network. Snapshots (networks and a sample grid) are written to --out
    every --snapshot-kimg thousand pictures, at the end, and on Ctrl-C. With --pairs, latents whose pictures are
    known are learnt first, which saves most of the time of a training from scratch.
    """
    # Names, not paths: a checkpoint travels, and whose disk it was made on is nobody's business.
    said = {**click.get_current_context().params, "init_from": init_from and init_from.rpartition("/")[2]}
    options = {k: v.name if isinstance(v, Path) else v.type if k == "device" else v for k, v in said.items()}
    build_augment(aug, augpipe, p)  # a wrong name is told before anything is written
    out = output_folder(out)
    keep_pages()
    torch.manual_seed(seed)
    parents = load_family(init_from, device) if init_from else {}
    if resolution is None and parents:
        resolution = next(iter(parents.values())).config.resolution
    pictures = ImageDataset(data, resolution, resize=True, labels=cond, xflip=mirror)
    resolution = pictures.resolution
    if resolution < 8 or resolution & (resolution - 1):
        raise ToonError(f"The pictures are {resolution} px wide: say --resolution with a power of two, like 128.")
    sizes = dict(channel_base=channel_base, channel_max=channel_max)
    G, D = build(
        resolution, cfg, c_dim=pictures.label_dim, mapping_layers=mapping_layers, mapping_features=mapping_features,
        **sizes,
    )  # fmt: skip
    G_ema, parent = None, None
    if parents:
        parent = parents["G_ema"]
        if parent.config.resolution != resolution or parent.config.c_dim != pictures.label_dim:
            raise ToonError(
                f"{init_from} makes {parent.config.resolution} px pictures with labels of size {parent.config.c_dim}, "
                f"the set has {resolution} px and {pictures.label_dim}: change --resolution or --cond."
            )
        G, G_ema = (parents["G"], parent) if "G" in parents else (parent, None)
        D = parents.get("D") or Discriminator(replace(D.config, channel_base=channel_base or G.config.channel_base,
                                                      channel_max=channel_max or G.config.channel_max))  # fmt: skip
    G.to(device).train().requires_grad_(True)
    D.to(device).train().requires_grad_(True)
    known = None
    if pairs is not None:
        table = read_latents(pairs)
        known = PairDataset(ImageDataset(data, resolution, resize=True), table["w"])
        if "samples" in table and not parents:
            fit_mapping(G.mapping, torch.from_numpy(table["samples"]).to(device))
    elif pairs_kimg or pairs_weight:
        raise ToonError("--pairs-kimg and --pairs-weight need --pairs: give the npz with the latents.")
    row = preset(cfg, resolution)
    given = {"batch": batch, "gamma": gamma, "lr": lr, "ema_kimg": ema_kimg, "pl_weight": pl_weight}
    chosen = {k: getattr(row, k) if v is None else v for k, v in given.items()}
    config = TrainConfig(
        kimg=kimg, **chosen, style_mixing=row.style_mixing, augment=aug, augpipe=augpipe, p=p, ada_target=target,
        # A network that has learnt pictures before needs no ramp, and overfits sooner (ADA, appendix).
        ema_rampup=None if parents else row.ema_rampup, ada_kimg=100 if parents else 500, freeze_d=freeze_d,
        pairs_kimg=pairs_kimg, pairs_lr=pairs_lr, pairs_weight=pairs_weight, snapshot_kimg=snapshot_kimg, seed=seed,
        workers=workers,
    )  # fmt: skip
    group = D.config.mbstd_group_size or config.batch
    if config.batch % min(group, config.batch):
        raise ToonError(f"--batch {config.batch} must be a multiple of {group}, the group of the minibatch deviation.")
    perceptual = VggLoss(pairs_features).to(device) if pairs_features else None
    reals = [pictures.image(row) for row in range(min(32, len(pictures.names)))]
    save_image(image_grid(reals, columns=8), out / "reals.png")
    history = descend("train", options, [parent] if parent else [], data=data.name)
    try:
        final = train(
            G, D, pictures, out, config, G_ema=G_ema, pairs=known, perceptual=perceptual, provenance=history,
            quiet=quiet,
        )  # fmt: skip
    except KeyboardInterrupt:
        click.echo(f"Stopped; what was learnt is in {out}.", err=True)
        raise click.Abort from None
    click.echo(final)


if __name__ == "__main__":
    main()

callable_module(__name__, train)

"""Train StyleGAN2-ADA from scratch, or teach an existing network a new style (transfer learning)."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from . import cli
from .data.datasets import ImageDataset, PairDataset
from .data.images import image_grid, save_image, to_pil
from .distributed import team
from .errors import ToonError
from .features.vgg import VggLoss
from .files import output_folder
from .memory import keep_pages
from .metrics import Suite, evaluate
from .models import PRESETS, Preset, preset
from .pipelines.train import check_precision, networks
from .training.augment import AUGMENTATIONS, build_augment
from .training.config import TrainConfig
from .training.curves import draw_log
from .training.log import sinks
from .training.loop import Trainer
from .training.pairs import fit_mapping, read_latents
from .training.snapshots import refuse_another, snapshots, start_folder
from .training.state import Snapshot, find_snapshot
from .weights import load_family
from .weights.provenance import descend, provenance_of

PANELS = (("G", "D"), ("pairs",), ("real", "sign"), ("p",), ("r1",), ("path_length",))  # of curves.png


class BatchPart(click.ParamType):
    """``auto`` -> 0, or a number of pictures."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto":
            return 0
        return click.IntRange(1).convert(value, param, ctx)


def configure(said: click.Context, row: Preset, snapshot: Snapshot | None) -> TrainConfig:
    """Options that were given, over those of the snapshot or, for a new training, the preset and the defaults."""
    known = {field.name for field in fields(TrainConfig)}
    options = {name: value for name, value in said.params.items() if name in known}
    options["dtype"] = options["dtype"] and str(options["dtype"]).removeprefix("torch.")
    if snapshot is not None:
        given = {k: v for k, v in options.items() if said.get_parameter_source(k) is ParameterSource.COMMANDLINE}
        return replace(snapshot.config, **given)
    # A network that has learnt pictures before needs no ramp, and overfits sooner (ADA, appendix).
    start = {"ema_rampup": None, "ada_kimg": 100} if said.params["init_from"] else {"ema_rampup": row.ema_rampup}
    usual = {name: getattr(row, name) for name in ("batch", "gamma", "lr", "ema_kimg", "pl_weight", "style_mixing")}
    return TrainConfig(**{**start, **usual, **{name: value for name, value in options.items() if value is not None}})


def history(said: click.Context, family: dict[str, torch.nn.Module], resumed: bool) -> dict[str, Any]:
    """The provenance of what is trained; going on adds nothing to it."""
    if resumed:
        known = provenance_of(family["G_ema"])
        return {key: value for key, value in known.items() if key not in ("name", "sha256")}
    # Names, not paths: a checkpoint travels, and whose disk it was made on is nobody's business.
    names = {key: said.params[key] and said.params[key].rpartition("/")[2] for key in ("init_from", "data", "resume")}
    options = {**said.params, **names}
    options["device"], options["dtype"] = options["device"].type, options["dtype"] and str(options["dtype"])
    options = {key: value.name if isinstance(value, Path) else value for key, value in options.items()}
    return descend("train", options, [family["G_ema"]] if family else [], data=names["data"])


@cli.command(
    """python -m stylegan_toon.train --data faces.zip --resolution 128 --out runs/faces
python -m stylegan_toon.train --data cartoons/ --init-from faces --kimg 40 --freeze-d 4 --out runs/cartoons
torchrun --nproc-per-node 8 -m stylegan_toon.train --data faces.zip --out runs/faces --resume auto"""
)
@click.option("--data", required=True, help="Folder, zip or tar shards (also http) of square pictures.")
@cli.out("runs/train")
@click.option("--init-from", help="Start from this network (transfer learning): zoo name, file or https address.")
@click.option("--resume", help="Go on exactly: auto (the newest snapshot in --out, if any), a snapshot, or a run.")
@click.option("--cfg", default="auto", type=click.Choice(["auto", *PRESETS]), help="Published configuration.")
@click.option("--resolution", type=int, help="Side of the pictures; that of the first picture if not given.")
@click.option("--kimg", type=click.FloatRange(0), default=25000.0, help="Thousands of pictures to train on.")
@click.option("--batch", type=click.IntRange(1), help="Pictures per step, over all processes.")
@click.option("--batch-gpu", type=BatchPart(), help="Of these at a time in a process; auto: as many as fit.")
@click.option("--gamma", type=click.FloatRange(0), help="R1 weight.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Learning rate.")
@click.option("--ema-kimg", type=click.FloatRange(0), help="Half-life of the averaged generator.")
@click.option("--pl-weight", type=click.FloatRange(0), help="Path length weight; 0 turns it off.")
@click.option("--style-mixing", type=click.FloatRange(0, 1), help="Probability of mixing two latents.")
@click.option("--channel-base", type=click.IntRange(4), help="Channels of block bR: this over R ...")
@click.option("--channel-max", type=click.IntRange(4), help="... and at most this.")
@click.option("--mapping-layers", type=click.IntRange(1), help="Depth of a new mapping network.")
@click.option("--mapping-features", type=click.IntRange(1), help="Width of its hidden layers.")
@click.option(
    "--aug", "augment", type=click.Choice(AUGMENTATIONS), default="ada", help="Augmentation; diff is DiffAugment."
)
@click.option("--augpipe", help="blit, geom, color, filter, noise, cutout, bg, bgc, ... bgcfnc; or parts of diff.")
# torchrun takes --p for an abbreviation of one of its own options, hence the second name.
@click.option(
    "--p", "--augment-p", "p", type=click.FloatRange(0, 1), default=0.0, help="Augmentation probability to begin with."
)
@click.option("--target", "ada_target", type=click.FloatRange(0, 1), default=0.6, help="Aim of ADA.")
@click.option("--ada-kimg", type=click.FloatRange(0, min_open=True), help="Pictures for p to go from 0 to 1.")
@click.option("--freeze-d", type=click.IntRange(0), default=0, help="Freeze-D: layers of D to keep.")
@click.option("--freeze-g", default="", help="Layers of G to keep, such as mapping,b4-b16.")
@click.option("--no-noise", is_flag=True, help="Take the noise out of G: for drawings, which have no grain.")
@click.option("--skip-bad", is_flag=True, help="Pass over pictures that cannot be read, with a warning.")
@click.option("--mirror", is_flag=True, help="Double the set by mirror images.")
@click.option("--cond", is_flag=True, help="Use the labels in dataset.json.")
@click.option("--pairs", type=cli.PATH, help="npz with w [N, w_dim]: row i is the latent of picture i.")
@click.option("--pairs-kimg", type=click.FloatRange(0), default=0.0, help="Learn the pairs this long first.")
@click.option("--pairs-lr", type=click.FloatRange(0), default=0.002, help="Learning rate of that phase.")
@click.option("--pairs-weight", type=click.FloatRange(0), default=0.0, help="Keep to the pairs while training.")
@click.option("--pairs-detail", type=click.FloatRange(0), default=0.0, help="Weight of the finest detail in them.")
@click.option("--pairs-noise", type=click.Choice(["none", "const"]), default="none", help="Noise inputs for pairs.")
@click.option("--pairs-features", help="Also compare pairs by VGG16: vgg (it ships), or an npz of its weights.")
@click.option("--snapshot-kimg", type=click.FloatRange(0, min_open=True), default=10.0, help="Between snapshots.")
@click.option("--keep", type=click.IntRange(1), default=3, help="Snapshots to keep.")
@click.option("--metrics", help="Figures to take at every snapshot, like fd-efficientnet-lite0,detection.")
@click.option("--metrics-samples", type=click.IntRange(2), default=2000, help="Pictures to generate for them.")
@click.option("--workers", type=click.IntRange(0), default=1, help="Processes that read pictures.")
@click.option("--wandb", metavar="PROJECT", help="Log to this project of Weights & Biases, too.")
@cli.device()
@cli.dtype()
@click.option("--tf32/--no-tf32", default=False, help="TensorFloat-32 on GPUs: faster, 10 bits of mantissa.")
@cli.seed()
@cli.overwrite()
@cli.quiet()
def main(
    data: str, out: Path, init_from: str | None, resume: str | None, cfg: str, resolution: int | None,
    channel_base: int | None, channel_max: int | None, mapping_layers: int | None, mapping_features: int | None,
    skip_bad: bool, mirror: bool, cond: bool, pairs: Path | None, pairs_features: str | None, wandb: str | None,
    metrics: str | None, metrics_samples: int,
    device: torch.device, tf32: bool, seed: int, overwrite: bool, quiet: bool, **_: Any,
) -> None:  # fmt: skip
    """Train StyleGAN2-ADA on a set of pictures.

    From scratch, or with --init-from from any network. Snapshots (networks, optimisers, everything) are written to
    --out every --snapshot-kimg thousand pictures, at the end, and on Ctrl-C; --resume goes on from one as if nothing
    had happened, with the options of then where none are given. With --pairs, latents whose pictures are known are
    learnt first, which saves most of the time of a training from scratch. torchrun starts many processes.
    """
    said = click.get_current_context()
    if not resume:  # a wrong name is told before anything is written
        build_augment(said.params["augment"], said.params["augpipe"], said.params["p"])
    keep_pages()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True  # sizes never change
    torch.manual_seed(seed)
    with team(device) as (processes, device):
        snapshot = find_snapshot(resume, out) if resume else None
        if processes.rank == 0 and snapshot is None and not overwrite:
            refuse_another(out)
        family = snapshot.networks if snapshot else load_family(init_from) if init_from else {}
        if resolution is None and "G_ema" in family:
            resolution = family["G_ema"].config.resolution
        pictures = ImageDataset(data, resolution, resize=True, labels=cond, xflip=mirror, skip_bad=skip_bad)
        resolution = pictures.resolution
        if resolution < 8 or resolution & (resolution - 1):
            raise ToonError(f"The pictures are {resolution} px wide: say --resolution with a power of two, like 128.")
        trained = networks(
            family, str(snapshot.path) if snapshot else init_from, pictures, cfg, channel_base=channel_base,
            channel_max=channel_max, mapping_layers=mapping_layers, mapping_features=mapping_features,
        )  # fmt: skip
        config = configure(said, preset(cfg, resolution), snapshot)
        check_precision(config, device, trained)
        known = None
        if pairs is not None:
            table = read_latents(pairs)
            known = PairDataset(ImageDataset(data, resolution, resize=True), table["w"])
            if "samples" in table and not family:
                fit_mapping(trained["G"].mapping, torch.from_numpy(table["samples"]))
        elif config.pairs_kimg or config.pairs_weight:
            raise ToonError("--pairs-kimg and --pairs-weight need --pairs: give the npz with the latents.")
        features = VggLoss(None if pairs_features == "vgg" else pairs_features) if pairs_features else None
        measure, panels = None, list(PANELS)
        if metrics:  # networks that cannot be had are told of now, not at the first snapshot
            suite = Suite([name.strip() for name in metrics.split(",")], device=device)
            measure = partial(evaluate, pictures=pictures, metrics=suite, samples=metrics_samples)
            panels += [[name] for metric in suite.metrics for name in metric.results]
        try:
            training = Trainer(
                pictures=pictures, folder=out, config=config, pairs=known, team=processes, resume=snapshot,
                perceptual=features and features.to(device), quiet=quiet, measure=measure,
                provenance=history(said, family, resumed=snapshot is not None),
                **{name: network.to(device) for name, network in trained.items()},
            )  # fmt: skip
            # Only now that all is known to fit together is anything written, or an earlier training removed.
            if processes.rank == 0:
                reals = [to_pil(pictures[row][0] / 127.5 - 1) for row in range(min(32, len(pictures.names)))]
                start_folder(output_folder(out), snapshot)
                save_image(image_grid(reals, columns=8), out / "reals.png")
                seen = training.progress.seen
                training.log.sinks += sinks(out, seen, wandb=wandb, config=asdict(config))
            final = training.run()
        except KeyboardInterrupt:
            if processes.rank == 0 and snapshots(out):
                click.echo(f"Stopped; --resume auto goes on from what is in {out}.", err=True)
            raise click.Abort from None
        except torch.OutOfMemoryError as error:
            raise ToonError("A step does not fit into memory: say --batch-gpu auto, or a smaller number.") from error
        if processes.rank == 0:
            draw_log(out, panels)
            click.echo(final)


if __name__ == "__main__":
    main()

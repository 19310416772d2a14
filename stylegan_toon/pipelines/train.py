"""StyleGAN2-ADA training, from the options of the command to the file that it ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config, ConfigError, option
from ..data.datasets import ImageDataset, PairDataset
from ..data.images import image_grid, save_image, to_pil
from ..distributed import ProcessGroup, join_processes
from ..errors import ToonError
from ..features.extractors import extractor
from ..features.projected import ProjectedConfig, ProjectedDiscriminator
from ..features.vgg import VggLoss
from ..files import output_folder
from ..memory import keep_pages
from ..metrics import Suite, evaluate
from ..models import PRESETS, Discriminator, Generator, preset
from ..training.config import TrainConfig
from ..training.curves import draw_log
from ..training.log import Sink, open_sinks
from ..training.loop import Trainer
from ..training.pairs import NO_PAIRS, fit_mapping, read_latents
from ..training.snapshots import Snapshot, find_snapshot, refuse_another, start_folder
from ..training.stylegan2 import StyleGAN2Task
from ..weights import load_family
from ..weights.provenance import descend, provenance_of

PANELS = (("G", "D"), ("pairs",), ("real", "sign"), ("p",), ("r1",), ("path_length",))  # of curves.png
FROM_PRESET = ("batch", "gamma", "lr", "ema_kimg", "pl_weight", "style_mixing", "ema_rampup")
UNSET = (*FROM_PRESET, "ada_kimg")  # options whose default depends on others


@dataclass(frozen=True)
class TrainOptions(Config):
    """What to train on and what to start from: the options of the command beside `TrainConfig`.

    A snapshot does not keep these, so they are given again with ``resume``.
    """

    data: str = option(help="Folder, zip or tar shards (also http) of square pictures.")
    init_from: str | None = option(
        None, "Start from this network (transfer learning): zoo name, file or https address."
    )
    resume: str | None = option(
        None, "Go on exactly: auto (the newest snapshot in --out, if any), a snapshot, or a run."
    )
    cfg: str = option("auto", "Published configuration.", choices=("auto", *PRESETS))
    discriminator: str | None = option(
        None, "projected: on frozen features, which takes far fewer pictures; that of --init-from if not given.",
        choices=("stylegan2", "projected"),
    )  # fmt: skip
    resolution: int | None = option(
        None, "Side of the pictures; that of the first picture if not given.", low=8, high=4096
    )
    channel_base: int | None = option(None, "Channels of block bR: this over R ...", low=4, high=1 << 20)
    channel_max: int | None = option(None, "... and at most this.", low=4, high=1 << 14)
    mapping_layers: int | None = option(None, "Depth of a new mapping network.", low=1, high=64)
    mapping_features: int | None = option(None, "Width of its hidden layers.", low=1, high=1 << 14)
    skip_bad: bool = option(False, "Pass over pictures that cannot be read, with a warning.")
    mirror: bool = option(False, "Double the set by mirror images.")
    cond: bool = option(False, "Use the labels in dataset.json.")
    pairs: Path | None = option(None, "npz with w [N, w_dim]: row i is the latent of picture i.")
    pairs_features: str | None = option(None, "Also compare pairs by VGG16: vgg (it ships), or an npz of its weights.")
    metrics: str | None = option(None, "Metrics to measure at every snapshot, like fd-efficientnet-lite0,detection.")
    metrics_samples: int = option(2000, "Pictures to generate for them.", low=2)
    wandb: str | None = option(None, "Log to this project of Weights & Biases, too.", metavar="PROJECT")
    tf32: bool = option(False, "TensorFloat-32 on GPUs: faster, 10 bits of mantissa.", flags=("--tf32/--no-tf32",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution is not None and self.resolution & (self.resolution - 1):
            raise ConfigError(f"--resolution is {self.resolution}: give a power of two, like 128.")


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


def networks_to_train(
    family: Mapping[str, Any], source: str, pictures: ImageDataset, resolution: int, options: TrainOptions
) -> dict[str, Any]:
    """``G`` and ``D`` to train and, where there is one already, ``G_ema``: those of ``family``, the rest new.

    Raises:
        ToonError: the family, which came from ``source``, does not fit the pictures.
    """
    sizes = {"channel_base": options.channel_base, "channel_max": options.channel_max}
    if not family:
        G, D = build(
            resolution, options.cfg, c_dim=pictures.label_dim, **sizes, mapping_layers=options.mapping_layers,
            mapping_features=options.mapping_features,
        )  # fmt: skip
        return {"G": G, "D": projected(G.config) if options.discriminator == "projected" else D}
    if "G_ema" not in family:
        raise ToonError(f"{source} holds no generator: give a network that has one.")
    config = family["G_ema"].config
    if resolution not in config.head_resolutions or config.c_dim != pictures.label_dim:
        sides = ", ".join(map(str, config.head_resolutions))
        raise ToonError(
            f"{source} makes {sides} px pictures with labels of size {config.c_dim}, "
            f"the set has {resolution} px and {pictures.label_dim}: change --resolution or --cond."
        )
    trained = dict(family)
    if "G" not in trained:
        trained["G"] = trained.pop("G_ema")
    asked = {"stylegan2": Discriminator, "projected": ProjectedDiscriminator}.get(options.discriminator or "")
    if asked and not isinstance(trained.get("D"), asked):
        trained.pop("D", None)
    if "D" not in trained and asked is ProjectedDiscriminator:
        trained["D"] = projected(config, resolution)
    if "D" not in trained:
        channels = {name: size or getattr(config, name, None) for name, size in sizes.items()}
        trained["D"] = build(resolution, options.cfg, c_dim=config.c_dim, **channels)[1]
    return trained


def projected(config: Any, resolution: int | None = None) -> ProjectedDiscriminator:
    """A new projected discriminator for pictures of a generator of ``config``.

    Raises:
        ToonError: the generator is conditional, or the extra with the frozen network is not installed.
    """
    if config.c_dim:
        raise ToonError("A projected discriminator takes no labels: leave out --cond or --discriminator projected.")
    extractor("efficientnet-lite0")  # a missing extra is noticed here and not in the first step
    return ProjectedDiscriminator(ProjectedConfig(resolution or config.resolution, config.img_channels))


def check_precision(config: TrainConfig, device: torch.device, trained: Mapping[str, Any]) -> None:
    """Raise ToonError for a precision that would not work."""
    if config.dtype == "float16" and device.type != "cuda":
        raise ToonError("--dtype float16 trains on CUDA only: use bfloat16.")
    if config.dtype == "float16" and any(network.config.conv_clamp is None for network in trained.values()):
        raise ToonError("--dtype float16 needs networks with conv_clamp, and these have none: use bfloat16.")


def train_config(
    given: Mapping[str, Any], options: TrainOptions, resolution: int, snapshot: Snapshot | None = None
) -> TrainConfig:
    """The options ``given``, over those of the snapshot or, for a new training, the preset and the defaults."""
    if snapshot is not None:
        return replace(snapshot.config, **given)
    row = preset(options.cfg, resolution)
    usual: dict[str, Any] = {name: getattr(row, name) for name in FROM_PRESET}
    if options.init_from:
        # A network that has learnt pictures before needs no ramp, and overfits sooner (ADA, appendix).
        usual |= {"ema_rampup": None, "ada_kimg": 100.0}
    if options.discriminator == "projected":
        usual["gamma"] = 0.0  # as published: spectral norms take the place of R1
    return TrainConfig(**{**usual, **given})


def train(
    G: Generator,
    D: Discriminator | ProjectedDiscriminator,
    pictures: ImageDataset,
    folder: Path,
    config: TrainConfig,
    *,
    G_ema: Generator | None = None,
    pairs: PairDataset | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    metrics: Callable[[Generator], dict[str, float]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    sinks: Sequence[Sink] = (),
    resume: Snapshot | None = None,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    quiet: bool = True,
) -> Path:
    """Train ``G`` and ``D`` on ``pictures``.

    Args:
        G, D: the networks to train, on the device to train on. They change in place.
        pictures: the training set. Labels are used if the networks are conditional.
        folder: an existing folder; gets ``fakes-IMAGES.png``, ``snapshot-IMAGES/`` and ``network.safetensors``.
        config: how long and how to train.
        G_ema: where the moving average of G starts; a copy of G if None.
        pairs: pictures with known latents, for ``pairs_kimg`` and ``pairs_weight``.
        perceptual: distance of two batches of pictures, used on pairs beside L1.
        metrics: G_ema -> metrics by name, called by all processes at every snapshot.
        provenance: what the networks say about their making.
        sinks: where numbers and pictures go, see `training.log.open_sinks`.
        resume: a snapshot to go on from; ``G``, ``D`` and ``G_ema`` are those of the snapshot.
        group: the processes that train together.
        quiet: show no progress bar.

    Returns:
        path of ``network.safetensors`` (``G_ema`` and ``D``) in ``folder``.

    Raises:
        ToonError: options that do not fit the networks, a picture that cannot be read, or the training has diverged.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when a snapshot has been written.
    """
    task = StyleGAN2Task(
        G, D, pictures, config, G_ema=G_ema, pairs=pairs, perceptual=perceptual, metrics=metrics, group=group
    )
    return Trainer(task, folder, sinks=sinks, provenance=provenance, resume=resume, quiet=quiet).run()


def train_from_options(
    options: TrainOptions, given: Mapping[str, Any], out: Path, *, device: torch.device, overwrite: bool, quiet: bool
) -> Path | None:
    """Do what the command ``train`` is asked for; nothing is written before all options are checked.

    Args:
        options: what to train on, and what to start from.
        given: the fields of `TrainConfig` that the user has given.
        out: folder of the training.

    Returns:
        path of the file with the trained networks; None in all processes but the first.

    Raises:
        ToonError: options that do not fit together, a file that cannot be read, or a training that cannot go on.
    """
    if not options.resume:  # a wrong option ends the command before anything is loaded
        TrainConfig(**given)
    keep_pages()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = True  # sizes never change
    torch.manual_seed(given.get("seed", 0))
    with join_processes(device) as (group, device):
        snapshot = find_snapshot(options.resume, out, StyleGAN2Task) if options.resume else None
        if group.rank == 0 and snapshot is None and not overwrite:
            refuse_another(out)
        family: Mapping[str, Any] = {}
        if snapshot is not None:
            family = snapshot.networks
        elif options.init_from:
            family = load_family(options.init_from)
        pictures, resolution = _pictures(options, family)
        source = str(snapshot.path) if snapshot else str(options.init_from)
        trained = networks_to_train(family, source, pictures, resolution, options)
        config = train_config(given, options, resolution, snapshot)
        check_precision(config, device, trained)
        pairs = _pairs(options, config, resolution, None if family else trained["G"])
        features = options.pairs_features
        perceptual = VggLoss(None if features == "vgg" else features).to(device) if features else None
        metrics, panels = None, list(PANELS)
        if options.metrics:  # loads their networks, so that a missing one is noticed now and not at the first snapshot
            suite = Suite([name.strip() for name in options.metrics.split(",")], device=device)
            metrics = partial(evaluate, pictures=pictures, metrics=suite, samples=options.metrics_samples)
            panels += [(name,) for metric in suite.metrics for name in metric.results]
        task = StyleGAN2Task(
            **{name: network.to(device) for name, network in trained.items()}, pictures=pictures, config=config,
            pairs=pairs, perceptual=perceptual, metrics=metrics, group=group,
        )  # fmt: skip
        provenance = _provenance(options, given, family, snapshot)
        training = Trainer(task, out, provenance=provenance, resume=snapshot, quiet=quiet)
        if group.rank == 0:
            reals = [to_pil(pictures[row][0] / 127.5 - 1) for row in range(min(32, len(pictures.names)))]
            start_folder(output_folder(out), snapshot)
            save_image(image_grid(reals, columns=8), out / "reals.png")
            training.log.sinks += open_sinks(out, task.images_seen, wandb=options.wandb, config=asdict(config))
        try:
            final = training.run()
        except torch.OutOfMemoryError as error:
            raise ToonError("A step does not fit into memory: say --batch-gpu auto, or a smaller number.") from error
        if group.rank > 0:
            return None
        draw_log(out, panels)
        return final


def _pictures(options: TrainOptions, family: Mapping[str, Any]) -> tuple[ImageDataset, int]:
    """The training set, at the resolution asked for or that of the networks, and that resolution."""
    resolution = options.resolution
    if resolution is None and "G_ema" in family:
        resolution = family["G_ema"].config.resolution
    pictures = ImageDataset(
        options.data, resolution, resize=True, labels=options.cond, xflip=options.mirror, skip_bad=options.skip_bad
    )
    side = pictures.resolution
    if side is None or side < 8 or side & (side - 1):
        raise ToonError(f"The pictures are {side} px wide: say --resolution with a power of two, like 128.")
    return pictures, side


def _pairs(options: TrainOptions, config: TrainConfig, resolution: int, new: Any | None) -> PairDataset | None:
    """The pairs, if there are any; a ``new`` generator's mapping network is fitted to samples of w in their file."""
    if options.pairs is None:
        if config.pairs_kimg or config.pairs_weight or config.pairs_only:
            raise ToonError(NO_PAIRS)
        return None
    table = read_latents(options.pairs)
    pairs = PairDataset(ImageDataset(options.data, resolution, resize=True), table["w"])
    if "samples" in table and new is not None:
        fit_mapping(new.mapping, torch.from_numpy(table["samples"]))
    return pairs


def _provenance(
    options: TrainOptions, given: Mapping[str, Any], family: Mapping[str, Any], snapshot: Snapshot | None
) -> dict[str, Any]:
    """The provenance of what is trained; going on adds nothing to it."""
    if snapshot is not None:
        earlier = provenance_of(family["G_ema"])
        return {key: value for key, value in earlier.items() if key not in ("name", "sha256")}
    # Names, not paths: a checkpoint travels, and its folders on this machine say nothing on another.
    short = {
        key: value.rpartition("/")[2] if isinstance(value, str) else value for key, value in asdict(options).items()
    }
    short |= {key: value.name for key, value in short.items() if isinstance(value, Path)}
    return descend("train", {**short, **given}, [family["G_ema"]] if family else [], data=short["data"])

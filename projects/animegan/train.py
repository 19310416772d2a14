"""Train AnimeGANv2: photos in a drawn style, from unpaired sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from projects._common import ProjectConfig, ProjectTask, Start, add_up, fade_out, first_pictures, training_command
from stylegan_toon.config import Config, ConfigError, option
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.training.config import MOST
from stylegan_toon.training.optimise import frozen

from . import losses
from .edges import smooth_edges
from .features import Features, features
from .infer import stylise
from .model import (
    AnimeDiscriminator,
    AnimeDiscriminatorConfig,
    AnimeGenerator,
    AnimeGeneratorConfig,
)
from .presets import STYLES, Style

SHOWN = 8  # photos on the sheets; they also calibrate the feature network


@dataclass(frozen=True)
class Sources(Config):
    """What to train on, and the feature network."""

    photos: Path = option(help="Folder, zip or shards of photos.")
    drawings: Path = option(help="The same of drawings; they need not show the same things.")
    features: str = option(
        "auto", "Network that content and style are compared in: vgg19, vgg16, a .pth of torchvision's VGG19 or an "
        ".npz of VGG16; auto is vgg19, or vgg16 where that is not available.",
    )  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig(ProjectConfig):
    """How to train; the defaults are the published ones. ``config.toml`` replaces some of them for a CPU."""

    look: str = option("hayao", "Preset of loss weights.", choices=STYLES)
    content: float | None = option(None, "Weight of the content loss, instead of that of --look.", low=0)
    style: float | None = option(None, "Weight of the style loss, likewise.", low=0)
    colour: float | None = option(None, "Weight of the colour loss, likewise.", low=0)
    variation: float | None = option(None, "Weight of the total variation, likewise.", low=0)
    adversarial: float = option(300.0, "Weight of the adversarial losses, of both networks.", low=0)
    resolution: int = option(256, "Side in pixels that the sets are brought to.", low=32, high=4096)
    crop: int = option(256, "Side of the random crops that are trained on, a multiple of 8.", low=32, high=4096)
    channels: int = option(32, "Width of both networks, an even number.", low=8, high=256)
    start_kimg: float = option(
        66.0, "Thousands of pictures of the first phase, in which G learns to reproduce photos.", low=0, high=MOST
    )
    start: str = option(
        "content", "Loss of the first phase: content, as published, or pixels, which is cheaper.",
        choices=("content", "pixels"),
    )  # fmt: skip
    start_lr: float = option(2e-4, "Adam's learning rate of G in the first phase.", above=0)
    g_lr: float = option(2e-5, "Adam's learning rate of G after it.", above=0)
    d_lr: float = option(4e-5, "Adam's learning rate of D.", above=0)
    fade_kimg: float = option(0.0, "Thousands of pictures at the end over which the rates fall to 0.", low=0, high=MOST)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop > self.resolution or self.crop % 8:
            raise ConfigError(f"--crop is {self.crop}: give a multiple of 8 up to --resolution, {self.resolution}.")
        if self.channels % 2:
            raise ConfigError(f"--channels is {self.channels}: give an even number.")

    @property
    def weights(self) -> Style:
        """The look's weights, replaced by those that were given."""
        own = STYLES[self.look]
        given = {name: getattr(self, name) for name in ("content", "style", "colour", "variation")}
        return Style(**{k: getattr(own, k) if v is None else v for k, v in given.items()}, against=own.against)


class AnimeganTask(ProjectTask):
    """The generator and the discriminator of AnimeGANv2, trained in two phases that share the counters.

    Args:
        config: how to train.
        networks: ``G`` and ``D``, on the device to train on.
        photos, drawings: the sets.
        extractor: the calibrated network that content and style are compared in.
    """

    config_class = TrainingConfig
    published = ("G",)
    config: TrainingConfig

    def __init__(
        self,
        config: TrainingConfig,
        networks: Mapping[str, nn.Module],
        photos: ImageDataset,
        drawings: ImageDataset,
        extractor: Features,
    ) -> None:
        # G has another Adam in each phase: the gradients of the second are far larger, and with the moments of the
        # first its steps would be too long.
        adams = {
            name: torch.optim.Adam(networks[part].parameters(), config.start_lr, betas=(0.5, 0.999))
            for name, part in (("start", "G"), ("G", "G"), ("D", "D"))
        }
        super().__init__(config, networks, adams, {"photos": photos, "drawings": drawings})
        self.extractor, self.weights = extractor, config.weights
        self.G, self.D = self.network("G", AnimeGenerator), self.network("D", AnimeDiscriminator)
        self.shown = [to_pil(photo) for photo in first_pictures(photos, SHOWN, self.device)]

    def step(self, phase: str, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One step of the first phase, or one of D and then G of the second."""
        config = self.config
        photos = random_crop(batch["photos"], config.crop)
        if self.images < config.start_kimg * 1000:
            return self.start_step(photos)
        fade = fade_out(config.kimg, self.images, config.fade_kimg)
        self.set_learning_rate("G", config.g_lr * fade)
        self.set_learning_rate("D", config.d_lr * fade)
        drawings = random_crop(batch["drawings"], config.crop)
        with self.autocast():
            fake = self.G(photos)
        return self.discriminator_step(fake.detach(), drawings) | self.generator_step(fake, photos, drawings)

    def start_step(self, photos: Tensor) -> dict[str, Tensor]:
        """The first phase: G learns to reproduce photos."""
        with self.autocast():
            fake = self.G(photos)
        if self.config.start == "pixels":
            parts = {"pixels": F.l1_loss(fake.float(), photos)}
        else:
            with self.autocast(), torch.no_grad():
                wanted = self.extractor(photos)
            with self.autocast():
                parts = {"content": losses.content_loss(self.extractor(fake), wanted)}
        self.minimise("start", add_up(parts.values()))
        return parts

    def discriminator_step(self, fake: Tensor, drawings: Tensor) -> dict[str, Tensor]:
        """One step of D on drawings, generated pictures, grey drawings and drawings with smooth edges."""
        kinds = torch.cat([drawings, fake.float(), losses.to_grey(drawings), smoothed(drawings)])
        with self.autocast():
            drawn, made, grey, smooth = self.D(kinds).float().chunk(4)
        loss = losses.discriminator_loss(drawn, made, grey, smooth, weights=self.weights.against)
        self.minimise("D", self.config.adversarial * loss)
        return {"D": loss}

    def generator_step(self, fake: Tensor, photos: Tensor, drawings: Tensor) -> dict[str, Tensor]:
        """One step of G."""
        weights = self.weights
        with torch.no_grad(), self.autocast():
            content, style = self.extractor(torch.cat([photos, losses.to_grey(drawings)])).float().chunk(2)
        with frozen(self.D), self.autocast():
            scores, features = self.D(fake).float(), self.extractor(fake).float()
        fake = fake.float()
        parts = {
            "G": losses.generator_loss(scores),
            "content": losses.content_loss(features, content),
            "style": losses.style_loss(features, style),
            "colour": losses.colour_loss(fake, photos),
            "variation": losses.variation_loss(fake),
        }
        factors = [self.config.adversarial, weights.content, weights.style, weights.colour, weights.variation]
        self.minimise("G", add_up(factor * part for factor, part in zip(factors, parts.values())))
        return parts

    def samples(self) -> Image.Image:
        """A sheet of the same photos every time."""
        return sheet(self.G, self.shown)


def random_crop(img: Tensor, size: int) -> Tensor:
    """``[N, 3, R, R]`` -> ``[N, 3, size, size]``, every picture cropped and mirrored at random."""
    places = torch.randint(img.shape[2] - size + 1, (len(img), 2)).tolist()
    flips = (torch.rand(len(img)) < 0.5).tolist()
    cut = [picture[:, y : y + size, x : x + size] for picture, (y, x) in zip(img, places)]
    return torch.stack([picture.flip(2) if flip else picture for picture, flip in zip(cut, flips)])


def smoothed(drawn: Tensor) -> Tensor:
    """`edges.smooth_edges` of a batch ``[N, 3, H, W]`` in [-1, 1]."""
    pixels = (drawn * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    soft = torch.stack([torch.from_numpy(smooth_edges(picture)) for picture in pixels])
    return soft.permute(0, 3, 1, 2).to(drawn.device, torch.float32) / 127.5 - 1


def sheet(G: AnimeGenerator, photos: list[Image.Image]) -> Image.Image:
    """Photos, and below them the pictures that ``G`` makes of them."""
    return image_grid(photos + [stylise(G, photo) for photo in photos], len(photos), size=min(photos[0].width, 192))


def new_networks(config: TrainingConfig) -> dict[str, nn.Module]:
    """New networks ``G`` and ``D``."""
    return {
        "G": AnimeGenerator(AnimeGeneratorConfig(channels=config.channels)),
        "D": AnimeDiscriminator(AnimeDiscriminatorConfig(channels=config.channels)),
    }


@training_command(
    """python -m projects.animegan.train --photos faces.zip --drawings comic.zip --look comic
python -m projects.animegan.train --photos faces.zip --drawings comic.zip --resume auto""",
    AnimeganTask,
    Sources,
    Path(__file__).with_name("config.toml"),
    [["pixels"], ["G", "D"], ["content"], ["style"], ["colour"], ["variation"]],
)
def main(start: Start) -> Path:
    """Train a generator that gives photos the style of a set of drawings.

    Writes snapshots and fakes-NNNNNNNNN.png every --snapshot-kimg thousand pictures, log.jsonl, curves.png, and
    network.safetensors at the end.
    """
    config, sources = start.config, start.sources
    photos, drawings = (
        ImageDataset(path, config.resolution, resize=True, skip_bad=True) for path in (sources.photos, sources.drawings)
    )
    extractor = features(sources.features, say=lambda line: click.echo(line, err=True)).to(start.device)
    if start.snapshot is not None and start.provenance.get("features", extractor.name) != extractor.name:
        raise ToonError(f"This training compares with {start.provenance['features']}: give those --features again.")
    extractor.calibrate(first_pictures(photos, SHOWN, start.device))
    networks = start.networks(lambda: new_networks(config))
    for network in networks.values():
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return start.train(AnimeganTask(config, networks, photos, drawings, extractor), features=extractor.name)


if __name__ == "__main__":
    main()

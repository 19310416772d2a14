"""AnimeGANv2: photos learn to look painted from drawings of other things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from projects._common import Start, trainer
from stylegan_toon.config import Config, ConfigError, option
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.training.config import MOST
from stylegan_toon.training.run import Run, RunConfig
from stylegan_toon.training.update import untrained

from . import losses
from .edges import smooth_edges
from .features import Features, features
from .infer import paint
from .model import (
    AnimeDiscriminator,
    AnimeDiscriminatorConfig,
    AnimeGenerator,
    AnimeGeneratorConfig,
)
from .presets import STYLES, Style

SHOWN = 8  # photos on the sheets; the feature network's scale is chosen by them, too


@dataclass(frozen=True)
class Sources(Config):
    """What to train on, and what judges it."""

    photos: Path = option(help="Folder, zip or shards of photos.")
    drawings: Path = option(help="... of drawings; not of the same things.")
    features: str = option(
        "auto", "Network content and style are compared in: vgg19, vgg16, a .pth of torchvision's VGG19 or an .npz of "
        "VGG16; auto is vgg19, or vgg16 where that cannot be had.",
    )  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig(RunConfig):
    """How to train; the defaults are the published ones. ``config.toml`` replaces some of them for a CPU."""

    look: str = option("hayao", "Whose weights the losses have.", choices=STYLES)
    content: float | None = option(None, "Weight of the content loss, instead of the look's.", low=0)
    style: float | None = option(None, "... of the style loss.", low=0)
    colour: float | None = option(None, "... of the colour loss.", low=0)
    variation: float | None = option(None, "... of the total variation.", low=0)
    adversarial: float = option(300.0, "Weight of the adversarial losses, of both networks.", low=0)
    resolution: int = option(256, "Side in pixels that the sets are brought to.", low=32, high=4096)
    crop: int = option(256, "Side of the random crops that are trained on, a multiple of 8.", low=32, high=4096)
    channels: int = option(32, "Width of both networks, an even number.", low=8, high=256)
    start_kimg: float = option(
        66.0, "Thousands of pictures of the first phase, in which G shows what it sees.", low=0, high=MOST
    )
    start: str = option(
        "content", "What it learns from there: content, as published, or pixels, which is cheaper.",
        choices=("content", "pixels"),
    )  # fmt: skip
    start_lr: float = option(2e-4, "Adam's learning rate of G in the first phase.", above=0)
    g_lr: float = option(2e-5, "... of G after it.", above=0)
    d_lr: float = option(4e-5, "... of D.", above=0)
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


class AnimeGAN:
    """The two networks, what judges them, and one step."""

    def __init__(self, config: TrainingConfig, run: Run, judge: Features) -> None:
        self.config, self.run, self.judge, self.weights = config, run, judge, config.weights
        self.G: AnimeGenerator = run.networks["G"]
        self.D: AnimeDiscriminator = run.networks["D"]

    def step(self, batch: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """One batch of photos and drawings, float32 ``[N, 3, R, R]`` in [-1, 1]."""
        photos = random_crop(batch["photos"], self.config.crop)
        if self.run.counters.images < self.config.start_kimg * 1000:
            return self.start(photos)
        share = self.left()
        self.run.rate("G", self.config.g_lr * share)
        self.run.rate("D", self.config.d_lr * share)
        drawn = random_crop(batch["drawings"], self.config.crop)
        with self.run.autocast():
            painted = self.G(photos)
        return self.learn_to_tell(painted.detach(), drawn) | self.learn_to_paint(painted, photos, drawn)

    def left(self) -> float:
        """1, falling to 0 over the last ``fade_kimg``."""
        fade, images = self.config.fade_kimg * 1000, self.run.counters.images
        return min(1.0, (self.config.kimg * 1000 - images) / fade) if fade else 1.0

    def start(self, photos: Tensor) -> Mapping[str, Tensor]:
        """The first phase: G learns to show what it sees."""
        with self.run.autocast():
            painted = self.G(photos)
        if self.config.start == "pixels":
            terms = {"pixels": F.l1_loss(painted.float(), photos)}
        else:
            with self.run.autocast(), torch.no_grad():
                wanted = self.judge(photos)
            with self.run.autocast():
                terms = {"content": losses.content_loss(self.judge(painted), wanted)}
        self.run.minimise("start", sum(terms.values()))
        return terms

    def learn_to_tell(self, painted: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """One step of D."""
        kinds = torch.cat([drawn, painted.float(), losses.to_grey(drawn), smoothed(drawn)])
        with self.run.autocast():
            scores = self.D(kinds).float().chunk(4)
        loss = losses.discriminator_loss(*scores, weights=self.weights.against)
        self.run.minimise("D", self.config.adversarial * loss)
        return {"D": loss}

    def learn_to_paint(self, painted: Tensor, photos: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """One step of G."""
        weights = self.weights
        with torch.no_grad(), self.run.autocast():
            seen, stroke = self.judge(torch.cat([photos, losses.to_grey(drawn)])).float().chunk(2)
        with untrained(self.D), self.run.autocast():
            scores, shown = self.D(painted).float(), self.judge(painted).float()
        painted = painted.float()
        terms = {
            "G": losses.generator_loss(scores),
            "content": losses.content_loss(shown, seen),
            "style": losses.style_loss(shown, stroke),
            "colour": losses.colour_loss(painted, photos),
            "variation": losses.variation_loss(painted),
        }
        weighted = [self.config.adversarial, weights.content, weights.style, weights.colour, weights.variation]
        self.run.minimise("G", sum(weight * term for weight, term in zip(weighted, terms.values())))
        return terms


def random_crop(img: Tensor, size: int) -> Tensor:
    """``[N, 3, R, R]`` -> ``[N, 3, size, size]``, every picture cut and mirrored by chance."""
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
    """Photos, and below them what ``G`` makes of them."""
    return image_grid(photos + [paint(G, photo) for photo in photos], len(photos), size=min(photos[0].width, 192))


def new_networks(config: TrainingConfig) -> dict[str, torch.nn.Module]:
    return {
        "G": AnimeGenerator(AnimeGeneratorConfig(channels=config.channels)),
        "D": AnimeDiscriminator(AnimeDiscriminatorConfig(channels=config.channels)),
    }


@trainer(
    """python -m projects.animegan.train --photos faces.zip --drawings comic.zip --look comic
python -m projects.animegan.train --photos faces.zip --drawings comic.zip --resume auto""",
    TrainingConfig,
    Sources,
    Path(__file__).with_name("config.toml"),
    [["pixels"], ["G", "D"], ["content"], ["style"], ["colour"], ["variation"]],
)
def main(start: Start) -> Path:
    """Teach a generator to paint photos in the manner of drawings.

    Writes fakes-NNNNNNNNN.png now and then, snapshots, log.jsonl, curves.png, and network.safetensors at the end.
    """
    config: TrainingConfig = start.config
    sets = {
        name: ImageDataset(place, config.resolution, resize=True, skip_bad=True)
        for name, place in (("photos", start.sources.photos), ("drawings", start.sources.drawings))
    }
    judge = features(start.sources.features, say=lambda line: click.echo(line, err=True)).to(start.device)
    if start.saved is not None and start.provenance.get("features", judge.name) != judge.name:
        raise ToonError(f"This training compares with {start.provenance['features']}: give those --features again.")
    some = torch.stack([sets["photos"][i % len(sets["photos"])][0] for i in range(SHOWN)])
    some = some.to(start.device, torch.float32) / 127.5 - 1
    judge.calibrate(some)

    made = start.saved.networks if start.saved else new_networks(config)
    networks = {name: made[name].to(start.device, memory_format=torch.channels_last) for name in ("G", "D")}
    # G has another Adam in each phase: the gradients of the second are far larger, and would be divided by what was
    # remembered of the first's.
    optimizers = {
        name: torch.optim.Adam(networks[which].parameters(), config.start_lr, betas=(0.5, 0.999))
        for name, which in (("start", "G"), ("G", "G"), ("D", "D"))
    }
    run = Run(
        start.folder, config, networks, optimizers, provenance={**start.provenance, "features": judge.name},
        sinks=start.sinks, quiet=start.quiet, resume=start.saved,
    )  # fmt: skip
    model = AnimeGAN(config, run, judge)
    shown = [to_pil(photo) for photo in some]
    return run.train(sets, model.step, lambda: sheet(model.G, shown), publish=["G"])


if __name__ == "__main__":
    main()

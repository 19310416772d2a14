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
from stylegan_toon import cli
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.training.config import RunConfig, setting
from stylegan_toon.training.run import Run
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
class AnimeConfig(RunConfig):
    """Options of a training; the defaults are the published ones."""

    look: str = setting("hayao", f"Whose weights the losses have: {', '.join(STYLES)}.")
    content: float | None = setting(None, "Weight of the content loss, instead of the look's.")
    style: float | None = setting(None, "... of the style loss.")
    colour: float | None = setting(None, "... of the colour loss.")
    variation: float | None = setting(None, "... of the total variation.")
    adversarial: float = setting(300.0, "Weight of the adversarial losses, of both networks.")
    resolution: int = setting(256, "Side in pixels that the sets are brought to.")
    crop: int = setting(256, "Side of the random crops that are trained on.")
    channels: int = setting(32, "Width of both networks.")
    start_kimg: float = setting(66.0, "Thousands of pictures of the first phase, in which G shows what it sees.")
    start: str = setting("content", "What it learns from there: content, as published, or pixels, which is cheaper.")
    start_lr: float = setting(2e-4, "Adam's rate of G in the first phase.")
    g_lr: float = setting(2e-5, "... of G after it.")
    d_lr: float = setting(4e-5, "... of D.")
    fade_kimg: float = setting(0.0, "Thousands of pictures at the end over which the rates fall to 0.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.look not in STYLES:
            raise ValueError(f"look is {self.look!r}, not one of {', '.join(STYLES)}")
        if self.start not in ("content", "pixels"):
            raise ValueError(f"start is {self.start!r}, not content or pixels")
        if not 32 <= self.crop <= self.resolution or self.crop % 8:
            raise ValueError("crop must be a multiple of 8 from 32 up to resolution")

    @property
    def weights(self) -> Style:
        """The look's weights, with what was given instead."""
        known = STYLES[self.look]
        given = {name: getattr(self, name) for name in ("content", "style", "colour", "variation")}
        return Style(**{k: getattr(known, k) if v is None else v for k, v in given.items()}, against=known.against)


class AnimeGAN:
    """The two networks, what judges them, and one step."""

    def __init__(self, config: AnimeConfig, run: Run, judge: Features) -> None:
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


def new_networks(config: AnimeConfig) -> dict[str, torch.nn.Module]:
    return {
        "G": AnimeGenerator(AnimeGeneratorConfig(channels=config.channels)),
        "D": AnimeDiscriminator(AnimeDiscriminatorConfig(channels=config.channels)),
    }


@trainer(
    """python -m projects.animegan.train --photos faces.zip --drawings comic.zip --look comic
python -m projects.animegan.train --photos faces.zip --drawings comic.zip --resume auto""",
    AnimeConfig,
    Path(__file__).with_name("config.toml"),
    [["pixels"], ["G", "D"], ["content"], ["style"], ["colour"], ["variation"]],
)
@click.option("--photos", type=cli.PATH, required=True, help="Folder, zip or shards of photos.")
@click.option("--drawings", type=cli.PATH, required=True, help="... of drawings; not of the same things.")
@click.option(
    "--features", "choice", default="auto",
    help="Network content and style are compared in: vgg19, vgg16, a .pth of torchvision's VGG19 or an .npz of "
    "VGG16; auto is vgg19, or vgg16 where that cannot be had.",
)  # fmt: skip
def main(start: Start, photos: Path, drawings: Path, choice: str) -> Path:
    """Teach a generator to paint photos in the manner of drawings.

    Writes fakes-NNNNNNNNN.png now and then, snapshots, log.jsonl, curves.png, and network.safetensors at the end.
    """
    config: AnimeConfig = start.config
    sets = {
        name: ImageDataset(place, config.resolution, resize=True, skip_bad=True)
        for name, place in (("photos", photos), ("drawings", drawings))
    }
    judge = features(choice, say=lambda line: click.echo(line, err=True)).to(start.device)
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

"""XGAN: faces and cartoons share an embedding, so that one can be decoded as the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from projects._common import Start, trainer
from stylegan_toon.config import Config, option
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.features.identity import FaceEmbedder, face_embedder
from stylegan_toon.training.config import MOST
from stylegan_toon.training.run import Run, RunConfig
from stylegan_toon.training.update import untrained
from stylegan_toon.weights import save_networks

from . import losses
from .model import PAINTERS, RESOLUTIONS, Xgan, XganConfig, new_networks
from .noise import corrupt

SHOWN = 8


@dataclass(frozen=True)
class Sources(Config):
    """What to train on."""

    faces: Path = option(help="Folder, zip or shards of aligned faces on white.")
    cartoons: Path = option(help="... of cartoons.")
    identity: str = option("dlib", "The teacher, if it has a weight: dlib, facenet or a file.")


@dataclass(frozen=True)
class TrainingConfig(RunConfig):
    """How to train. ``config.toml`` replaces some of the defaults for a CPU."""

    resolution: int = option(64, "Side of the pictures: 32, 64, 128 or 256.", choices=RESOLUTIONS)
    channels: int = option(32, "Width of the first layer; 32 is published.", low=4, high=4096)
    embedding: int = option(1024, "Length of the embedding; 1024 is published.", low=4, high=4096)
    disc_channels: int = option(32, "Width of the discriminators.", low=4, high=4096)
    lr: float = option(2e-4, "Adam's learning rate of everything but the discriminators.", above=0)
    d_lr: float = option(2e-4, "... of the discriminators.", above=0)
    reconstruction: float = option(1.0, "Weight of coming back the same through one's own decoder.", low=0)
    domain: float = option(1.0, "... of embeddings that do not tell their domain.", low=0)
    semantic: float = option(0.5, "... of embeddings that translation does not change.", low=0)
    adversarial: float = option(1.0, "... of translations that look real.", low=0)
    teacher: float = option(0.0, "... of a face recogniser's opinion; 0 = none.", low=0)
    fade_kimg: float = option(0.0, "Thousands of pictures at the end over which the rates fall to 0.", low=0, high=MOST)

    @property
    def sizes(self) -> XganConfig:
        """Sizes of all networks."""
        return XganConfig(self.resolution, self.channels, self.embedding, self.disc_channels)


class Trainer:
    """One step, and who learns from it."""

    def __init__(self, config: TrainingConfig, run: Run, teacher: FaceEmbedder | None = None) -> None:
        self.config, self.run, self.teacher = config, run, teacher
        self.xgan = Xgan(run.networks)
        self.critics = nn.ModuleList([run.networks["disc1"], run.networks["disc2"]])

    def step(self, batch: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """One batch of faces and of cartoons, float32 ``[N, 3, R, R]`` in [-1, 1] each."""
        config, run = self.config, self.run
        images, total, fade = run.counters.images, config.kimg * 1000, config.fade_kimg * 1000
        left = min(1.0, (total - images) / fade) if fade else 1.0
        for name, rate in (("G", config.lr), ("D", config.d_lr), ("denoiser", config.lr)):
            run.rate(name, rate * left)

        pictures = [mirrored(batch["faces"]), mirrored(batch["cartoons"])]
        with run.autocast():
            terms, translated = self.translator_terms(pictures, losses.reversal_strength(images / total))
            weights = [config.reconstruction, config.domain, config.semantic, config.adversarial, config.teacher]
            loss = sum(weight * term for weight, term in zip(weights, terms.values()))
        run.minimise("G", loss)
        with run.autocast():
            terms["D"] = self.critic_loss(pictures, [img.detach() for img in translated])
        run.minimise("D", terms["D"])
        with run.autocast():
            cleaned = run.networks["denoiser"](corrupt(pictures[1]))
            terms["denoiser"] = losses.reconstruction_loss(cleaned, pictures[1])
        run.minimise("denoiser", terms["denoiser"])
        return terms

    def translator_terms(self, pictures: list[Tensor], strength: float) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Losses of encoders, decoders and domain classifier, and the translations: ``[as cartoons, as faces]``."""
        xgan, networks = self.xgan, self.run.networks
        seen = [xgan.encode(img, domain) for domain, img in enumerate(pictures)]
        same = [xgan.decode(z, domain) for domain, z in enumerate(seen)]
        other = [xgan.decode(z, 1 - domain) for domain, z in enumerate(seen)]
        again = [xgan.encode(img, 1 - domain) for domain, img in enumerate(other)]
        told = [networks["c_dann"](losses.reverse_gradient(z, strength)) for z in seen]
        with untrained(self.critics):
            scores = [networks["disc2"](other[0]), networks["disc1"](other[1])]
        terms = {
            "reconstruction": sum(losses.reconstruction_loss(a, b) for a, b in zip(same, pictures)),
            "domain": sum(losses.domain_loss(logits, domain) for domain, logits in enumerate(told)) / 2,
            "semantic": sum(losses.semantic_loss(before, after) for before, after in zip(seen, again)),
            "G": sum(losses.adversarial_loss(score, real=True) for score in scores),
        }
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(pictures[0])
            terms["teacher"] = losses.teacher_loss(seen[0], taught)
        return terms, other

    def critic_loss(self, pictures: list[Tensor], translated: list[Tensor]) -> Tensor:
        """What the discriminators of faces and cartoons minimise."""
        total = 0.0
        for name, real, fake in zip(("disc1", "disc2"), pictures, translated[::-1]):
            critic = self.run.networks[name]
            total = total + losses.adversarial_loss(critic(real), real=True)
            total = total + losses.adversarial_loss(critic(fake), real=False)
        return total


def mirrored(img: Tensor) -> Tensor:
    """Every other picture as in a mirror, by chance."""
    flips = torch.rand(len(img), device=img.device) < 0.5
    return torch.where(flips[:, None, None, None], img.flip(3), img)


def sheet(xgan: Xgan, faces: Tensor, cartoons: Tensor) -> Image.Image:
    """Faces, their cartoons before and after cleaning; cartoons and their faces."""
    rows = [faces, xgan.translate(faces, 0, clean=False), xgan.translate(faces, 0), cartoons]
    rows.append(xgan.translate(cartoons, 1))
    labels = ["faces", "as cartoons", "cleaned", "cartoons", "as faces"]
    pictures = [to_pil(img) for row in rows for img in row]
    return image_grid(pictures, len(faces), size=96, row_labels=labels)


@trainer(
    """python -m projects.xgan.train --faces faces-white.zip --cartoons avatars.zip
python -m projects.xgan.train --faces faces-white.zip --cartoons avatars.zip --resume auto""",
    TrainingConfig,
    Sources,
    Path(__file__).with_name("config.toml"),
    [["reconstruction"], ["domain"], ["semantic"], ["G", "D"], ["denoiser"], ["teacher"]],
)
def main(start: Start) -> Path:
    """Teach an embedding that faces and cartoons share, and decoders for both.

    Writes fakes-NNNNNNNNN.png now and then, snapshots, log.jsonl and curves.png; at the end network.safetensors with
    what paints, and every component by itself in components/.
    """
    config: TrainingConfig = start.config
    sets = {
        name: ImageDataset(place, config.resolution, resize=True, skip_bad=True)
        for name, place in (("faces", start.sources.faces), ("cartoons", start.sources.cartoons))
    }
    made = start.saved.networks if start.saved else new_networks(config.sizes)
    networks = {name: network.to(start.device) for name, network in made.items()}
    groups = {
        "G": [name for name in networks if name not in ("disc1", "disc2", "denoiser")],
        "D": ["disc1", "disc2"],
        "denoiser": ["denoiser"],
    }
    optimizers = {
        name: torch.optim.Adam(chain(*(networks[part].parameters() for part in parts)), config.lr, betas=(0.5, 0.999))
        for name, parts in groups.items()
    }
    teacher = None
    if config.teacher:
        teacher = face_embedder(start.sources.identity, device=start.device)
        length = teacher(torch.zeros(1, 3, config.resolution, config.resolution, device=start.device)).shape[1]
        if length > config.embedding:
            raise ToonError(f"The teacher's embedding has {length} entries: --embedding must be at least as long.")
    run = Run(
        start.folder, config, networks, optimizers, provenance=start.provenance, sinks=start.sinks, quiet=start.quiet,
        resume=start.saved,
    )  # fmt: skip
    model = Trainer(config, run, teacher)
    some = [
        torch.stack([sets[name][i % len(sets[name])][0] for i in range(SHOWN)]).to(start.device, torch.float32)
        / 127.5 - 1
        for name in ("faces", "cartoons")
    ]  # fmt: skip
    final = run.train(sets, model.step, lambda: sheet(model.xgan, *some), publish=PAINTERS)
    components = start.folder / "components"
    components.mkdir(exist_ok=True)
    for name, network in networks.items():
        save_networks(components / f"{name}.safetensors", {name: network}, provenance=start.provenance, overwrite=True)
    return final


if __name__ == "__main__":
    main()

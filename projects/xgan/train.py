"""Train an XGAN: faces and cartoons share an embedding, so that each can be decoded as the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from projects._common import ProjectConfig, ProjectTask, Start, add_up, fade_out, first_pictures, training_command
from stylegan_toon.config import Config, option
from stylegan_toon.data.datasets import ImageDataset
from stylegan_toon.data.images import image_grid, to_pil
from stylegan_toon.errors import ToonError
from stylegan_toon.features.identity import FaceEmbedder, face_embedder
from stylegan_toon.training.config import MOST
from stylegan_toon.training.optimise import frozen
from stylegan_toon.weights import save_networks

from . import losses
from .model import RESOLUTIONS, TRANSLATOR, Xgan, XganConfig, new_networks
from .noise import corrupt

SHOWN = 8


@dataclass(frozen=True)
class Sources(Config):
    """What to train on."""

    faces: Path = option(help="Folder, zip or shards of aligned faces on white.")
    cartoons: Path = option(help="The same of cartoons.")
    identity: str = option("dlib", "Face recogniser for --teacher: dlib, facenet or a file.")


@dataclass(frozen=True)
class TrainingConfig(ProjectConfig):
    """How to train. ``config.toml`` replaces some of the defaults for a CPU."""

    resolution: int = option(64, "Side of the pictures: 32, 64, 128 or 256.", choices=RESOLUTIONS)
    channels: int = option(32, "Width of the first layer; 32 is published.", low=4, high=4096)
    embedding: int = option(1024, "Length of the embedding; 1024 is published.", low=4, high=4096)
    disc_channels: int = option(32, "Width of the discriminators.", low=4, high=4096)
    lr: float = option(2e-4, "Adam's learning rate of everything but the discriminators.", above=0)
    d_lr: float = option(2e-4, "Adam's learning rate of the discriminators.", above=0)
    reconstruction: float = option(1.0, "Weight of the reconstruction loss, through a domain's own decoder.", low=0)
    domain: float = option(1.0, "Weight of the domain loss: embeddings should not show their domain.", low=0)
    semantic: float = option(0.5, "Weight of the semantic loss: translation should keep the embedding.", low=0)
    adversarial: float = option(1.0, "Weight of the adversarial loss of translations.", low=0)
    teacher: float = option(0.0, "Weight of the distance to a face recogniser's embedding; 0: none.", low=0)
    fade_kimg: float = option(0.0, "Thousands of pictures at the end over which the rates fall to 0.", low=0, high=MOST)

    @property
    def sizes(self) -> XganConfig:
        """Sizes of all networks."""
        return XganConfig(self.resolution, self.channels, self.embedding, self.disc_channels)


class XganTask(ProjectTask):
    """Encoders, decoders and domain classifier; discriminators; and the denoiser: one optimiser each.

    Args:
        config: how to train.
        networks: those of `model.new_networks`, on the device to train on.
        faces, cartoons: the sets.
        teacher: a face recogniser, if any; the first entries of the embedding of faces learn to be its output.
    """

    config_class = TrainingConfig
    published = TRANSLATOR
    config: TrainingConfig

    def __init__(
        self,
        config: TrainingConfig,
        networks: Mapping[str, nn.Module],
        faces: ImageDataset,
        cartoons: ImageDataset,
        teacher: FaceEmbedder | None = None,
    ) -> None:
        names = {"D": ["disc1", "disc2"], "denoiser": ["denoiser"]}
        names["G"] = [name for name in networks if name not in ("disc1", "disc2", "denoiser")]
        adams = {
            name: torch.optim.Adam(
                chain(*(networks[part].parameters() for part in names[name])), config.lr, betas=(0.5, 0.999)
            )
            for name in ("G", "D", "denoiser")
        }
        super().__init__(config, networks, adams, {"faces": faces, "cartoons": cartoons})
        self.teacher, self.xgan = teacher, Xgan(self.networks)
        self.discriminators = nn.ModuleList([self.networks["disc1"], self.networks["disc2"]])
        self.shown = [first_pictures(data, SHOWN, self.device) for data in (faces, cartoons)]

    def step(self, phase: str, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One step of the translator, of the discriminators and of the denoiser."""
        config = self.config
        fade = fade_out(config.kimg, self.images, config.fade_kimg)
        for name, lr in (("G", config.lr), ("D", config.d_lr), ("denoiser", config.lr)):
            self.set_learning_rate(name, lr * fade)

        pictures = [mirrored(batch["faces"]), mirrored(batch["cartoons"])]
        with self.autocast():
            strength = losses.reversal_strength(self.images / (config.kimg * 1000))
            log, translated = self.translator_losses(pictures, strength)
            weights = [config.reconstruction, config.domain, config.semantic, config.adversarial, config.teacher]
            loss = add_up(weight * part for weight, part in zip(weights, log.values()))
        self.minimise("G", loss)
        with self.autocast():
            log["D"] = self.discriminator_loss(pictures, [img.detach() for img in translated])
        self.minimise("D", log["D"])
        with self.autocast():
            cleaned = self.networks["denoiser"](corrupt(pictures[1]))
            log["denoiser"] = losses.reconstruction_loss(cleaned, pictures[1])
        self.minimise("denoiser", log["denoiser"])
        return log

    def translator_losses(self, pictures: list[Tensor], strength: float) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Losses of encoders, decoders and domain classifier, and the translations: ``[as cartoons, as faces]``.

        ``strength`` is that of the reversed gradient of the domain classifier, 0 to 1.
        """
        xgan, networks = self.xgan, self.networks
        embeddings = [xgan.encode(img, domain) for domain, img in enumerate(pictures)]
        same = [xgan.decode(z, domain) for domain, z in enumerate(embeddings)]
        other = [xgan.decode(z, 1 - domain) for domain, z in enumerate(embeddings)]
        again = [xgan.encode(img, 1 - domain) for domain, img in enumerate(other)]
        domains = [networks["c_dann"](losses.reverse_gradient(z, strength)) for z in embeddings]
        with frozen(self.discriminators):
            scores = [networks["disc2"](other[0]), networks["disc1"](other[1])]
        parts = {
            "reconstruction": add_up(losses.reconstruction_loss(a, b) for a, b in zip(same, pictures)),
            "domain": add_up(losses.domain_loss(logits, domain) for domain, logits in enumerate(domains)) / 2,
            "semantic": add_up(losses.semantic_loss(before, after) for before, after in zip(embeddings, again)),
            "G": add_up(losses.adversarial_loss(score, real=True) for score in scores),
        }
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(pictures[0])
            parts["teacher"] = losses.teacher_loss(embeddings[0], taught)
        return parts, other

    def discriminator_loss(self, pictures: list[Tensor], translated: list[Tensor]) -> Tensor:
        """The loss of the discriminators of faces and cartoons."""
        parts: list[Tensor] = []
        for name, real, fake in zip(("disc1", "disc2"), pictures, translated[::-1]):
            discriminator = self.networks[name]
            parts.append(losses.adversarial_loss(discriminator(real), real=True))
            parts.append(losses.adversarial_loss(discriminator(fake), real=False))
        return add_up(parts)

    def samples(self) -> Image.Image:
        """A sheet of the same pictures every time."""
        return sheet(self.xgan, *self.shown)


def mirrored(img: Tensor) -> Tensor:
    """Each picture ``[N, 3, R, R]`` mirrored with probability 1/2."""
    flips = torch.rand(len(img), device=img.device) < 0.5
    return torch.where(flips[:, None, None, None], img.flip(3), img)


def sheet(xgan: Xgan, faces: Tensor, cartoons: Tensor) -> Image.Image:
    """Faces, their cartoons before and after cleaning; cartoons and their faces."""
    rows = [faces, xgan.translate(faces, 0, clean=False), xgan.translate(faces, 0), cartoons]
    rows.append(xgan.translate(cartoons, 1))
    labels = ["faces", "as cartoons", "cleaned", "cartoons", "as faces"]
    pictures = [to_pil(img) for row in rows for img in row]
    return image_grid(pictures, len(faces), size=96, row_labels=labels)


@training_command(
    """python -m projects.xgan.train --faces faces-white.zip --cartoons avatars.zip
python -m projects.xgan.train --faces faces-white.zip --cartoons avatars.zip --resume auto""",
    XganTask,
    Sources,
    Path(__file__).with_name("config.toml"),
    [["reconstruction"], ["domain"], ["semantic"], ["G", "D"], ["denoiser"], ["teacher"]],
)
def main(start: Start) -> Path:
    """Train an embedding that faces and cartoons share, and decoders for both.

    Writes snapshots and fakes-NNNNNNNNN.png every --snapshot-kimg thousand pictures, log.jsonl and curves.png; at the
    end network.safetensors with the translator, and every component by itself in components/.
    """
    config, sources = start.config, start.sources
    faces, cartoons = (
        ImageDataset(path, config.resolution, resize=True, skip_bad=True) for path in (sources.faces, sources.cartoons)
    )
    networks = start.networks(lambda: new_networks(config.sizes))
    teacher = None
    if config.teacher:
        teacher = face_embedder(sources.identity, device=start.device)
        length = teacher(torch.zeros(1, 3, config.resolution, config.resolution, device=start.device)).shape[1]
        if length > config.embedding:
            raise ToonError(f"The teacher's embedding has {length} entries: --embedding must be at least as long.")
    final = start.train(XganTask(config, networks, faces, cartoons, teacher))
    components = start.folder / "components"
    components.mkdir(exist_ok=True)
    for name, network in networks.items():
        save_networks(components / f"{name}.safetensors", {name: network}, provenance=start.provenance, overwrite=True)
    return final


if __name__ == "__main__":
    main()

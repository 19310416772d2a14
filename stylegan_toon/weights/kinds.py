"""The kinds of networks that a checkpoint may hold; the module of a kind is imported when it is first needed."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from ..errors import ToonError

# kind -> "module:config dataclass,network class as `assemble` takes it"
KINDS: dict[str, str] = {
    "generator": "stylegan_toon.models.stylegan2:GeneratorConfig,Generator",
    "mobile-generator": "stylegan_toon.models.mobile:MobileConfig,MobileGenerator",
    "discriminator": "stylegan_toon.models.discriminator:DiscriminatorConfig,Discriminator",
    "projected-discriminator": "stylegan_toon.features.projected:ProjectedConfig,ProjectedDiscriminator",
    "vgg16": "stylegan_toon.features.vgg:VggConfig,Vgg16",
    "dlib-identity": "stylegan_toon.features.dlib:DlibConfig,DlibNetwork",
    "faceres-identity": "stylegan_toon.features.faceres:FaceresConfig,FaceresNetwork",
    "face-mesh": "stylegan_toon.faces.mesh_network:FaceMeshConfig,FaceMesh",
    "person": "stylegan_toon.faces.person_network:PersonConfig,PersonNetwork",
    "directions": "stylegan_toon.models.directions:DirectionsConfig,Directions",
    "encoder": "stylegan_toon.inversion.encoder:EncoderConfig,Encoder",
    # Networks of projects/, which is part of the repository and not of an installed package.
    "animegan-generator": "projects.animegan.model:AnimeGeneratorConfig,AnimeGenerator",
    "animegan-discriminator": "projects.animegan.model:AnimeDiscriminatorConfig,AnimeDiscriminator",
    "cyclegan-generator": "projects.cyclegan.model:GeneratorConfig,Generator",
    "cyclegan-discriminator": "projects.cyclegan.model:DiscriminatorConfig,Discriminator",
    "dcgan-generator": "projects.dcgan.model:GeneratorConfig,Generator",
    "dcgan-discriminator": "projects.dcgan.model:DiscriminatorConfig,Discriminator",
    "xgan-encoder": "projects.xgan.model:XganConfig,Encoder",
    "xgan-sharedencoder": "projects.xgan.model:XganConfig,SharedEncoder",
    "xgan-shareddecoder": "projects.xgan.model:XganConfig,SharedDecoder",
    "xgan-decoder": "projects.xgan.model:XganConfig,Decoder",
    "xgan-denoiser": "projects.xgan.model:XganConfig,Denoiser",
    "xgan-discriminator": "projects.xgan.model:XganConfig,Discriminator",
    "xgan-domainclassifier": "projects.xgan.model:XganConfig,DomainClassifier",
}


def kind_of(network: nn.Module) -> str:
    """The key of `KINDS` that a network is saved under.

    Raises:
        ValueError: its class is not in the table.
    """
    cls = type(network)
    for kind, place in KINDS.items():
        module, _, names = place.partition(":")
        if (cls.__module__, cls.__qualname__) == (module, names.partition(",")[2]):
            return kind
    raise ValueError(f"a {cls.__name__} has no kind in KINDS and cannot be saved")


def classes_of(kind: str) -> tuple[type, type[nn.Module]]:
    """The config dataclass and the network class of a kind.

    Raises:
        ToonError: they belong to a project, and its folder is not there.
    """
    place, _, names = KINDS[kind].partition(":")
    try:
        module = import_module(place)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "projects":
            raise
        raise ToonError(
            f"Networks of the kind {kind} need {place.replace('.', '/')}.py of the repository: run this in a checkout."
        ) from error
    config, network = names.split(",")
    return getattr(module, config), getattr(module, network)

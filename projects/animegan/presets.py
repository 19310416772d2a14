"""Loss weights of each style. All but `comic` are those published for AnimeGANv2."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """Weights of the losses of one style.

    Attributes:
        content, style, colour, variation: of the losses of these names.
        against: of the discriminator's four kinds of pictures: drawn, generated, grey, smooth.
    """

    content: float
    style: float
    colour: float
    variation: float
    against: tuple[float, float, float, float]


# The published program combines the discriminator weights of Shinkai with the other weights of Hayao.
STYLES = {
    "hayao": Style(1.5, 2.5, 15, 1, (1.2, 1.2, 1.2, 0.8)),
    "paprika": Style(2.0, 0.6, 50, 0.1, (1.0, 1.0, 1.0, 0.005)),
    "shinkai": Style(1.2, 2.0, 10, 1, (1.7, 1.7, 1.7, 1.0)),
    # For drawings by `stylegan-toon dataset draw --style comic`, with --adversarial 250. Colour has a large weight,
    # because these drawings have the colours of the photos.
    "comic": Style(1.0, 1.0, 1500, 1, (1.2, 1.2, 0.6, 0.6)),
}

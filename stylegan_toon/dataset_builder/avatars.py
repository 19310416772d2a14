"""Vector avatars, drawn offline by DiceBear, as a cartoon set of any size.

The designs belong to their artists; each style's licence is written into the set.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from PIL import Image

from ..errors import ToonError
from .build import Processed
from .filters import perceptual_hash
from .recipe import Outcome, encoded

FRONTAL = ("toon-head", "personas", "avataaars")  # these face the viewer
PASTEL = ["b6e3f4", "c0aede", "d1d4f9", "ffd5dc", "ffdfbf", "d5f0d2"]


@dataclass(frozen=True)
class Avatars:
    """Draws avatar ``index``: the same picture for the same arguments and version of the styles on every machine.

    Args:
        styles: names of DiceBear styles; picture i has the (i modulo their number)-th.
        size: side in pixels.
        seed: of all random choices.
        background: "pastel" (one of six colours) or "white".
        format: suffix of the pictures, see `recipe.FORMATS`.
        crop: left, upper and side of the square that is kept, as parts of the drawing's side.

    Raises:
        ToonError: the packages are missing, or a style is, or the crop is not within the drawing.
    """

    styles: tuple[str, ...] = FRONTAL
    size: int = 256
    seed: int = 0
    background: str = "pastel"
    format: str = "png"
    crop: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        left, upper, part = self.crop
        if min(left, upper) < 0 or part <= 0 or max(left, upper) + part > 1:
            raise ToonError("A crop is left, upper and side as parts of the drawing, such as 0.15,0.18,0.7.")
        self.licences()

    def __call__(self, index: int) -> Processed:
        number = index % len(self.styles)
        image = self.draw(index)
        name = f"{self.styles[number]}/{self.seed}-{index}"
        return name, number, [Outcome(None, encoded(image, self.format), perceptual_hash(image))]

    def draw(self, index: int) -> Image.Image:
        """Avatar ``index``, RGB."""
        from dicebear import Avatar
        from resvg_py import svg_to_bytes

        colours = ["ffffff"] if self.background == "white" else PASTEL
        options = {"seed": f"{self.seed}-{index}", "backgroundColor": colours}
        svg = Avatar(_style(self.styles[index % len(self.styles)]), options).to_string()
        left, upper, part = self.crop
        side = round(self.size / part)
        png = svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
        x, y = (min(round(share * side), side - self.size) for share in (left, upper))
        return Image.open(io.BytesIO(bytes(png))).convert("RGB").crop((x, y, x + self.size, y + self.size))

    def licences(self) -> list[dict[str, str | None]]:
        """Style, artist, source and licence, in the order of ``styles``."""
        rows = []
        for name in self.styles:
            meta = _style(name).meta()
            rows.append(
                {
                    "style": name,
                    "artist": meta.creator().name(),
                    "source": meta.source().url(),
                    "licence": meta.license().name(),
                    "licence_url": meta.license().url(),
                    "credit": meta.license().text(),
                }
            )
        return rows

    def versions(self) -> dict[str, str]:
        """Versions of the packages that the pictures depend on."""
        packages = ("dicebear-core", "dicebear-styles", "resvg-py")
        return {package: importlib.metadata.version(package) for package in packages}


@lru_cache
def _style(name: str) -> Any:
    """A style by name; checking its definition takes DiceBear a second or more."""
    try:
        import resvg_py  # noqa: F401
        from dicebear import Style

        folder = files("dicebear_styles")
    except ImportError:
        raise ToonError("Avatars are drawn by other packages: pip install 'stylegan_toon[avatars]'.") from None
    names = sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".json"))
    if name not in names:
        raise ToonError(f"There is no style {name!r}: choose from {', '.join(names)}.")
    return Style(json.loads((folder / f"{name}.json").read_text("utf-8")))

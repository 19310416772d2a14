"""A chart of likeness against cartoon: one dot with its name for each network."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from ..data.charts import COLOURS, INK, Frame, draw_axes
from ..errors import ToonError

FRAME = Frame(width=900, height=620, left=76, right=150, top=40, bottom=64)
DOT = 7


def chart(
    points: Mapping[str, tuple[float, float]], *, judge: str, lines: Mapping[str, str] | None = None
) -> Image.Image:
    """Identity (up) over the distance to the toon (right): the upper left is where one wants to be.

    Args:
        points: name -> (distance to the toon, identity).
        judge: name of the recogniser, for the axis.

    Raises:
        ToonError: no points.
    """
    if not points:
        raise ToonError("There is nothing to draw: name at least one network.")
    image = Image.new("RGB", (FRAME.width, FRAME.height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    across, up = (_padded(axis) for axis in zip(*points.values()))
    place = draw_axes(draw, FRAME, across, up, font, upright=True)
    draw.text((FRAME.left, 12), f"identity: cosine to the person by {judge}", fill=INK, font=font)
    draw.text(
        (FRAME.width - FRAME.right, FRAME.height - 14),
        "distance to the toon's pictures",
        fill=INK,
        font=font,
        anchor="rb",
    )
    taken: list[tuple[float, float, float, float]] = []
    for number, (name, point) in enumerate(sorted(points.items(), key=lambda item: -item[1][1])):
        x, y = place(*point)
        colour = COLOURS[number % len(COLOURS)]
        draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=colour)
        label = y
        box = _box(x, label, font.getlength(name))
        while any(_overlap(box, other) for other in taken):
            label += 4
            box = _box(x, label, font.getlength(name))
        taken.append(box)
        draw.text((x + DOT + 6, label), name, fill=colour, font=font, anchor="lm")
    return image


def _padded(values: tuple[float, ...]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _box(x: float, y: float, length: float) -> tuple[float, float, float, float]:
    return x + DOT, y - 8, x + DOT + 6 + length, y + 8


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

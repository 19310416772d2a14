"""A chart of likeness against cartoon: one dot with its name for each network."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from ..errors import ToonError
from ..training.curves import COLOURS, INK, RULE, ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 620, 76, 150, 40, 64
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
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    (x0, x1), (y0, y1) = (_padded(axis) for axis in zip(*points.values()))

    def place(x: float, y: float) -> tuple[float, float]:
        right, down = (x - x0) / (x1 - x0), (y1 - y) / (y1 - y0)
        return LEFT + right * (WIDTH - LEFT - RIGHT), TOP + down * (HEIGHT - TOP - BOTTOM)

    for y in ticks(y0, y1):
        draw.line([place(x0, y), place(x1, y)], fill=RULE)
        draw.text((LEFT - 8, place(x0, y)[1]), f"{y:.3g}", fill=INK, font=font, anchor="rm")
    for x in ticks(x0, x1):
        draw.line([place(x, y0), place(x, y1)], fill=RULE)
        draw.text((place(x, y0)[0], HEIGHT - BOTTOM + 8), f"{x:.3g}", fill=INK, font=font, anchor="ma")
    draw.text((LEFT, 12), f"identity: cosine to the person by {judge}", fill=INK, font=font)
    draw.text((WIDTH - RIGHT, HEIGHT - 14), "distance to the toon's pictures", fill=INK, font=font, anchor="rb")
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

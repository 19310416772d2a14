"""The numbers of a training as a picture, without a plotting library."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..data.images import save_image
from ..errors import ToonError

COLOURS = ["#2a6fbb", "#d1495b", "#3a8f5c", "#c28f2c", "#7a5195", "#5b6770"]
INK, RULE = "#28282e", "#d8dade"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 260, 56, 16, 44, 44


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a ``log.jsonl``, oldest first.

    Raises:
        ToonError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise ToonError(f"{path} is not the log of a training ({error}): give its log.jsonl.") from error


def draw_log(folder: Path, panels: Sequence[Sequence[str]]) -> None:
    """Write ``curves.png`` beside the ``log.jsonl`` of a training, if it has two lines or more; see `curves`."""
    log = folder / "log.jsonl"
    if log.exists() and len(rows := read_log(log)) > 1:
        save_image(curves(rows, panels), folder / "curves.png")


def curves(rows: Sequence[dict[str, float]], panels: Sequence[Sequence[str]]) -> Image.Image:
    """Numbers over thousands of pictures: a panel for each group of names, on one scale.

    Args:
        rows: each has ``kimg`` and any of the names; lines cross gaps.
        panels: up to six names each; a panel is left out if none of its names occurs.

    Raises:
        ToonError: none of the names occurs.
    """
    panels = [names for names in panels if any(name in row for name in names for row in rows)]
    if not panels:
        raise ToonError("There is nothing to draw yet: train a little longer.")
    columns = min(3, len(panels))
    sheet = Image.new("RGB", (columns * WIDTH, -(-len(panels) // columns) * HEIGHT), "white")
    for number, names in enumerate(panels):
        sheet.paste(_panel(rows, names), (number % columns * WIDTH, number // columns * HEIGHT))
    return sheet


def ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers from ``low`` to ``high``."""
    widest = (high - low) / 3 * (1 + 1e-9)  # a third may be rounded to just below a power of ten
    power = 10.0 ** math.floor(math.log10(widest))
    step = next((power * part for part in (5, 2) if power * part <= widest), power)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _panel(rows: Sequence[dict[str, float]], names: Sequence[str]) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    lines = {name: [(row["kimg"], row[name]) for row in rows if name in row] for name in names}
    points = [point for line in lines.values() for point in line]
    (x0, x1), (y0, y1) = ((min(axis), max(axis)) for axis in zip(*points))
    x1, y1 = (high if high > low else low + 1 for low, high in ((x0, x1), (y0, y1)))

    def place(x: float, y: float) -> tuple[float, float]:
        right, down = (x - x0) / (x1 - x0), (y1 - y) / (y1 - y0)
        return LEFT + right * (WIDTH - LEFT - RIGHT), TOP + down * (HEIGHT - TOP - BOTTOM)

    for y in ticks(y0, y1):
        draw.line([place(x0, y), place(x1, y)], fill=RULE)
        draw.text((LEFT - 6, place(x0, y)[1]), f"{y:.3g}", fill=INK, font=font, anchor="rm")
    for x in ticks(x0, x1):
        draw.text((place(x, y0)[0], HEIGHT - BOTTOM + 8), f"{x:.3g}", fill=INK, font=font, anchor="ma")
    draw.text((WIDTH - RIGHT, HEIGHT - 2), "kimg", fill=INK, font=font, anchor="rd")
    left = LEFT
    for name, colour in zip(names, COLOURS):
        if len(lines[name]) > 1:
            draw.line([place(*point) for point in lines[name]], fill=colour, width=2)
        if lines[name]:
            draw.text((left, 16), name, fill=colour, font=font)
            left += round(font.getlength(name)) + 14
    return image

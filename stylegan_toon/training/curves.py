"""The numbers of a training as a picture, without a plotting library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..data.charts import COLOURS, INK, Frame, draw_axes
from ..data.images import save_image
from ..errors import ToonError

FRAME = Frame(width=420, height=260, left=56, right=16, top=44, bottom=44)


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
    sheet = Image.new("RGB", (columns * FRAME.width, -(-len(panels) // columns) * FRAME.height), "white")
    for number, names in enumerate(panels):
        sheet.paste(_panel(rows, names), (number % columns * FRAME.width, number // columns * FRAME.height))
    return sheet


def _panel(rows: Sequence[dict[str, float]], names: Sequence[str]) -> Image.Image:
    image = Image.new("RGB", (FRAME.width, FRAME.height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    lines = {name: [(row["kimg"], row[name]) for row in rows if name in row] for name in names}
    points = [point for line in lines.values() for point in line]
    (x0, x1), (y0, y1) = ((min(axis), max(axis)) for axis in zip(*points))
    x1, y1 = (high if high > low else low + 1 for low, high in ((x0, x1), (y0, y1)))

    place = draw_axes(draw, FRAME, (x0, x1), (y0, y1), font, gap=6)
    draw.text((FRAME.width - FRAME.right, FRAME.height - 2), "kimg", fill=INK, font=font, anchor="rd")
    left = FRAME.left
    for name, colour in zip(names, COLOURS):
        if len(lines[name]) > 1:
            draw.line([place(*point) for point in lines[name]], fill=colour, width=2)
        if lines[name]:
            draw.text((left, 16), name, fill=colour, font=font)
            left += round(font.getlength(name)) + 14
    return image

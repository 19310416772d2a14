"""Axes of a chart, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import ImageDraw, ImageFont

COLOURS = ["#2a6fbb", "#d1495b", "#3a8f5c", "#c28f2c", "#7a5195", "#5b6770"]
INK, RULE = "#28282e", "#d8dade"


@dataclass(frozen=True)
class Frame:
    """A picture's size and the margins around its axes, in pixels."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


def draw_axes(
    draw: ImageDraw.ImageDraw, frame: Frame, x: tuple[float, float], y: tuple[float, float],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont, *, gap: int = 8, upright: bool = False,
) -> Callable[[float, float], tuple[float, float]]:  # fmt: skip
    """Draw rules and round numbers for two ranges (low, high), and return the function from values to pixels.

    Args:
        draw, frame: of the picture.
        x, y: what the axes reach from and to; low < high.
        font: of the numbers.
        gap: pixels between the numbers of y and their rules.
        upright: rules for the numbers of x, too.
    """
    (x0, x1), (y0, y1) = x, y

    def place(x: float, y: float) -> tuple[float, float]:
        right, down = (x - x0) / (x1 - x0), (y1 - y) / (y1 - y0)
        return (
            frame.left + right * (frame.width - frame.left - frame.right),
            frame.top + down * (frame.height - frame.top - frame.bottom),
        )

    for value in ticks(y0, y1):
        draw.line([place(x0, value), place(x1, value)], fill=RULE)
        draw.text((frame.left - gap, place(x0, value)[1]), f"{value:.3g}", fill=INK, font=font, anchor="rm")
    for value in ticks(x0, x1):
        if upright:
            draw.line([place(value, y0), place(value, y1)], fill=RULE)
        under = (place(value, y0)[0], frame.height - frame.bottom + 8)
        draw.text(under, f"{value:.3g}", fill=INK, font=font, anchor="ma")
    return place


def ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers from ``low`` to ``high``."""
    widest = (high - low) / 3 * (1 + 1e-9)  # a third may be rounded to just below a power of ten
    power = 10.0 ** math.floor(math.log10(widest))
    step = next((power * part for part in (5, 2) if power * part <= widest), power)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]

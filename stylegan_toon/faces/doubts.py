"""Faces of which no good cartoon can be expected: tiny, turned away, cut off, covered, or drawn already."""

from __future__ import annotations

from dataclasses import replace

from ..errors import ToonError
from .photo import Photo


def doubt(photo: Photo, index: int) -> str | None:
    return None


def without_doubtful(photo: Photo) -> tuple[Photo, list[str]]:
    return photo, []

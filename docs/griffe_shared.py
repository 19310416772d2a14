"""A Griffe extension: one description for several parameters.

Docstrings here may write ``base, toon: sources for load_network.`` for two parameters. Griffe expects one name in an
entry, so each name gets a copy of the description before the docstring is parsed.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SHARED = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:,\s+\w+)+): (?P<text>.*(?:\n(?P=indent) +\S.*)*)", re.MULTILINE)


def _apart(match: re.Match[str]) -> str:
    names = re.split(r",\s+", match["names"])
    return "\n".join(f"{match['indent']}{name}: {match['text']}" for name in names)


class SharedDescriptions(griffe.Extension):
    """Give every name of ``a, b: text`` an entry of its own."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = SHARED.sub(_apart, obj.docstring.value)

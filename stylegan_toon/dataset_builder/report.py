"""The report on a set: which pictures were left out and why, as a page and as a table."""

from __future__ import annotations

import base64
import csv
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..files import atomic_path
from .journal import Entry

SHOWN = 60  # thumbnails for each reason; the table has them all

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; color: #28282e; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td { padding: .15rem .8rem .15rem 0 } td.n { text-align: right }
.bar { background: #6d7fd1; height: .8rem; border-radius: 2px; min-width: 1px }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem }
figure { margin: 0; font-size: 12px; overflow-wrap: anywhere }
img { display: block; max-width: 6rem; border-radius: 4px }
figcaption span { color: #77777f }
"""


def write_report(
    page: Path, table: Path, title: str, kept: Sequence[tuple[Entry, str]], dropped: Sequence[Entry]
) -> None:
    """Write the report on a set.

    Args:
        page: a self-contained HTML file with thumbnails.
        table: CSV: source, kept as (empty if it was not), why, and the measures.
        title: name of the set.
        kept: with the name each has in the set.
        dropped: in order.
    """
    by_kind: dict[str, list[Entry]] = {}
    for entry in dropped:
        by_kind.setdefault(entry.kind, []).append(entry)
    counts = {"kept": len(kept), **{kind: len(entries) for kind, entries in by_kind.items()}}
    largest = max(1, *counts.values())
    rows = "\n".join(
        f'<tr><td>{escape(kind)}</td><td class="n">{count:,}</td>'
        f'<td style="width: 24rem"><div class="bar" style="width: {100 * count / largest:.1f}%"></div></td></tr>'
        for kind, count in counts.items()
    )
    sections = "\n".join(_section(kind, entries) for kind, entries in by_kind.items())
    with atomic_path(page) as temporary:
        temporary.write_text(
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>\n'
            f"<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n<table>\n{rows}\n</table>\n{sections}\n</html>\n",
            encoding="utf-8",
        )
    measures = sorted({key for entry in [*(entry for entry, _ in kept), *dropped] for key in entry.outcome.measures})
    with atomic_path(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "kept as", "why", *measures])
        for entry, name in [*kept, *((entry, "") for entry in dropped)]:
            numbers = [entry.outcome.measures.get(key, "") for key in measures]
            writer.writerow([_harmless(entry.name), name, _harmless(entry.outcome.why or ""), *numbers])


def _section(kind: str, entries: list[Entry]) -> str:
    more = f", the first {SHOWN} of them" if len(entries) > SHOWN else ""
    thumbnails = "\n".join(_figure(entry) for entry in entries[:SHOWN])
    return f'<h2>{escape(kind)} ({len(entries):,}{more})</h2>\n<div class="grid">\n{thumbnails}\n</div>'


def _figure(entry: Entry) -> str:
    outcome = entry.outcome
    thumbnail = base64.b64encode(outcome.thumbnail or b"").decode()
    image = f'<img alt="" src="data:image/jpeg;base64,{thumbnail}">' if thumbnail else ""
    measures = ", ".join(f"{key} {value}" for key, value in outcome.measures.items())
    detail = str(outcome.why).partition(": ")[2] or measures
    return f"<figure>{image}<figcaption>{escape(entry.name)}<br><span>{escape(detail)}</span></figcaption></figure>"


def _harmless(text: str) -> str:
    """The text, quoted if a spreadsheet would evaluate it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text

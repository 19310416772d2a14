"""A journal of finished items on disk, from which a long job that was killed continues."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ToonError
from ..files import atomic_path, explain_os_error, output_folder
from .recipe import Outcome

BLOCK = 32  # items between commits, the most that is lost when the process is killed


@dataclass(frozen=True)
class Entry:
    """One picture or face of the journal."""

    name: str  # of the source
    label: Any
    outcome: Outcome  # without data
    place: tuple[int, int]  # offset and size of the picture file, in bytes

    @property
    def kind(self) -> str:
        """The reason it was left out, in two words at most."""
        return str(self.outcome.why).partition(":")[0]


class Journal:
    """Outcomes of items in order, in a folder of its own: all pictures in one file, one line of JSON for each item.

    Pictures are on disk before the lines that refer to them, so that after a kill or a power cut every complete line
    is valid; anything after the last one is cut off.

    Args:
        folder: made if missing.
        plan: sources and options of the job; a journal with another plan is refused.
        replace: delete a journal with another plan and start again.

    Attributes:
        done: number of finished items.

    Raises:
        ToonError: the folder cannot be written, or has a journal with another plan.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], *, replace: bool = False) -> None:
        self.folder = folder
        plan = json.loads(json.dumps(plan))
        other = _differences(folder / "plan.json", plan)
        if other and not replace:
            raise ToonError(
                f"{folder} is an unfinished set begun with another {', '.join(other)}: give the same again to "
                "continue it, or --overwrite to start again."
            )
        if other:
            shutil.rmtree(folder, ignore_errors=True)
        output_folder(folder)
        try:
            with atomic_path(folder / "plan.json") as temporary:
                temporary.write_text(json.dumps(plan, indent=1), encoding="utf-8")
            self.done, end, lines_end = self._read_back()
            self._pictures = open(folder / "pictures.bin", "ab")  # noqa: SIM115 (closed in close)
            self._lines = open(folder / "journal.jsonl", "ab")  # noqa: SIM115
            self._pictures.truncate(end)
            self._lines.truncate(lines_end)
        except OSError as error:
            raise explain_os_error(error, folder) from error
        self._at = end
        self._waiting: list[bytes] = []

    def _read_back(self) -> tuple[int, int, int]:
        """Numbers of items, of bytes of pictures and of bytes of lines that are complete."""
        pictures, lines = self.folder / "pictures.bin", self.folder / "journal.jsonl"
        size = pictures.stat().st_size if pictures.exists() else 0
        done = end = lines_end = 0
        if lines.exists():
            with open(lines, "rb") as file:
                for line in file:
                    try:
                        record = json.loads(line) if line.endswith(b"\n") else None
                    except ValueError:
                        record = None
                    if record is None or record["end"] > size:
                        break
                    done, end, lines_end = done + 1, record["end"], lines_end + len(line)
        return done, end, lines_end

    def add(self, name: str, label: Any, outcomes: list[Outcome]) -> None:
        """Record the outcomes of the next item."""
        rows = []
        for outcome in outcomes:
            row = {**asdict(outcome), "at": self._at, "bytes": len(outcome.data or b"")}
            row["data"] = None
            row["thumbnail"] = outcome.thumbnail and base64.b64encode(outcome.thumbnail).decode()
            rows.append(row)
            try:
                self._pictures.write(outcome.data or b"")
            except OSError as error:
                raise explain_os_error(error, self.folder) from error
            self._at += row["bytes"]
        record = {"name": name, "label": label, "outcomes": rows, "end": self._at}
        self._waiting.append(json.dumps(record).encode() + b"\n")
        self.done += 1
        if len(self._waiting) >= BLOCK:
            self.commit()

    def commit(self) -> None:
        """Write everything that was added to disk."""
        try:
            for file, data in ((self._pictures, b""), (self._lines, b"".join(self._waiting))):
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise explain_os_error(error, self.folder) from error
        self._waiting = []

    def close(self) -> None:
        """Commit and close the files."""
        self.commit()
        self._pictures.close()
        self._lines.close()

    def entries(self) -> Iterator[Entry]:
        """Everything committed, in order."""
        with open(self.folder / "journal.jsonl", "rb") as file:
            for line in file:
                record = json.loads(line)
                for row in record["outcomes"]:
                    place = row.pop("at"), row.pop("bytes")
                    row["thumbnail"] = row["thumbnail"] and base64.b64decode(row["thumbnail"])
                    yield Entry(record["name"], record["label"], Outcome(**row), place)

    def picture(self, entry: Entry) -> bytes:
        """The bytes of a kept picture."""
        with open(self.folder / "pictures.bin", "rb") as file:
            file.seek(entry.place[0])
            return file.read(entry.place[1])

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _differences(plan_file: Path, plan: dict[str, Any]) -> list[str]:
    """Keys in which a plan on disk differs; none if there is no file."""
    if not plan_file.exists():
        return []
    try:
        before = json.loads(plan_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["plan"]
    return sorted(key for key in {*before, *plan} if before.get(key) != plan.get(key))

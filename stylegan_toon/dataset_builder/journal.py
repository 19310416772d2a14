"""The notebook of a long job: what was done is never done twice, wherever the job was killed."""

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
from .prepare import Outcome

BLOCK = 32  # items between commits: so many are lost by a kill, at most


@dataclass(frozen=True)
class Entry:
    """One picture or face of the journal: where it came from, what became of it, where its bytes lie."""

    name: str
    label: Any
    outcome: Outcome  # without data
    place: tuple[int, int]  # first byte, bytes

    @property
    def kind(self) -> str:
        """Why it was left out, in two words at most."""
        return str(self.outcome.why).partition(":")[0]


class Journal:
    """Outcomes of items in order, in a folder of its own: pictures end to end in one file, a line of JSON an item.

    Pictures are on disk before the lines that speak of them, so after a kill (or a power cut) every whole line is
    true, and what stands behind the last one is cut off.

    Args:
        folder: made if missing.
        plan: what is being done; a journal with another plan is refused.
        replace: begin anew where the plan is another.

    Attributes:
        done: items finished.

    Raises:
        ToonError: the folder cannot be written, or was begun with another plan.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], *, replace: bool = False) -> None:
        self.folder = folder
        plan = json.loads(json.dumps(plan))
        other = _differences(folder / "plan.json", plan)
        if other and not replace:
            raise ToonError(
                f"{folder} is an unfinished set begun with another {', '.join(other)}: give the same again to go "
                "on with it, or --overwrite to begin anew."
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
        """Items, bytes of pictures and bytes of lines that are safe."""
        pictures, lines = self.folder / "pictures.bin", self.folder / "journal.jsonl"
        there = pictures.stat().st_size if pictures.exists() else 0
        done = end = lines_end = 0
        if lines.exists():
            with open(lines, "rb") as file:
                for line in file:
                    try:
                        record = json.loads(line) if line.endswith(b"\n") else None
                    except ValueError:
                        record = None
                    if record is None or record["end"] > there:
                        break
                    done, end, lines_end = done + 1, record["end"], lines_end + len(line)
        return done, end, lines_end

    def add(self, name: str, label: Any, outcomes: list[Outcome]) -> None:
        """Write down what became of the next item."""
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
        """Make what was added safe from a kill."""
        try:
            for file, data in ((self._pictures, b""), (self._lines, b"".join(self._waiting))):
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise explain_os_error(error, self.folder) from error
        self._waiting = []

    def close(self) -> None:
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
        shutil.rmtree(self.folder, ignore_errors=True)


def _differences(plan_file: Path, plan: dict[str, Any]) -> list[str]:
    """Keys in which the plan on disk is another; none if there is none."""
    if not plan_file.exists():
        return []
    try:
        before = json.loads(plan_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["plan"]
    return sorted(key for key in {*before, *plan} if before.get(key) != plan.get(key))
